"""A channel that resolves its name again when all known replicas are gone, while calls wait.

gRPC resolves a name again when a connection is lost, but not when a replica is added or stops being ready. When two
replicas are replaced in turn, as in a node drain, the channel does not know the replacement of the first when the
second begins to drain. Every call would then fail until the second one closes its connections.

A new channel always resolves its name. Failover therefore opens a second channel, and replaces the first one when the
second is ready. No request is sent twice: only calls that never reached a replica are retried.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Generator
from functools import partial
from typing import Any

import grpc
from grpc import aio

from services.common.rpc.forwarding_channel import CurrentMethod, DrainingChannels, ForwardingChannel

FAILOVER_SECONDS = 1.5
"""How long calls wait for a ready replica, from the first call without one. After that, calls fail immediately."""
_RETRY_SECONDS = 2.0
"""Minimum interval between two attempts to fail over."""
_LOCAL_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
"""Codes that the channel itself can produce, so they do not prove that a replica answered."""
_NOT_SENT = ("connections to all backends failing", "errors resolving")
"""Prefixes of gRPC's error details for a call that was not sent: no replica is ready, or the name has no address."""


class FailoverChannel(ForwardingChannel):
    """A channel to one name that is replaced on failover. Streams finish on the channel on which they started."""

    def __init__(self, open_one: Callable[[], aio.Channel]) -> None:
        """Use a channel from `open_one`, which is called again for each failover."""
        self._open_one = open_one
        self.channel = open_one()
        self._draining = DrainingChannels()
        self._lost_at = math.inf
        """Time of the first call without a ready replica; inf otherwise."""
        self._failover: asyncio.Task[None] | None = None
        self._tried_at = -math.inf

    def note_answer(self, began: float) -> None:
        """Note that a replica answered a call that started at `began`. Calls older than the outage are ignored."""
        if began > self._lost_at:
            self._lost_at, self._tried_at = math.inf, -math.inf

    async def is_replaced(self, channel: aio.Channel, *, seconds_max: float) -> bool:
        """Wait for a replacement of `channel`, which has no ready replica, and return whether there is one."""
        if channel is self.channel:
            now = time.monotonic()
            self._lost_at = min(self._lost_at, now)
            seconds = min(self._lost_at + FAILOVER_SECONDS - now, seconds_max)
            await asyncio.wait([self._current_failover(now)], timeout=max(seconds, 0))
        return channel is not self.channel

    def _current_failover(self, now: float) -> asyncio.Task[None]:
        if self._failover is None or (self._failover.done() and now > self._tried_at + _RETRY_SECONDS):
            self._failover, self._tried_at = asyncio.create_task(self._replace()), now
        return self._failover

    async def _replace(self) -> None:
        """Replace the channel if a new one finds a ready replica."""
        candidate = self._open_one()
        try:
            async with asyncio.timeout(FAILOVER_SECONDS):
                await candidate.channel_ready()
            self._draining.add(self.channel)
            self.channel = candidate
        except TimeoutError:
            return  # No replica is ready. The next attempt is due after `_RETRY_SECONDS`.
        finally:
            if candidate is not self.channel:
                await candidate.close()

    def current(self) -> aio.Channel:
        return self.channel

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return partial(_Call, self, CurrentMethod(self, "unary_unary", args, kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return partial(_Call, self, CurrentMethod(self, "unary_stream", args, kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Return a method without failover: the consumed part of a request stream cannot be sent again."""
        return CurrentMethod(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Return a method without failover: the consumed part of a request stream cannot be sent again."""
        return CurrentMethod(self, "stream_stream", args, kwargs)

    async def close(self, grace: float | None = None) -> None:
        if self._failover is not None:
            self._failover.cancel()
            await asyncio.wait([self._failover])
        await asyncio.gather(self.channel.close(grace), self._draining.close(grace))


class _Call:
    """A call that can be awaited, iterated over and cancelled. Other methods of gRPC's calls are not supported."""

    __slots__ = (
        "_began",
        "_call",
        "_channel",
        "_deadline",
        "_is_cancelled",
        "_method",
        "_options",
        "_owner",
        "_request",
    )

    def __init__(self, owner: FailoverChannel, method: CurrentMethod, request: Any, **options: Any) -> None:
        self._owner, self._method, self._request, self._options = owner, method, request, options
        timeout = options.get("timeout")
        self._is_cancelled = False
        self._begin(options)
        self._deadline = math.inf if timeout is None else self._began + timeout

    def cancel(self) -> bool:
        """Cancel the call, also while it waits for a failover. Return false if it was already done."""
        self._is_cancelled = True
        return bool(self._call.cancel())

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        while True:
            try:
                answer = await self._call
            except aio.AioRpcError as exc:
                if not await self._retry(exc):
                    raise
            else:
                self._owner.note_answer(self._began)
                return answer

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            try:
                async for response in self._call:
                    self._owner.note_answer(self._began)
                    yield response
            except aio.AioRpcError as exc:
                if not await self._retry(exc):
                    raise
            else:
                return

    async def _retry(self, exc: aio.AioRpcError) -> bool:
        """Retry a call that was not sent, within its deadline, if a failover succeeds; return whether it did."""
        if exc.code() not in _LOCAL_CODES:
            self._owner.note_answer(self._began)
        if exc.code() is not grpc.StatusCode.UNAVAILABLE or not (exc.details() or "").startswith(_NOT_SENT):
            return False
        if not await self._owner.is_replaced(self._channel, seconds_max=self._seconds_left()):
            return False
        if self._is_cancelled:
            raise asyncio.CancelledError
        left = self._seconds_left()
        self._begin(self._options if left == math.inf else {**self._options, "timeout": left})
        return True

    def _seconds_left(self) -> float:
        return self._deadline - time.monotonic()

    def _begin(self, options: dict[str, Any]) -> None:
        self._began = time.monotonic()
        self._call = self._method(self._request, **options)
        self._channel = self._owner.channel
