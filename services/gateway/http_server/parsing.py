"""Requests as httptools reads them, within limits: heads become ASGI scopes, bodies pass through."""

from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import unquote

import httptools
from starlette.types import Scope

from services.gateway.http.errors import HTTPError
from services.gateway.http_server import rejections
from services.gateway.http_server.limits import Limits

_FIELD_BYTES = 4
"""Of a header field on the wire beside its name and value: a colon, a blank and a line's end."""
_CHUNK_BYTES = 16
"""Of a chunk on the wire beside its data: its size and two lines' ends, with room."""
_PIECE_BYTES = 4_096
"""Fed at once where a request may end: what is behind it in the same piece is parsed before its turn."""
_BODY_PIECE_BYTES = 65_536
_LENGTH_DIGITS_MAX = 19
"""Digits of a content-length; a longer one counts no bytes, and Python refuses to read thousands of digits at all."""
_DECIDING = frozenset({b"content-length", b"transfer-encoding", b"expect", b"host"})
_ONCE = frozenset({b"transfer-encoding", b"host"})
"""What a request with two of is refused for: servers disagree on which counts (RFC 9112, 3.2 and 6.1)."""


class Receiver(Protocol):
    """What is told of a request as it is read."""

    def on_head(self, scope: Scope, *, keep_alive: bool, expects_continue: bool) -> None:
        """A head is complete."""

    def on_body_part(self, part: bytes) -> None:
        """A part of its body has arrived."""

    def on_end(self) -> None:
        """The request is complete."""


class Rejected(Exception):
    """What was read is no request that can be answered.

    Attributes:
        error: What to answer.
    """

    def __init__(self, error: HTTPError) -> None:
        super().__init__(error.message)
        self.error = error


_FAULTS = (Rejected, UnicodeDecodeError, httptools.HttpParserError)
"""What a callback raises about a request; anything else is a defect of ours."""


