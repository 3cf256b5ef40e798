"""The ASGI request-response cycle."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from starlette.types import ASGIApp, Message, Scope

from services.gateway.http.errors import HTTPError, internal_error
from services.gateway.http_server.response import Framing, chunk, encode_head
from services.gateway.http_server.write_flow import ClientStalled, WriteFlow

ON_DISCONNECT = "stack.on_disconnect"
"""ASGI scope key of a function that sets what is called once when the client disconnects before the response is
complete: a callback without arguments, or None. It costs less than a task that waits for `http.disconnect`."""

_log = logging.getLogger(__name__)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_FINAL_BYTES_MAX = 65_536
"""Maximum size of the end of a response that may still be written to a stalled client."""


class Connection(Protocol):
    """The connection of a cycle."""

    flow: WriteFlow

    @property
    def date(self) -> bytes:
        """The `date` header line."""

    def resume_reading(self) -> None:
        """Resume reading after the buffered body has been consumed."""

    def will_drain(self, cycle: "RequestCycle") -> bool:
        """Return whether the rest of the request's body will be read and discarded, to keep the connection open."""

    def on_response_complete(self, cycle: "RequestCycle") -> None:
        """Continue with the next request, or close."""

    def fail(self, error: HTTPError) -> None:
        """Respond to the current request with an error, and close."""

    def abort(self) -> None:
        """Close the connection immediately."""


