"""HTTP request parser with limits, based on httptools."""

from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import unquote

import httptools
from starlette.types import Scope

from services.gateway.http.errors import HTTPError
from services.gateway.http_server import rejections
from services.gateway.http_server.limits import Limits

_FIELD_BYTES = 4
"""Bytes of a header field besides its name and value: a colon, a space and a line end."""
_CHUNK_BYTES = 16
"""Bytes allowed for a chunk besides its data: its size and two line ends, with a margin."""
_PIECE_BYTES = 4_096
"""Bytes passed to httptools at a time where a request may end. The next request in the same piece is parsed early."""
_BODY_PIECE_BYTES = 65_536
_PATH_BYTES_MAX = 1_024
"""Bytes of a URL from which the path of a rejected request is read. httptools parses none above 65,535 bytes."""
_LENGTH_DIGITS_MAX = 19
"""Maximum digits of a content-length. Python refuses to convert numbers with thousands of digits."""
_DECIDING = frozenset({b"content-length", b"transfer-encoding", b"expect", b"host"})
_ONCE = frozenset({b"transfer-encoding", b"host"})
"""Header fields that may occur only once: servers disagree on which of two applies (RFC 9112, 3.2 and 6.1)."""


class Receiver(Protocol):
    """Receives the parts of requests as they are parsed."""

    def on_head(self, scope: Scope, *, keep_alive: bool, expects_continue: bool) -> None:
        """Handle a complete head."""

    def on_body_part(self, part: bytes) -> None:
        """Handle a part of the body."""

    def on_end(self) -> None:
        """Handle the end of the request."""


class Rejected(Exception):
    """The input is not a valid request, or exceeds a limit.

    Attributes:
        error: Error to respond with.
    """

    def __init__(self, error: HTTPError) -> None:
        super().__init__(error.message)
        self.error = error


_REQUEST_ERRORS = (Rejected, UnicodeDecodeError, httptools.HttpParserError)
"""Exceptions that callbacks raise for an invalid request. Any other exception is a bug."""


