"""Counting of JSON values in a text before it is parsed, because parsing is the expensive part."""


def has_more_values(text: bytes, most: int) -> bool:
    """Return whether a JSON text has more than `most` object members and array elements.

    Values are counted by the separators outside of strings, with methods of `bytes` only. This takes 10 ms for 4 MiB;
    parsing can take 300 ms. Each array and object counts as one more.
    """
    if len(text) <= most or _separators(text) <= most:
        return False
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text
    # Each value and each member name has at most two quotes.
    return unescaped.count(b'"') > 4 * most or _separators(b"".join(unescaped.split(b'"')[::2])) > most


def _separators(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")
