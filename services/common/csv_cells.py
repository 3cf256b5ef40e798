"""Text in CSV files that people open with a spreadsheet."""

_FORMULA_STARTS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
"""Also the full-width forms of the first four, which spreadsheets read as them."""


def escaped(text: str) -> str:
    """Return text that no spreadsheet runs as a formula: with an apostrophe in front, if it begins like one."""
    return f"'{text}" if text[:1] in _FORMULA_STARTS and text else text
