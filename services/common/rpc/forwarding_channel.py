"""What channels share that make their calls on another one, or on one after the other."""

import asyncio
from abc import abstractmethod
from types import TracebackType
from typing import Any, Self

import grpc
from grpc import aio

_RETIRE_SECONDS = 150.0
"""Longer than a call lives from its first wish for a connection to its end."""


class ForwardingChannel(aio.Channel):
    """A channel that stands before another, which is asked for whatever a subclass does not do itself."""

    @abstractmethod
    def current(self) -> aio.Channel:
        """Return the channel for new calls. Must be called in the event loop."""

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.current().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.current().channel_ready()

    async def close(self, grace: float | None = None) -> None:
        await self.current().close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()


class DrainingChannels:
    """Channels that have been replaced. Closing one would cancel its streams; forgotten, it goes when they end."""

    def __init__(self) -> None:
        """Begin with none."""
        self._channels: set[aio.Channel] = set()

    def add(self, channel: aio.Channel) -> None:
        """Keep a channel for a while, then forget it."""
        self._channels.add(channel)
        asyncio.get_running_loop().call_later(_RETIRE_SECONDS, self._channels.discard, channel)

    async def close(self, grace: float | None) -> None:
        """Close those that are not forgotten yet."""
        await asyncio.gather(*(channel.close(grace) for channel in self._channels))


class CurrentMethod:
    """One RPC method, called on the channel of the moment."""

    __slots__ = ("_args", "_call", "_channel", "_kind", "_kwargs", "_owner")

    def __init__(self, owner: ForwardingChannel, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call a method of that kind, `unary_unary` say, with what a stub tells of it."""
        self._owner, self._kind, self._args, self._kwargs = owner, kind, args, kwargs
        self._channel: aio.Channel | None = None
        self._call: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make a call."""
        channel = self._owner.current()
        if channel is not self._channel:
            self._channel, self._call = channel, getattr(channel, self._kind)(*self._args, **self._kwargs)
        return self._call(*args, **kwargs)
