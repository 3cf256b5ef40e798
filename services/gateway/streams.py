"""Streams of events over HTTP: sent as they arrive, followed to their end, never silent for long."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing, suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.common.errors import ServiceError
from services.common.tasks import running
from services.gateway import sse
from services.gateway.errors import http_error
from services.gateway.presence import Presence

_WRITE_SECONDS_MAX = 30.0
"""Longest wait for a client that is connected and does not read."""

Events = AsyncGenerator[list[bytes], None]
"""JSON texts; those that arrived together come together."""


async def begin_stream(
    events: Events, headers: Mapping[str, str], client: Presence, *, heartbeat_seconds: float
) -> Response:
    """Return the answer that sends `events`.

    The first events are waited for, so that a failure before them is an HTTP error and not a broken stream; but not for
    longer than a heartbeat, after which a client should hear something.

    Raises:
        ServiceError: The stream failed before its first events.
    """
    first = asyncio.ensure_future(anext(events, []))
    try:
        done, _ = await asyncio.wait({first}, timeout=heartbeat_seconds)
    except asyncio.CancelledError:
        await _end(first)
        raise
    if done:
        first.result()
    return EventStream(first, events, headers, client, heartbeat_seconds=heartbeat_seconds)


class EventStream(Response):
    """A stream of events that goes on to its end whoever listens, since only its end tells the verdict."""

    def __init__(
        self,
        first: "asyncio.Future[list[bytes]]",
        rest: Events,
        headers: Mapping[str, str],
        client: Presence,
        *,
        heartbeat_seconds: float,
    ) -> None:
        """Send what `first` gives, then `rest`."""
        self._first = first
        self._rest = rest
        self._client = client
        self._heartbeat_seconds = heartbeat_seconds
        self._raw = [*sse.HEADERS, *((name.encode(), value.encode()) for name, value in headers.items())]
        self._sent_at = 0.0
        self._is_stuck = False
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events as they arrive; what arrived together leaves in one write."""
        with self._client.watching(receive):
            async with aclosing(self._rest):
                try:
                    await self._send_all(send)
                finally:
                    await _end(self._first)

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._raw})
        try:
            async with running(self._beat(send)):
                await self._send_events(send)
        except ServiceError as exc:
            await self._send(send, sse.events([http_error(exc, now=time.time()).body]), more=False)
        else:
            await self._send(send, sse.DONE, more=False)

    async def _send_events(self, send: Send) -> None:
        await self._send(send, sse.events(await self._first) if self._first.done() else sse.HEARTBEAT)
        if not self._first.done():
            await self._send(send, sse.events(await self._first))
        async for texts in self._rest:
            await self._send(send, sse.events(texts))

    async def _beat(self, send: Send) -> None:
        """Send a comment whenever nothing was sent for a while."""
        while True:
            silence = time.monotonic() - self._sent_at
            if silence >= self._heartbeat_seconds:
                await self._send(send, sse.HEARTBEAT)
                silence = 0
            await asyncio.sleep(self._heartbeat_seconds - silence)

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        """Write to the client; one that takes nothing any more is written off, and the stream goes on without it."""
        if self._is_stuck:
            return
        self._sent_at = time.monotonic()
        try:
            async with asyncio.timeout(_WRITE_SECONDS_MAX):
                await send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:
            self._is_stuck = True


async def _end(first: Awaitable[list[bytes]]) -> None:
    """End the wait for the first events, if it still lasts: the stream cannot be closed while somebody waits for it."""
    task = asyncio.ensure_future(first)
    task.cancel()
    with suppress(asyncio.CancelledError, ServiceError):
        await task
