"""Event streams over HTTP, with keep-alive comments while no events arrive.

A stream ends immediately with an error event if its key is revoked or its client stops reading. Both cancel the
handler, as a client disconnect does. Inference still reads Groq's answer to the end.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.common.errors import ServiceError
from services.common.runtime.tasks import restarting, running
from services.common.web.request_id import REQUEST_ID
from services.gateway.http.errors import HTTPError, http_error
from services.gateway.http.middleware import FAILURE, STARTED, STREAM_ERROR
from services.gateway.http_server.write_flow import ClientStalled
from services.gateway.keys.revocation import Revocation
from services.gateway.metrics import FIRST_EVENT_SECONDS, STREAMS
from services.gateway.requests import sse
from services.gateway.requests.disconnect import DisconnectMonitor
from services.gateway.requests.surface import SurfaceRequest
from services.gateway.requests.types import Departure

_log = logging.getLogger(__name__)
_STALLED = HTTPError(
    408,
    "The stream was closed because the client read nothing for too long. Read streams continuously, and send the "
    "request again.",
    "invalid_request_error",
    code="client_stalled",
)


class Events(Protocol):
    """An asynchronous iterator over lists of JSON texts; the texts of a list arrived together."""

    def __aiter__(self) -> AsyncIterator[list[bytes]]: ...

    def __anext__(self) -> Awaitable[list[bytes]]: ...

    async def aclose(self) -> None:
        """Close the stream."""


async def begin_stream(
    events: Events,
    request: SurfaceRequest,
    headers: Mapping[str, str],
    client: DisconnectMonitor,
    revocation: Revocation,
    *,
    heartbeat_seconds: float,
) -> Response:
    """Return a response that sends `events` until the key or session is revoked.

    Wait for the first events, so that an earlier failure is an HTTP error and not a broken stream. Wait for at most
    `heartbeat_seconds`, after which the client must receive a keep-alive comment.

    Raises:
        ServiceError: The stream failed before its first events.
    """
    first = asyncio.ensure_future(anext(events, []))
    revoked = asyncio.ensure_future(revocation.until_revoked())
    try:
        await asyncio.wait({first, revoked}, timeout=heartbeat_seconds, return_when=asyncio.FIRST_COMPLETED)
        if first.done():
            first.result()
        return EventStream(first, events, request, headers, client, revocation, heartbeat_seconds=heartbeat_seconds)
    except BaseException:
        if not first.done():
            await _cancel(first)
        await events.aclose()
        raise
    finally:
        revoked.cancel()
        del first  # Break the reference cycle between a failed task, its traceback and this frame.


class EventStream(Response):
    """A response that sends events as they arrive."""

    def __init__(
        self,
        first: "asyncio.Future[list[bytes]]",
        rest: Events,
        request: SurfaceRequest,
        headers: Mapping[str, str],
        client: DisconnectMonitor,
        revocation: Revocation,
        *,
        heartbeat_seconds: float,
    ) -> None:
        """Create a response that sends `first`, then `rest`, until `revocation` is revoked."""
        self._first = first
        self._rest = rest
        self._renderer = request.renderer
        self._store = request.store
        self._client = client
        self._revocation = revocation
        self._heartbeat_seconds = heartbeat_seconds
        self._extra_headers = headers
        self._sent_at = 0.0
        self._started = time.perf_counter()
        self._request_id = ""
        self._is_over = False
        """Whether nothing more may be sent: the response is complete, or the client stalled."""
        self._sending = asyncio.Lock()
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events as they arrive. Events that arrived together are sent in one write."""
        self._started = scope.get(STARTED, self._started)
        self._request_id = scope.get(REQUEST_ID, "")
        scope[STREAM_ERROR] = self._renderer.stream_error
        with self._client.watching(scope, receive), STREAMS.track_inprogress():
            async with aclosing(self._rest):
                try:
                    await self._send_all(scope, send)
                finally:
                    await _cancel(self._first)

    async def _send_all(self, scope: Scope, send: Send) -> None:
        await self._start(send)
        try:
            async with (
                running(restarting(partial(self._send_heartbeats, send))),
                running(restarting(partial(self._end_when_revoked, send))),
            ):
                await self._send_events(send)
        except ServiceError as exc:
            scope[FAILURE] = exc.details.verdict
            await self._finish(send, self._renderer.stream_error(_to_http_error(exc)))
        else:
            await self._finish(send, self._renderer.end())

    async def _start(self, send: Send) -> None:
        if not self._revocation.is_revoked:
            await send(
                {"type": "http.response.start", "status": 200, "headers": [*sse.HEADERS, *self._raw_headers({})]}
            )
            return
        error = self._renderer.error(_to_http_error(self._revocation.refusal))
        raw = [(b"content-type", b"application/json"), *self._raw_headers(error.headers)]
        await send({"type": "http.response.start", "status": error.status, "headers": raw})
        await self._send(send, error.body, more=False)

    async def _send_events(self, send: Send) -> None:
        if not self._first.done():
            await self._send(send, self._renderer.heartbeat())
        await self._send_rendered(send, await self._first)
        FIRST_EVENT_SECONDS.observe(time.perf_counter() - self._started)
        async for texts in self._rest:
            await self._send_rendered(send, texts)
        if self._store:
            await self._store()

    async def _send_rendered(self, send: Send, texts: list[bytes]) -> None:
        if body := self._renderer.events(texts):
            await self._send(send, body)

    async def _send_heartbeats(self, send: Send) -> None:
        """Send a keep-alive comment whenever nothing was sent for `heartbeat_seconds`."""
        while True:
            idle_seconds = time.monotonic() - self._sent_at
            if idle_seconds >= self._heartbeat_seconds:
                await self._send(send, self._renderer.heartbeat())
                idle_seconds = 0
            await asyncio.sleep(self._heartbeat_seconds - idle_seconds)

    async def _end_when_revoked(self, send: Send) -> None:
        await self._revocation.until_revoked()
        await self._finish(send, b"")
        self._client.depart(self._revocation.departure)

    async def _finish(self, send: Send, body: bytes) -> None:
        """Complete the response with `body`, or with an error event if the key or session was revoked."""
        if self._revocation.is_revoked:
            body = self._renderer.stream_error(_to_http_error(self._revocation.refusal))
        await self._send(send, body, more=False)

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        """Write to the client, and close the stream if the client has stalled."""
        async with self._sending:
            if self._is_over or (more and self._revocation.is_revoked):
                return
            self._sent_at = time.monotonic()
            try:
                await send({"type": "http.response.body", "body": body, "more_body": more})
            except ClientStalled:
                await self._close_stalled(send)
            else:
                self._is_over = not more

    async def _close_stalled(self, send: Send) -> None:
        """Close the stream of a stalled client, with an error event in case the client reads again."""
        self._is_over = True
        _log.info("client stalled", extra={"request_id": self._request_id})
        with suppress(ClientStalled):
            await send(
                {"type": "http.response.body", "body": self._renderer.stream_error(_STALLED), "more_body": False}
            )
        self._client.depart(Departure.CLIENT_STALLED)

    def _raw_headers(self, more: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
        return [(name.encode(), value.encode()) for name, value in {**self._extra_headers, **more}.items()]


def _to_http_error(error: ServiceError) -> HTTPError:
    return http_error(error, now=time.time())


async def _cancel(first: Awaitable[list[bytes]]) -> None:
    """Cancel the wait for the first events. A stream cannot be closed while a task waits for its next item."""
    task = asyncio.ensure_future(first)
    task.cancel()
    with suppress(asyncio.CancelledError, ServiceError):
        await task
