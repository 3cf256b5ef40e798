"""A channel that looks for successors when the replicas that it knows have left, and lets calls wait meanwhile.

gRPC looks a name up again when a connection is lost: not when a replica is added, and not when one says that it is not
ready any more. Of two replicas that are replaced one after the other, as when nodes are drained, the first one's
successor is so not known when the second one leaves, and every call would fail for as long as that one drains.

A channel's first act is to look its name up. So successors are looked for by opening another one, which takes the first
one's place when somebody is there and ready. Nothing is sent twice: only calls that were never sent are made again.
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
"""How long calls wait for a successor, from the first that was sent to nobody on; then they fail at once again."""
_SEARCH_SECONDS = 2.0
"""From one search to the next while calls are made and nobody answers."""
_SAID_BY_CHANNELS = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
"""What need not be an answer of anybody's."""
_NOT_SENT = ("connections to all backends failing", "errors resolving")
"""How gRPC begins to tell that a call was sent to nobody: no replica is ready, or the name has no address."""


class FailoverChannel(ForwardingChannel):
    """Channels to one name, one at a time; streams end on the one that they began on."""

    def __init__(self, open_one: Callable[[], aio.Channel]) -> None:
        """Make calls on a channel that `open_one` opens; it is asked again whenever successors are looked for."""
        self._open_one = open_one
        self.channel = open_one()
        self._draining = DrainingChannels()
        self._lost_at = math.inf
        """When a call was first sent to nobody; infinite while there is somebody."""
        self._search: asyncio.Task[None] | None = None
        self._searched_at = -math.inf

    def note_answer(self, began: float) -> None:
        """Note that a call that began then was answered. Older streams, which outlive a loss, tell nothing."""
        if began > self._lost_at:
            self._lost_at, self._searched_at = math.inf, -math.inf

    async def is_replaced(self, channel: aio.Channel, *, seconds_max: float) -> bool:
        """Return whether another has taken the place of `channel`, which sent a call to nobody; wait for it a while."""
        if channel is self.channel:
            now = time.monotonic()
            self._lost_at = min(self._lost_at, now)
            seconds = min(self._lost_at + FAILOVER_SECONDS - now, seconds_max)
            await asyncio.wait([self._current_search(now)], timeout=max(seconds, 0))
        return channel is not self.channel

    def _current_search(self, now: float) -> asyncio.Task[None]:
        if self._search is None or (self._search.done() and now > self._searched_at + _SEARCH_SECONDS):
            self._search, self._searched_at = asyncio.create_task(self._replace()), now
        return self._search

    async def _replace(self) -> None:
        """Replace the channel, if somebody is found who is ready."""
        candidate = self._open_one()
        try:
            async with asyncio.timeout(FAILOVER_SECONDS):
                await candidate.channel_ready()
            self._draining.add(self.channel)
            self.channel = candidate
        except TimeoutError:
            return  # Nobody, until the next search.
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
        """Return a method whose calls do not wait: what was read of a stream of requests cannot be sent again."""
        return CurrentMethod(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Return a method whose calls do not wait either."""
        return CurrentMethod(self, "stream_stream", args, kwargs)

    async def close(self, grace: float | None = None) -> None:
        if self._search is not None:
            self._search.cancel()
            await asyncio.wait([self._search])
        await asyncio.gather(self.channel.close(grace), self._draining.close(grace))


class _Call:
    """A call, awaited or iterated over, and cancelled, like gRPC's own. Nothing else of gRPC's is asked of it."""

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
        """Cancel it, also while it waits; false when there was nothing under way."""
        self._is_cancelled = True
        return bool(self._call.cancel())

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        while True:
            try:
                answer = await self._call
            except aio.AioRpcError as exc:
                if not await self._is_begun_again(exc):
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
                if not await self._is_begun_again(exc):
                    raise
            else:
                return

    async def _is_begun_again(self, exc: aio.AioRpcError) -> bool:
        """Make the call again, with what is left of its deadline, if it was never sent and now can be."""
        if exc.code() not in _SAID_BY_CHANNELS:
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
