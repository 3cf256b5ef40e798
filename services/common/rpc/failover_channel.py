"""A channel that resolves its name again when all known replicas are gone, while calls wait.

gRPC resolves a name again when a connection is lost, but not when a replica is added or stops being ready. When two
replicas are replaced in turn, as in a node drain, a channel does not know the replacement of the first when the second
begins to drain. And when a name had no address, gRPC's resolver waits for up to two minutes before it asks again.

A new channel always resolves its name. So if no replica is ready when a call starts, the call is made on a new channel.
No call is made twice: it waits before it is sent.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
from grpc import aio

from services.common.rpc.forwarding_channel import CurrentMethod, DrainingChannels, ForwardingChannel

FAILOVER_SECONDS = 1.5
"""How long calls wait for a ready replica, from the first call without one. After that, calls fail immediately."""
_REOPEN_SECONDS = 2.0
"""Minimum interval between two new channels while no replica is found."""
_OUTAGE_SECONDS = 5.0
"""Without a call for so long, the next call without a ready replica counts as the first of a new outage."""
_WAIT_SECONDS_MAX = 10.0
"""Longest time-out with which a call may wait in gRPC, if its replica stops being ready before the call is sent. Calls
with a longer one, such as chats, would wait for minutes, and fail immediately instead."""


class FailoverChannel(ForwardingChannel):
    """A channel to one name that is replaced on failover. Streams finish on the channel on which they started."""

    def __init__(self, open_one: Callable[[], aio.Channel]) -> None:
        """Use a channel from `open_one`, which is called again for each failover."""
        self._open_one = open_one
        self._channel = open_one()
        self._opened_at = time.monotonic()
        self._was_ready = False
        self._draining = DrainingChannels()
        self._lost_at = math.inf
        """Time of the first call without a ready replica; inf otherwise."""
        self._missed_at = -math.inf
        """Time of the last call without a ready replica."""
        self._is_closed = False

    def current(self) -> aio.Channel:
        if self._channel.get_state() is grpc.ChannelConnectivity.READY:
            self._was_ready, self._lost_at = True, math.inf
        elif not self._is_closed:
            now = time.monotonic()
            self._lost_at = now if now > self._missed_at + _OUTAGE_SECONDS else min(self._lost_at, now)
            self._missed_at = now
            if self._was_ready or now > self._opened_at + _REOPEN_SECONDS:
                self._reopen(now)
        return self._channel

    async def channel_ready(self) -> None:
        """Wait for a ready replica, without a time limit."""
        while True:
            with suppress(TimeoutError):
                return await asyncio.wait_for(self.current().channel_ready(), _REOPEN_SECONDS)

    def is_ready(self) -> bool:
        """Return whether a replica is ready. If not, the channel is replaced, as for a call."""
        self.current()
        return self._lost_at == math.inf

    async def until_ready(self, *, seconds_max: float) -> bool:
        """Wait for a ready replica, and return whether there is one."""
        channel = self.current()
        if self._lost_at == math.inf:
            return True
        seconds = min(self._lost_at + FAILOVER_SECONDS - time.monotonic(), seconds_max)
        if seconds <= 0:
            return False
        try:
            await asyncio.wait_for(channel.channel_ready(), seconds)
        except TimeoutError:
            return False
        return True

    def _reopen(self, now: float) -> None:
        """Replace the channel. Only one that was ready can have streams, and is kept for them."""
        if self._was_ready:
            self._draining.add(self._channel)
        self._channel, self._opened_at, self._was_ready = self._open_one(), now, False

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return partial(_Call, self, CurrentMethod(self, "unary_unary", args, kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return partial(_Call, self, CurrentMethod(self, "unary_stream", args, kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Return a method whose calls do not wait."""
        return CurrentMethod(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Return a method whose calls do not wait."""
        return CurrentMethod(self, "stream_stream", args, kwargs)

    async def close(self, grace: float | None = None) -> None:
        self._is_closed = True
        await asyncio.gather(self._channel.close(grace), self._draining.close(grace))


class _Call:
    """A call that can be awaited, iterated over and cancelled. Other methods of gRPC's calls are not supported."""

    __slots__ = ("_call", "_channel", "_is_cancelled", "_method", "_options", "_request", "_waiting")

    def __init__(self, channel: FailoverChannel, method: CurrentMethod, request: Any, **options: Any) -> None:
        self._channel, self._method, self._request, self._options = channel, method, request, options
        self._call: Any = None
        self._is_cancelled = False
        self._waiting: asyncio.Task[bool] | None = None

    def cancel(self) -> bool:
        """Cancel the call, also while it waits for a failover. Return false if it was already done."""
        if self._call is not None:
            return bool(self._call.cancel())
        was_cancelled, self._is_cancelled = self._is_cancelled, True
        if self._waiting is not None:
            self._waiting.cancel()
        return not was_cancelled

    def __await__(self) -> Generator[Any, None, Any]:
        return self._response().__await__()

    async def _response(self) -> Any:
        return await (await self._start())

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for response in await self._start():
            yield response

    async def _start(self) -> Any:
        """Start the call on a channel with a ready replica. Without one, the call fails immediately.

        The replica may stop being ready before gRPC sends the call. A call with a short time-out then waits until gRPC
        finds another one.
        """
        timeout, began = self._options.get("timeout"), time.monotonic()
        if self._is_cancelled:
            raise asyncio.CancelledError
        is_ready = self._channel.is_ready() or await self._until_ready(math.inf if timeout is None else timeout)
        if self._is_cancelled:
            raise asyncio.CancelledError
        if self._call is not None:  # Another task awaits the same call.
            return self._call
        if timeout is not None:
            self._options["timeout"] = max(began + timeout - time.monotonic(), 0)
        may_wait = is_ready and timeout is not None and timeout <= _WAIT_SECONDS_MAX
        self._call = self._method(self._request, wait_for_ready=may_wait, **self._options)
        return self._call

    async def _until_ready(self, seconds_max: float) -> bool:
        """Wait in a task, which `cancel` ends."""
        self._waiting = asyncio.ensure_future(self._channel.until_ready(seconds_max=seconds_max))
        try:
            return await self._waiting
        finally:
            self._waiting = None
