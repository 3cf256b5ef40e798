"""One connection, which sends a request at a time and parses the response with llhttp."""

import asyncio
from collections.abc import Callable, Mapping
from typing import cast

import httptools

from services.inference.http.errors import ConnectionLost, HTTPClientError, MalformedResponse, StaleConnection

_BUFFER_BYTES_MAX = 128 * 1024
"""Unread bytes at which reading from the socket pauses."""
_HEAD_BYTES_MAX = 64 * 1024
"""Maximum size of a response's head, and of what arrives without bytes of the body: trailers and chunk extensions."""
_HEADERS_MAX = 128
_STALE_SECONDS = 1.0
"""Time in which the reset of a connection that the server had closed arrives. It takes one round trip."""
_WRITE_AT_ONCE_BYTES_MAX = 64 * 1024
"""Bodies up to this size are copied behind the head, so that both are one write."""


class Connection(asyncio.Protocol):
    """A connection. Whoever has acquired it from the pool calls `send`, and `read` until the body has ended."""

    def __init__(self, on_lost: Callable[["Connection"], None]) -> None:
        """Create a connection, before it is opened.

        Args:
            on_lost: Called after it has been closed, by whichever side.
        """
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        """The unread bytes of the body."""
        self.on_body = self._parts.append  # Called by the parser, without a Python function in between.
        self._parser = httptools.HttpResponseParser(self)
        # Harmless deviations of some servers and proxies. Nothing is pipelined, so they cannot shift responses.
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
        self._is_open = False
        self._is_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._wanted = 0
        """Unread bytes that end the wait."""
        self._was_used = False
        self.sent_at = 0.0
        """Time of the event loop at which the last request was sent."""
        self._reset()
        self._is_complete = True

    def _reset(self) -> None:
        """Prepare for a response."""
        self.status = 0
        """HTTP status; 0 until the head has arrived."""
        self.headers: Mapping[str, str] = {}
        """Headers by lower-case name; the first one of several with the same name."""
        self._raw_headers: list[tuple[bytes, bytes]] = []
        self._unread = 0
        self._without_body = 0
        """Bytes since the last bytes of the body."""
        self._is_complete = False
        self._is_persistent = False
        self._ends_with_connection = False
        self._failure: type[HTTPClientError] | None = None
        self._cause: BaseException | None = None

    @property
    def is_open(self) -> bool:
        """Whether neither side has closed the connection."""
        return self._is_open and not self._transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """Whether the connection can send another request: the response is complete, and nothing is left of either."""
        return (
            self._is_complete
            and self._is_persistent
            and not self._is_paused
            and self.is_open
            and not self._transport.get_write_buffer_size()
        )

    async def send(self, head: bytes, body: bytes) -> None:
        """Send a request and wait for the head of its response.

        Raises:
            StaleConnection: The connection had been closed since the last response.
            ConnectionLost: The connection was closed.
            MalformedResponse: The response is not valid HTTP.
        """
        was_used, self._was_used, self.sent_at = self._was_used, True, self._loop.time()
        if not self.is_open:
            raise StaleConnection if was_used else ConnectionLost
        self._reset()
        self._parts.clear()
        if len(body) <= _WRITE_AT_ONCE_BYTES_MAX:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        await self._wait(0)
        if not self.status:
            raise self._error() if not (was_used and self._is_silent_loss) else StaleConnection from self._cause

    async def read(self, wanted: int = 1) -> bytes:
        """Return the unread bytes of the body, empty at its end, after waiting for about `wanted` bytes or the end.

        Raises:
            ConnectionLost: The connection was closed before the end.
            MalformedResponse: The body is not valid HTTP.
        """
        if self._unread < wanted and not self._is_complete and self._failure is None:
            self._resume()  # More than the buffer holds may be wanted.
            await self._wait(wanted)
        parts = self._parts
        if not parts and not self._is_complete:
            raise self._error()
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._unread = 0
        self._resume()
        return data

    def close(self) -> None:
        """Close the connection at once, without waiting for the other side. A reader gets `ConnectionLost`."""
        self._is_open = False
        self._transport.abort()

    async def _wait(self, wanted: int) -> None:
        """Wait for the head and this many unread bytes, for the end or for a failure."""
        self._wanted = wanted
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    @property
    def _is_silent_loss(self) -> bool:
        """Whether the connection was lost soon after the request, without a byte of a response."""
        is_early = self._loop.time() < self.sent_at + _STALE_SECONDS
        return self._failure is ConnectionLost and not self._without_body and is_early

    def _error(self) -> HTTPClientError:
        error = (self._failure or ConnectionLost)()
        error.__cause__ = self._cause
        return error

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._is_open = True

    def data_received(self, data: bytes) -> None:
        """Parse bytes. Bytes that no request asked for must not become the response to the next one."""
        if self._is_complete:
            self.close()
            return
        self._without_body += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(MalformedResponse)
        else:
            self._count(len(data))

    def _count(self, size: int) -> None:
        """Wake the reader if it has what it waits for, and pause if it has too much."""
        if self._parts:
            self._without_body = 0
            self._unread += size
            if self._unread >= _BUFFER_BYTES_MAX and self._unread >= self._wanted and not self._is_paused:
                self._is_paused = True
                self._transport.pause_reading()
        elif self._without_body > _HEAD_BYTES_MAX and not self._is_complete:
            self._fail(MalformedResponse)
        if self._is_complete or (self.status and self._unread >= self._wanted):
            self._wake()

    def eof_received(self) -> None:
        """End the response; the transport closes itself."""
        self._is_open = False
        self._is_complete = self._is_complete or self._ends_with_connection
        self._end(ConnectionLost)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail a response that is not complete."""
        self._is_open = False
        self._end(ConnectionLost, exc)
        # Break the reference cycle, which would keep unread bytes until a garbage collection.
        del self._parser, self.on_body
        self._on_lost(self)

    def _fail(self, failure: type[HTTPClientError]) -> None:
        self.close()
        self._end(failure)

    def _end(self, failure: type[HTTPClientError], cause: BaseException | None = None) -> None:
        """Wake the reader for the last time. A response that is not complete has failed."""
        if not self._is_complete and self._failure is None:
            self._failure, self._cause = failure, cause
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Refuse to reuse a connection with bytes behind the response."""
        if self._is_complete:
            self._is_persistent = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header. Trailers are stored too, but never read."""
        self._raw_headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Store the head, unless it is an interim response (1xx). At a switch of protocols (101), the parser fails."""
        raw, self._raw_headers = self._raw_headers, []
        status = self._parser.get_status_code()
        if self.status or len(raw) > _HEADERS_MAX:
            raise MalformedResponse
        if self._without_body > _HEAD_BYTES_MAX and sum(map(len, _flat(raw))) > _HEAD_BYTES_MAX:
            raise MalformedResponse
        if status < 100:
            raise MalformedResponse
        if status < 200:
            return
        # Of several with the same name, the first one remains.
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in reversed(raw)}
        self.status, self.headers = status, headers
        self._is_persistent = self._parser.should_keep_alive()
        has_length = "content-length" in headers or "transfer-encoding" in headers
        self._ends_with_connection = not self._is_persistent and not has_length

    def on_message_complete(self) -> None:
        """End the response, unless it is an interim one."""
        if self.status:
            self._is_complete = True


def _flat(headers: list[tuple[bytes, bytes]]) -> list[bytes]:
    return [part for header in headers for part in header]