class RequestParser:
    """Parses the requests of one connection.

    Bytes are counted before httptools receives them, so that neither an endless header nor chunk extensions can
    accumulate. `Upgrade` headers are ignored (RFC 9110, 7.8). llhttp stops at them and expects another protocol, so the
    head is parsed again without them.

    Attributes:
        is_in_head: Whether the next bytes belong to a head.
    """

    def __init__(self, receiver: Receiver, limits: Limits, make_scope: Callable[[], Scope]) -> None:
        """Create a parser.

        Args:
            receiver: Receives the parsed requests.
            limits: Limits of the server.
            make_scope: Returns a new ASGI scope with the values common to all requests of the connection.
        """
        self._receiver = receiver
        self._limits = limits
        self._make_scope = make_scope
        self._parser = self._new_parser()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._deciding: dict[bytes, bytes] = {}
        self._error: HTTPError | None = None
        self._is_upgrade = False
        self._has_ended = False
        self._head_bytes = 0
        self._buffer = bytearray()
        self._extra_bytes = 0
        self._fields = 0
        self._body_left = 0
        self.is_in_head = True

    @property
    def is_between(self) -> bool:
        """Whether no byte has been read since the end of the last request."""
        return self.is_in_head and not self._head_bytes

    @property
    def body_left(self) -> int | None:
        """Bytes of the body that have not arrived; None if the body is chunked, so that its length is unknown."""
        return None if b"transfer-encoding" in self._deciding else self._body_left

    def partial_scope(self) -> Scope:
        """Return the method, the path and the headers of the request in progress, as far as they have been read."""
        try:
            path, _, _ = self._target(self._url[:_PATH_BYTES_MAX])
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
            path = ""
        method = self._parser.get_method().decode("ascii") if self._url else ""
        return {"type": "http", "method": method, "path": path, "headers": self._headers}

    def feed(self, data: bytes, may_continue: Callable[[], bool]) -> bytes:
        """Parse `data` while `may_continue` returns true, and return the rest.

        Raises:
            Rejected: The input is invalid or exceeds a limit.
        """
        if self._head_bytes and self.is_in_head:
            data = self._buffered(data)
        if len(data) <= _PIECE_BYTES:
            self._feed(data)
            return b""
        view, start = memoryview(data), 0
        while start < len(data) and may_continue():
            end = start + self._piece()
            self._feed(view[start:end])
            start = end
        return data[start:]

    def _buffered(self, data: bytes) -> bytes:
        """Buffer the small parts of a head and return what to parse now: httptools copies a field for each part."""
        self._buffer += data
        if b"\n" not in data and len(self._buffer) < _PIECE_BYTES:
            self._count_head(0)
            return b""
        buffered = bytes(self._buffer)
        self._buffer.clear()
        return buffered

    def _piece(self) -> int:
        if self.is_in_head or self._body_left <= _PIECE_BYTES:
            return _PIECE_BYTES
        return min(self._body_left, _BODY_PIECE_BYTES)

    def _feed(self, data: Any) -> None:
        """Parse one piece of input, which may contain several requests with `Upgrade` headers."""
        self._has_ended = False
        pieces = [data]
        while pieces:
            piece = pieces.pop()
            try:
                self._parser.feed_data(piece)
            except httptools.HttpParserUpgrade as exc:
                pieces += [piece[exc.args[0] :], self._head_without_upgrade()]
                self._parser = self._new_parser()
            except httptools.HttpParserError as exc:
                if isinstance(exc, httptools.HttpParserCallbackError) and not isinstance(
                    exc.__context__, _REQUEST_ERRORS
                ):
                    raise
                raise Rejected(self._error or rejections.MALFORMED) from exc
        if self.is_in_head:
            if not self._has_ended:
                self._count_head(len(data))
        elif b"transfer-encoding" in self._deciding:
            self._count_extra(len(data))

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        # A piece may start with the end of the previous request.
        if self._head_bytes + len(self._buffer) > self._limits.head_bytes_max + _PIECE_BYTES:
            raise Rejected(self._too_large())

    def _count_extra(self, size: int) -> None:
        """Count the bytes of a chunked body besides its data: extensions and trailers, which are read and discarded."""
        self._extra_bytes = max(0, self._extra_bytes + size)
        if self._extra_bytes > self._limits.head_bytes_max:
            raise Rejected(rejections.TRAILERS_TOO_LARGE)

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # Requests after one with `connection: close` are discarded without an error.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _head_without_upgrade(self) -> bytes:
        """Return the last head without its `Upgrade` header."""
        self._is_upgrade = False
        fields = [b"%b: %b\r\n" % field for field in self._headers if field[0] != b"upgrade"]
        version = self._parser.get_http_version().encode()
        return b"%b %b HTTP/%b\r\n%b\r\n" % (self._parser.get_method(), self._url, version, b"".join(fields))

    def close(self) -> None:
        """Release httptools' parser to break the reference cycle. Nothing can be parsed after that."""
        self._parser = None  # type: ignore[assignment]

    # Callbacks of httptools. `feed_data` replaces the exceptions that they raise by its own.

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []
        self._deciding = {}
        self._has_ended = False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.is_in_head:
            self._fields += 1
            self._check(self._fields <= self._limits.fields_max, rejections.TRAILERS_TOO_LARGE)
            return
        name = name.lower()
        self._headers.append((name, value))
        if name in _DECIDING:
            self._check(not (name in _ONCE and name in self._deciding), rejections.MALFORMED)
            self._deciding[name] = value

    def on_headers_complete(self) -> None:
        parser = self._parser
        method = parser.get_method()
        if parser.should_upgrade():
            self._check(method != b"CONNECT", rejections.CONNECT)
            self._is_upgrade = True
            return
        self._check_head()
        scope = self._make_scope()
        scope["method"] = method.decode("ascii")
        scope["headers"] = self._headers
        version = parser.get_http_version()
        if version == "1.1":
            self._check(b"host" in self._deciding, rejections.HOST)
        else:
            self._check_version(version)
            scope["http_version"] = version
        coding = self._deciding.get(b"transfer-encoding")
        self._check(coding is None or coding.strip().lower() == b"chunked", rejections.TRANSFER_CODING)
        scope["path"], scope["raw_path"], scope["query_string"] = self._target(self._url)
        self._head_bytes = self._fields = self._extra_bytes = 0
        self.is_in_head = False
        self._body_left = int(self._deciding.get(b"content-length") or 0)
        expects_continue = self._deciding.get(b"expect", b"").lower() == b"100-continue"
        self._receiver.on_head(scope, keep_alive=parser.should_keep_alive(), expects_continue=expects_continue)

    def on_chunk_header(self) -> None:
        self._extra_bytes -= _CHUNK_BYTES

    def on_body(self, body: bytes) -> None:
        self._body_left -= len(body)
        # A body of one-byte chunks is slow but valid, so each byte of data offsets one byte of overhead.
        self._extra_bytes -= len(body)
        self._receiver.on_body_part(body)

    def on_message_complete(self) -> None:
        if self._is_upgrade:
            return
        self.is_in_head = self._has_ended = True
        self._head_bytes = 0
        # If the next input is not valid HTTP, it is not part of this request.
        self._url, self._headers = b"", []
        self._receiver.on_end()

    def _check_head(self) -> None:
        """Check a complete head against the limits. A head that arrived in few bytes need not be measured."""
        self._check(len(self._headers) <= self._limits.fields_max, rejections.HEAD_TOO_LARGE)
        if self._head_bytes + _PIECE_BYTES > self._limits.head_bytes_max:
            size = len(self._url) + sum(len(name) + len(value) + _FIELD_BYTES for name, value in self._headers)
            self._check(size <= self._limits.head_bytes_max, self._too_large())
        self._check(len(self._deciding.get(b"content-length", b"")) <= _LENGTH_DIGITS_MAX, rejections.MALFORMED)

    def _check_version(self, version: str) -> None:
        self._check(version == "1.0", rejections.VERSION)
        # RFC 9112, 6.1: a `transfer-encoding` in an HTTP/1.0 message means that its framing is faulty.
        self._check(b"transfer-encoding" not in self._deciding, rejections.MALFORMED)

    def _target(self, raw: bytes) -> tuple[str, bytes, bytes]:
        """Return the path of a request's URL, decoded and as it was sent, and the query.

        Raises:
            HttpParserInvalidURLError: The URL is not valid.
            UnicodeDecodeError: The URL is not ASCII.
        """
        url, _, query = raw.partition(b"#")[0].partition(b"?")
        target = url if url.startswith(b"/") else httptools.parse_url(url).path or b"/"
        path = target.decode("ascii")
        return (unquote(path) if "%" in path else path), target, query

    def _too_large(self) -> HTTPError:
        is_target = len(self._url) > self._limits.head_bytes_max // 2
        return rejections.TARGET_TOO_LONG if is_target else rejections.HEAD_TOO_LARGE

    def _check(self, is_valid: bool, error: HTTPError) -> None:
        if not is_valid:
            self._error = error
            raise Rejected(error)
