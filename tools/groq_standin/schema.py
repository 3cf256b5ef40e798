"""Building blocks of Groq's validation, with Groq's error messages.

The messages for numbers, null, and missing and unknown properties are recorded from Groq. Those for ranges, booleans,
arrays and objects follow the same pattern, without a record.
"""

from collections.abc import Callable, Collection, Mapping

Check = Callable[[str, object], None]
"""Validates the value at a path. Raises `Violation` if the value is invalid."""


class Violation(Exception):
    """A value violates a rule. `path` is empty for the request itself."""

    def __init__(self, path: str, complaint: str) -> None:
        super().__init__(f"'{path}' : {complaint}" if path else complaint)


def number(low: float, high: float) -> Check:
    """Return a check for a number from `low` to `high`, both inclusive."""

    def check(path: str, value: object) -> None:
        _refuse_null(path, value)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise Violation(path, "value must be a number")
        _check_range(path, value, low, high)

    return check


def integer(low: int | None = None, high: int | None = None) -> Check:
    """Return a check for an integer from `low` to `high`, both inclusive. None means no bound."""

    def check(path: str, value: object) -> None:
        _refuse_null(path, value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise Violation(path, "value must be an integer")
        _check_range(path, value, low, high)

    return check


def string(path: str, value: object) -> None:
    """Check for a string."""
    _check_type(path, value, str, "a string")


def boolean(path: str, value: object) -> None:
    """Check for true or false."""
    _check_type(path, value, bool, "a boolean")


def mapping(path: str, value: object) -> None:
    """Check for an object with any members."""
    _check_type(path, value, dict, "an object")


def anything(path: str, value: object) -> None:
    """Accept every value."""


def one_of(*allowed: str) -> Check:
    """Return a check for an enumeration of strings."""

    def check(path: str, value: object) -> None:
        _refuse_null(path, value)
        if value not in allowed:
            raise Violation(path, f"value is not one of the allowed values {list(allowed)}")

    return check


def nullable(check: Check) -> Check:
    """Return a check that accepts null in addition to `check`."""
    return lambda path, value: None if value is None else check(path, value)


def array_of(check: Check, *, at_least: int = 0, at_most: int | None = None) -> Check:
    """Return a check for an array whose items pass `check`."""

    def check_array(path: str, value: object) -> None:
        _refuse_null(path, value)
        if not isinstance(value, list):
            raise Violation(path, "value must be an array")
        if len(value) < at_least:
            raise Violation(path, f"minimum number of items is {at_least}")
        if at_most is not None and len(value) > at_most:
            raise Violation(path, f"maximum number of items is {at_most}")
        for index, item in enumerate(value):
            check(f"{path}.{index}", item)

    return check_array


def record(fields: Mapping[str, Check], required: Collection[str] = ()) -> Check:
    """Return a check for an object that rejects members not in `fields`."""

    def check(path: str, value: object) -> None:
        _refuse_null(path, value)
        if not isinstance(value, dict):
            raise Violation(path, "value must be an object")
        check_members(path, value, fields, required)

    return check


def check_members(path: str, value: dict[str, object], fields: Mapping[str, Check], required: Collection[str]) -> None:
    """Check the members of an object: first unknown ones, then missing ones, then each value."""
    for name in value:
        if name not in fields:
            raise Violation(path, _unsupported(name, fields))
    for name in required:
        if name not in value:
            raise Violation(_join(path, name), f"property '{name}' is missing")
    for name, member in value.items():
        fields[name](_join(path, name), member)


def _unsupported(name: str, known: Collection[str]) -> str:
    # Groq suggests similar names ("'store' is unsupported, did you mean 'stop'?"), but not 'reasoning_effort' for
    # 'reasoning'. A maximum edit distance of two explains all recorded messages.
    text = f"property '{name}' is unsupported"
    near = [candidate for candidate in known if len(name) > 3 and _distance(name, candidate) <= 2]
    return f"{text}, did you mean '{near[0]}'?" if near else text


def _distance(left: str, right: str) -> int:
    if abs(len(left) - len(right)) > 2:
        return 3
    row = list(range(len(right) + 1))
    for line, email in enumerate(left, 1):
        above, row = row, [line]
        for column, other in enumerate(right, 1):
            row.append(min(row[-1] + 1, above[column] + 1, above[column - 1] + (email != other)))
    return row[-1]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _refuse_null(path: str, value: object) -> None:
    if value is None:
        raise Violation(path, "Value is not nullable")


def _check_type(path: str, value: object, kind: type, name: str) -> None:
    _refuse_null(path, value)
    if not isinstance(value, kind):
        raise Violation(path, f"value must be {name}")


def _check_range(path: str, value: float, low: float | None, high: float | None) -> None:
    if low is not None and value < low:
        raise Violation(path, f"number must be at least {low}")
    if high is not None and value > high:
        raise Violation(path, f"number must be at most {high}")
