"""Streams of events over HTTP: sent as they arrive, and never silent for long.

A stream whose key is revoked ends with an error event at once, and so does one whose client stops reading. Both then
cancel the handler, as a client that leaves does. Inference reads Groq's answer to the end by itself.
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
from services.gateway.http.errors import HTTPError, http_error
from services.gateway.http.middleware import REQUEST_ID, STARTED
from services.gateway.http_server.write_flow import ClientStalled
from services.gateway.keys.revocation import Revocation
from services.gateway.metrics import FIRST_EVENT_SECONDS, STREAMS
from services.gateway.requests import sse
from services.gateway.requests.disconnect import DisconnectMonitor
from services.gateway.requests.types import Departure

_log = logging.getLogger(__name__)
_STALLED = HTTPError(
    408,
    "The stream was ended, because its client had read nothing of it for too long. Send the request again.",
    "invalid_request_error",
    code="client_stalled",
)


class Events(Protocol):
    """Lists of JSON texts that arrived together."""

    def __aiter__(self) -> AsyncIterator[list[bytes]]: ...

    def __anext__(self) -> Awaitable[list[bytes]]: ...

    async def aclose(self) -> None:
        """End the stream."""


async def begin_stream(
    events: Events,
    headers: Mapping[str, str],
    client: DisconnectMonitor,
    revocation: Revocation,
    *,
    heartbeat_seconds: float,
) -> Response:
    """Return the answer that sends `events` until the `revocation` is cut.

    The first events are waited for, so that a failure before them is an HTTP error and not a broken stream; but not for
    longer than a heartbeat, after which a client should hear something.

    Raises:
        ServiceError: The stream failed before its first events.
    """
    first = asyncio.ensure_future(anext(events, []))
    cut = asyncio.ensure_future(revocation.until_revoked())
    try:
        await asyncio.wait({first, cut}, timeout=heartbeat_seconds, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        await _end(first)
        await events.aclose()
        raise
    finally:
        cut.cancel()
    try:
        if first.done():
            first.result()
        return EventStream(first, events, headers, client, revocation, heartbeat_seconds=heartbeat_seconds)
    finally:
        del first  # A failed task refers to its error, whose traceback refers to this frame.


class EventStream(Response):
    """A stream of events that is sent as it arrives."""

    def __init__(
        self,
        first: "asyncio.Future[list[bytes]]",
        rest: Events,
        headers: Mapping[str, str],
        client: DisconnectMonitor,
        revocation: Revocation,
        *,
        heartbeat_seconds: float,
    ) -> None:
        """Send what `first` gives, then `rest`, until the `revocation` is cut."""
        self._first = first
        self._rest = rest
        self._client = client
        self._lifeline = revocation
        self._heartbeat_seconds = heartbeat_seconds
        self._own_headers = headers
        self._sent_at = 0.0
        self._started = time.perf_counter()
        self._request_id = ""
        self._is_over = False
        """Nothing may be sent any more: the answer is complete, or its client is stuck."""
        self._sending = asyncio.Lock()
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events as they arrive; what arrived together leaves in one write."""
        self._started = scope.get(STARTED, self._started)
        self._request_id = scope.get(REQUEST_ID, "")
        with self._client.watching(receive), STREAMS.track_inprogress():
            async with aclosing(self._rest):
                try:
                    await self._send_all(send)
                finally:
                    await _end(self._first)

    async def _send_all(self, send: Send) -> None:
        await self._start(send)
        try:
            async with (
                running(restarting(partial(self._beat, send))),
                running(restarting(partial(self._end_when_cut, send))),
            ):
                await self._send_events(send)
        except ServiceError as exc:
            await self._finish(send, _error_event(exc))
        else:
            await self._finish(send, sse.DONE)

    async def _start(self, send: Send) -> None:
        if not self._lifeline.is_revoked:
            await send({"type": "http.response.start", "status": 200, "headers": [*sse.HEADERS, *self._raw({})]})
            return
        error = _told(self._lifeline.refusal)
        raw = [(b"content-type", b"application/json"), *self._raw(error.headers)]
        await send({"type": "http.response.start", "status": error.status, "headers": raw})
        await self._send(send, error.body, more=False)

    async def _send_events(self, send: Send) -> None:
        if not self._first.done():
            await self._send(send, sse.HEARTBEAT)
        await self._send(send, sse.events(await self._first))
        FIRST_EVENT_SECONDS.observe(time.perf_counter() - self._started)
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

    async def _end_when_cut(self, send: Send) -> None:
        await self._lifeline.until_revoked()
        await self._finish(send, b"")
        self._client.depart(self._lifeline.departure)

    async def _finish(self, send: Send, body: bytes) -> None:
        """Complete the answer with `body`, or with the refusal of a key that was revoked."""
        await self._send(send, _error_event(self._lifeline.refusal) if self._lifeline.is_revoked else body, more=False)

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        """Write to the client; one that reads nothing any more is given up."""
        async with self._sending:
            if self._is_over or (more and self._lifeline.is_revoked):
                return
            self._sent_at = time.monotonic()
            try:
                await send({"type": "http.response.body", "body": body, "more_body": more})
            except ClientStalled:
                await self._give_up(send)
            else:
                self._is_over = not more

    async def _give_up(self, send: Send) -> None:
        """End a stream that its client does not read, with an error event in case it ever does."""
        self._is_over = True
        _log.info("client stalled", extra={"request_id": self._request_id})
        with suppress(ClientStalled):
            await send({"type": "http.response.body", "body": sse.events([_STALLED.body]), "more_body": False})
        self._client.depart(Departure.CLIENT_STALLED)

    def _raw(self, more: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
        return [(name.encode(), value.encode()) for name, value in {**self._own_headers, **more}.items()]


def _told(error: ServiceError) -> HTTPError:
    return http_error(error, now=time.time())


def _error_event(error: ServiceError) -> bytes:
    return sse.events([_told(error).body])


async def _end(first: Awaitable[list[bytes]]) -> None:
    """End the wait for the first events, if it still lasts: the stream cannot be closed while somebody waits for it."""
    task = asyncio.ensure_future(first)
    task.cancel()
    with suppress(asyncio.CancelledError, ServiceError):
        await task