class RequestCycle:
    """A request with a complete head, until the end of its response.

    Attributes:
        kept_bytes: Bytes of the body that the application has not received yet.
        is_request_complete: Whether the whole body has arrived.
        is_response_complete: Whether the whole response has been written.
        has_started: Whether a part of the response has been written.
    """

    __slots__ = (
        "_app",
        "_body",
        "_changed",
        "_connection",
        "_expects_continue",
        "_framing",
        "_head",
        "_is_chunked",
        "_is_delivered",
        "_is_disconnected",
        "_is_http_1_0",
        "_left",
        "_on_disconnect",
        "_started",
        "is_request_complete",
        "is_response_complete",
        "keep_alive",
        "kept_bytes",
        "scope",
    )

    def __init__(
        self, scope: Scope, app: ASGIApp, connection: Connection, *, keep_alive: bool, expects_continue: bool
    ) -> None:
        self.scope = scope
        self._on_disconnect: Callable[[], None] | None = None
        self._app = app
        self._connection = connection
        self.keep_alive = keep_alive
        self._is_http_1_0 = scope["http_version"] == "1.0"
        self._expects_continue = expects_continue
        self._body: list[bytes] = []
        self.kept_bytes = 0
        self._changed: asyncio.Event | None = None
        self._head = b""
        self._framing = Framing.NONE
        self._is_chunked = False
        self._left = 0
        self._started = False
        self._is_delivered = False
        self._is_disconnected = False
        self.is_request_complete = False
        self.is_response_complete = False

    # Called by the connection.

    def add_body(self, part: bytes) -> None:
        """Buffer a part of the request's body, unless the response is complete or the client has disconnected."""
        if not (self._is_disconnected or self.is_response_complete):
            self._body.append(part)
            self.kept_bytes += len(part)
            self._wake()

    def complete_request(self) -> None:
        """Mark the request as complete."""
        self.is_request_complete = True
        self._expects_continue = False
        self._wake()

    def disconnect(self) -> None:
        """Mark the client as disconnected. Nothing more is written."""
        self._is_disconnected = True
        self._forget_body()
        self._wake()
        self._set_on_disconnect(self._on_disconnect)

    @property
    def has_started(self) -> bool:
        """Whether a part of the response has been written."""
        return self._started and not self._head

    async def run(self) -> None:
        """Run the application, unless the client has already disconnected."""
        if self._is_disconnected:
            return
        self.scope[ON_DISCONNECT] = self._set_on_disconnect
        try:
            await self._app(self.scope, self.receive, self.send)
        except ClientStalled:
            self._connection.abort()
        except BaseException as exc:
            if not isinstance(exc, asyncio.CancelledError):
                _log.exception("Unhandled exception in the application")
            self._fail()
            if not isinstance(exc, Exception):
                raise
        else:
            if not (self.is_response_complete or self._is_disconnected):
                _log.error("The application did not complete its response")
                self._fail()
        finally:
            del self.scope[ON_DISCONNECT]  # Break the reference cycle.

    def _set_on_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Set the callback, or call it now if the client has already disconnected."""
        self._on_disconnect = callback
        if callback is not None and self._is_disconnected and not self.is_response_complete:
            self._on_disconnect = None
            callback()

    # ASGI.

    async def receive(self) -> Message:
        """Return the next part of the body, or `http.disconnect` after a disconnect or the end of the response."""
        if self._expects_continue and not (self._started or self._is_disconnected or self._body):
            self._expects_continue = False
            self._connection.flow.write(_CONTINUE)
        while not (self._is_disconnected or self.is_response_complete):
            if self._body or (self.is_request_complete and not self._is_delivered):
                return self._next_part()
            self._connection.resume_reading()
            if self._changed is None:
                self._changed = asyncio.Event()
            self._changed.clear()
            await self._changed.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Write a part of the response.

        Raises:
            ClientStalled: The client is connected but reads nothing. The end of the response may still be sent.
        """
        flow = self._connection.flow
        if flow.is_paused and not self._is_disconnected:
            await self._wait_for_space(flow, message)
        if self._is_disconnected:
            return
        if not self._started:
            self._start(message)
        elif self.is_response_complete:
            raise RuntimeError(f"{message['type']!r} was sent after the response was complete")
        else:
            self._write(message)

    async def _wait_for_space(self, flow: WriteFlow, message: Message) -> None:
        is_end = not message.get("more_body", False) and len(message.get("body", b"")) <= _FINAL_BYTES_MAX
        if flow.is_stalled and is_end:
            self.keep_alive = False
            return
        await flow.drain()

    def _next_part(self) -> Message:
        body = b"".join(self._body)
        self._forget_body()
        self._is_delivered = self.is_request_complete
        self._connection.resume_reading()
        return {"type": "http.request", "body": body, "more_body": not self.is_request_complete}

    def _start(self, message: Message) -> None:
        """Encode the head, which is written together with the first part of the body."""
        if message["type"] != "http.response.start":
            raise RuntimeError(f"{message['type']!r} was sent before the response was started")
        status, headers = message["status"], list(message.get("headers", ()))
        self._framing = self._choose_framing(status, headers)
        self._is_chunked = self._framing is Framing.CHUNKED
        if not self.is_request_complete and (self._expects_continue or not self._connection.will_drain(self)):
            self.keep_alive = False
        self._set_framing_headers(headers)
        self._head = encode_head(status, headers, date=self._connection.date)
        self._started = True

    def _choose_framing(self, status: int, headers: list[tuple[bytes, bytes]]) -> Framing:
        framing = Framing.CLOSE if self._is_http_1_0 else Framing.CHUNKED
        for name, value in headers:
            if name == b"content-length":
                framing, self._left = Framing.LENGTH, int(value)
            elif name == b"connection" and value.lower() == b"close":
                self.keep_alive = False
        if self.scope["method"] == "HEAD" or status in (204, 304):
            return Framing.NONE
        return framing

    def _set_framing_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        if self._framing is Framing.CLOSE:
            self.keep_alive = False
        elif self._is_chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        if not self.keep_alive:
            headers[:] = [field for field in headers if field[0] != b"connection"]
            headers.append((b"connection", b"close"))
        elif self._is_http_1_0:
            headers.append((b"connection", b"keep-alive"))

    def _write(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            raise RuntimeError(f"{message['type']!r} was sent within the response's body")
        body, is_last = message.get("body", b""), not message.get("more_body", False)
        # Chunked responses come first because streams consist of many small parts.
        framed = chunk(body, is_last) if self._is_chunked else self._part(body, is_last)
        if self._head:
            framed, self._head = self._head + framed, b""
        if framed:
            self._connection.flow.write(framed)
        if is_last:
            self.is_response_complete = True
            self._wake()
            self._connection.on_response_complete(self)

    def _part(self, body: bytes, is_last: bool) -> bytes:
        if self._framing is Framing.NONE:
            return b""
        if self._framing is Framing.LENGTH:
            self._left -= len(body)
            if self._left < 0 or (is_last and self._left):
                raise RuntimeError("the length of the response does not match its content-length")
        return body

    def _fail(self) -> None:
        """Respond with an error, or abort a response that has started, so that it does not look complete."""
        if self.has_started or self._is_disconnected or self.is_response_complete:
            self._connection.abort()
        else:
            self._connection.fail(internal_error())

    def _forget_body(self) -> None:
        self._body.clear()
        self.kept_bytes = 0

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
