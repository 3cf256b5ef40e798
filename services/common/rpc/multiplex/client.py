"""Client of a multiplexed RPC: the streams, and which of them carries the next call.

Streams are opened in the background. A gRPC channel spreads its streams over the replicas of a service in turn, so busy
clients open more, and each is replaced after some time, from which new replicas get their share.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import Context
from types import TracebackType
from typing import Any, Self

import grpc
from grpc import aio
from prometheus_client import Gauge

from services.common.rpc.multiplex.stream import CallStream

_log = logging.getLogger(__name__)
_STREAMS = Gauge(
    "stack_rpc_multiplexed_streams", "Open streams that carry many calls each, by service called.", ["service"]
)
_CALLS_PER_STREAM = 64
"""Calls in progress on each stream from which another one is opened."""
_STREAMS_MAX = 8
_AGE_SECONDS_MAX = 30.0
"""Age from which a stream is replaced."""
_OPEN_SECONDS_MAX = 2.0
_RETRY_SECONDS = 0.5
"""Pause after a stream could not be opened."""
_UNSUPPORTED_SECONDS = 10.0
"""Pause after a service of the previous version was reached, which does not have the RPC."""


class MultiplexClient:
    """Streams of one client to one service. A context manager; its end cancels the calls in progress."""

    def __init__(
        self,
        open_stream: Callable[[], Any],
        request_type: Callable[[], Any],
        *,
        service: str,
        timeout_seconds: float,
    ) -> None:
        """Create a client.

        Args:
            open_stream: Starts the RPC: a method of a stub.
            request_type: Type of the RPC's requests.
            service: Name of the service. A call that is lost fails with the reason `<service>_unavailable`.
            timeout_seconds: Time-out of each call.
        """
        self._open_stream = open_stream
        self._request_type = request_type
        self._timeout_seconds = timeout_seconds
        self._unavailable_reason = f"{service}_unavailable"
        self._streams: list[CallStream] = []
        self._draining: set[CallStream] = set()
        self._opening: asyncio.Task[None] | None = None
        self._open_after = float("-inf")
        _STREAMS.labels(service).set_function(lambda: len(self._streams))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        for stream in (*self._streams, *self._draining):
            await stream.close()

    def stream(self) -> CallStream | None:
        """Return the stream for the next call; None if there is none yet, or if the service cannot be reached."""
        now = time.monotonic()
        best = self._least_loaded(now)
        if self._opening is None and self._needs_another(best, now):
            # In a context of its own: the stream does not belong to the request that needs it first.
            self._opening = asyncio.get_running_loop().create_task(self._open(), context=Context())
        return best

    def _least_loaded(self, now: float) -> CallStream | None:
        for stream in [one for one in self._streams if one.is_silent(now)]:
            self._drain(stream)
        return min(self._streams, key=lambda stream: stream.calls_in_progress, default=None)

    def _needs_another(self, best: CallStream | None, now: float) -> bool:
        if now < self._open_after:
            return False
        if best is None or now > self._streams[0].opened_at + _AGE_SECONDS_MAX:
            return True
        return best.calls_in_progress >= _CALLS_PER_STREAM and len(self._streams) < _STREAMS_MAX

    async def _open(self) -> None:
        """Open a stream, which replaces those that are too old."""
        stream: CallStream | None = None
        pause_seconds = _RETRY_SECONDS
        try:
            stream = self._new_stream()
            async with asyncio.timeout(_OPEN_SECONDS_MAX):
                await stream.begin()
            self._replace_old(stream)
            pause_seconds = 0.0
        except aio.AioRpcError as exc:
            if exc.code() is grpc.StatusCode.UNIMPLEMENTED:
                pause_seconds = _UNSUPPORTED_SECONDS
        except (aio.UsageError, TimeoutError):
            _log.info("A stream for multiplexed calls could not be opened.")
        finally:
            self._open_after = time.monotonic() + pause_seconds
            self._opening = None
            if pause_seconds and stream is not None:
                await stream.close()

    def _new_stream(self) -> CallStream:
        return CallStream(
            self._open_stream(),
            self._request_type,
            timeout_seconds=self._timeout_seconds,
            unavailable_reason=self._unavailable_reason,
            on_end=self._remove,
        )

    def _replace_old(self, new: CallStream) -> None:
        oldest = new.opened_at - _AGE_SECONDS_MAX
        for stream in [one for one in self._streams if one.opened_at < oldest]:
            self._drain(stream)
        self._streams.append(new)

    def _drain(self, stream: CallStream) -> None:
        self._streams.remove(stream)
        self._draining.add(stream)
        stream.drain()

    def _remove(self, stream: CallStream, *, is_draining: bool) -> None:
        """Start no further calls on a stream that has ended, or whose service is stopping."""
        if is_draining and stream in self._streams:
            self._drain(stream)
        elif not is_draining:
            self._draining.discard(stream)
            if stream in self._streams:
                self._streams.remove(stream)
