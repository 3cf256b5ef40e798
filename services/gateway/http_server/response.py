"""Encoding of HTTP responses."""

from collections.abc import Iterable
from enum import Enum
from http import HTTPStatus

RawHeaders = Iterable[tuple[bytes, bytes]]
"""Pairs of lower-case names and values."""


class Framing(Enum):
    """How the end of a body is determined (RFC 9112, 6.3)."""

    NONE = "none"
    """No body, for HEAD, 204 and 304."""
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"
    """The body ends when the connection closes. For HTTP/1.0 clients, which do not support chunks."""


def _status_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode()


_PHRASES = {int(status): status.phrase for status in HTTPStatus}
_STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}


def encode_head(status: int, headers: RawHeaders, *, date: bytes) -> bytes:
    """Return the head of a response.

    Args:
        status: The status code.
        headers: The header fields.
        date: The `date` header line, with its line end; may be empty.

    Raises:
        ValueError: A header contains a line break or NUL, with which it could inject other headers or a body.
    """
    lines = [_STATUS_LINES[status], date]
    lines += [b"%b: %b\r\n" % field for field in headers]
    lines.append(b"\r\n")
    head = b"".join(lines)
    expected = len(lines) - (not date)
    if head.count(b"\n") != expected or head.count(b"\r") != expected or b"\0" in head:
        raise ValueError("a response header contains a line break or NUL")
    return head


def chunk(body: bytes, is_last: bool) -> bytes:
    """Return an encoded part of a chunked body. An empty part is not sent as a chunk, since that would end the body."""
    framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return framed + b"0\r\n\r\n" if is_last else framed