class RequestParser:
    """Parses one connection's requests, one after the other.

    Bytes are counted before the parser gets them, so that neither a header without an end nor a chunk extension can
    gather anywhere. An offer to upgrade is ignored (RFC 9110, 7.8): llhttp stops at it and takes the rest for another
    protocol, so the head is parsed once more without it.

    Attributes:
        is_in_head: The next bytes belong to a head.
    """

    def __init__(self, receiver: Receiver, limits: Limits, make_scope: Callable[[], Scope]) -> None:
        """Tell `receiver` of requests; `make_scope` returns what their scopes have in common."""
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
        self._kept = bytearray()
        self._extra_bytes = 0
        self._fields = 0
        self._body_left = 0
        self.is_in_head = True

    @property
    def is_between(self) -> bool:
        """Whether nothing of a request has been read since the last one's end."""
        return self.is_in_head and not self._head_bytes

    @property
    def body_left(self) -> int | None:
        """Bytes of the body that have not arrived; None when only its end will tell."""
        return None if b"transfer-encoding" in self._deciding else self._body_left

    @property
    def origin(self) -> str:
        """The origin of the page that asks, as far as the head was read; empty for none."""
        return next((value.decode("latin-1") for name, value in self._headers if name == b"origin"), "")

    def feed(self, data: bytes, may_go_on: Callable[[], bool]) -> bytes:
        """Parse `data` for as long as `may_go_on`; return what was not parsed.

        Raises:
            Rejected: It cannot be understood, or is over a limit.
        """
        if self._head_bytes and self.is_in_head:
            data = self._gathered(data)
        if len(data) <= _PIECE_BYTES:
            self._feed(data)
            return b""
        view, start = memoryview(data), 0
        while start < len(data) and may_go_on():
            end = start + self._piece()
            self._feed(view[start:end])
            start = end
        return data[start:]

    def _gathered(self, data: bytes) -> bytes:
        """Return what to parse now of a head that comes in crumbs: httptools copies a field for each one of them."""
        self._kept += data
        if b"\n" not in data and len(self._kept) < _PIECE_BYTES:
            self._count_head(0)
            return b""
        gathered = bytes(self._kept)
        self._kept.clear()
        return gathered

    def _piece(self) -> int:
        if self.is_in_head or self._body_left <= _PIECE_BYTES:
            return _PIECE_BYTES
        return min(self._body_left, _BODY_PIECE_BYTES)

    def _feed(self, data: Any) -> None:
        """Parse one piece, however many offers to upgrade are in it."""
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
                if isinstance(exc, httptools.HttpParserCallbackError) and not isinstance(exc.__context__, _FAULTS):
                    raise
                raise Rejected(self._error or rejections.MALFORMED) from exc
        if self.is_in_head:
            if not self._has_ended:
                self._count_head(len(data))
        elif b"transfer-encoding" in self._deciding:
            self._count_extra(len(data))

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        # A piece may begin with another request's end.
        if self._head_bytes + len(self._kept) > self._limits.head_bytes_max + _PIECE_BYTES:
            raise Rejected(self._too_large())

    def _count_extra(self, size: int) -> None:
        """Count what a chunked body has beside its data: extensions and trailers are read and dropped."""
        self._extra_bytes = max(0, self._extra_bytes + size)
        if self._extra_bytes > self._limits.head_bytes_max:
            raise Rejected(rejections.TRAILERS_TOO_LARGE)

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # Requests behind one with `connection: close` are dropped and are no error.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _head_without_upgrade(self) -> bytes:
        """Return the head that was just read, without its offer to upgrade."""
        self._is_upgrade = False
        fields = [b"%b: %b\r\n" % field for field in self._headers if field[0] != b"upgrade"]
        version = self._parser.get_http_version().encode()
        return b"%b %b HTTP/%b\r\n%b\r\n" % (self._parser.get_method(), self._url, version, b"".join(fields))

    def close(self) -> None:
        """Let go of httptools' parser, which holds this one: nothing more is parsed."""
        self._parser = None  # type: ignore[assignment]

    # httptools' callbacks. What they raise comes out of `feed_data` as another error.

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
        self._set_target(scope)
        self._head_bytes = self._fields = self._extra_bytes = 0
        self.is_in_head = False
        self._body_left = int(self._deciding.get(b"content-length") or 0)
        expects_continue = self._deciding.get(b"expect", b"").lower() == b"100-continue"
        self._receiver.on_head(scope, keep_alive=parser.should_keep_alive(), expects_continue=expects_continue)

    def on_chunk_header(self) -> None:
        self._extra_bytes -= _CHUNK_BYTES

    def on_body(self, body: bytes) -> None:
        self._body_left -= len(body)
        # Each byte may come in a chunk of its own; so many small chunks are slow, and no fault.
        self._extra_bytes -= len(body)
        self._receiver.on_body_part(body)

    def on_message_complete(self) -> None:
        if self._is_upgrade:
            return
        self.is_in_head = self._has_ended = True
        self._head_bytes = 0
        self._receiver.on_end()

    def _check_head(self) -> None:
        """Hold a complete head against the limits: of one that came in few bytes nothing needs to be counted."""
        self._check(len(self._headers) <= self._limits.fields_max, rejections.HEAD_TOO_LARGE)
        if self._head_bytes + _PIECE_BYTES > self._limits.head_bytes_max:
            size = len(self._url) + sum(len(name) + len(value) + _FIELD_BYTES for name, value in self._headers)
            self._check(size <= self._limits.head_bytes_max, self._too_large())
        self._check(len(self._deciding.get(b"content-length", b"")) <= _LENGTH_DIGITS_MAX, rejections.MALFORMED)

    def _check_version(self, version: str) -> None:
        self._check(version == "1.0", rejections.VERSION)
        # RFC 9112, 6.1: framing that HTTP/1.0 does not know is faulty.
        self._check(b"transfer-encoding" not in self._deciding, rejections.MALFORMED)

    def _set_target(self, scope: Scope) -> None:
        if self._url.startswith(b"/"):
            target, _, query = self._url.partition(b"#")[0].partition(b"?")
        else:
            parsed = httptools.parse_url(self._url)
            target, query = parsed.path or b"/", parsed.query or b""
        path = target.decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"], scope["query_string"] = target, query

    def _too_large(self) -> HTTPError:
        is_target = len(self._url) > self._limits.head_bytes_max // 2
        return rejections.TARGET_TOO_LONG if is_target else rejections.HEAD_TOO_LARGE

    def _check(self, is_good: bool, error: HTTPError) -> None:
        if not is_good:
            self._error = error
            raise Rejected(error)
