"""Responses on the wire: their head, and how their body is framed."""

from collections.abc import Iterable
from enum import Enum
from http import HTTPStatus

RawHeaders = Iterable[tuple[bytes, bytes]]
"""Names in lower case, and values."""


class Framing(Enum):
    """How a client knows where a body ends (RFC 9112, 6.3)."""

    NONE = "none"
    """There is no body: HEAD, 204 and 304."""
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"
    """The connection ends with it: clients of HTTP/1.0 know no chunks."""


def _status_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode()


_PHRASES = {int(status): status.phrase for status in HTTPStatus}
_STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}


def encode_head(status: int, headers: RawHeaders, *, date: bytes) -> bytes:
    """Return the head of a response.

    Args:
        status: Its status.
        headers: Its header fields.
        date: The header line of the date, with its end; may be empty.

    Raises:
        ValueError: A header holds what would end it: the rest would be read as another header, or as a body.
    """
    lines = [_STATUS_LINES[status], date]
    lines += [b"%b: %b\r\n" % field for field in headers]
    lines.append(b"\r\n")
    head = b"".join(lines)
    expected = len(lines) - (not date)
    if head.count(b"\n") != expected or head.count(b"\r") != expected or b"\0" in head:
        raise ValueError("a response header holds a line break or NUL")
    return head


def chunk(body: bytes, is_last: bool) -> bytes:
    """Return a part of a chunked body; an empty part is no chunk, since that would end the body."""
    framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return framed + b"0\r\n\r\n" if is_last else framed
