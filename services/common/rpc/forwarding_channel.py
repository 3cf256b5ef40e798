"""Base classes of channels that forward their calls to other channels."""

import asyncio
from abc import abstractmethod
from types import TracebackType
from typing import Any, Self

import grpc
from grpc import aio

_RETIRE_SECONDS = 150.0
"""How long a replaced channel is kept. Streams in flight outlive it."""


class ForwardingChannel(aio.Channel):
    """A channel that forwards to another one everything that a subclass does not override."""

    @abstractmethod
    def current(self) -> aio.Channel:
        """Return the channel for new calls. Call it from the event loop only."""

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
    """Replaced channels. They are not closed, which would cancel their streams, but released when those have ended."""

    def __init__(self) -> None:
        self._channels: set[aio.Channel] = set()

    def add(self, channel: aio.Channel) -> None:
        """Keep a channel for 150 s. After that, only its calls keep it alive."""
        self._channels.add(channel)
        asyncio.get_running_loop().call_later(_RETIRE_SECONDS, self._channels.discard, channel)

    async def close(self, grace: float | None) -> None:
        """Close the channels that are still kept."""
        await asyncio.gather(*(channel.close(grace) for channel in self._channels))


class CurrentMethod:
    """An RPC method that is called on the current channel."""

    __slots__ = ("_args", "_call", "_channel", "_kind", "_kwargs", "_owner")

    def __init__(self, owner: ForwardingChannel, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Create a method.

        Args:
            owner: Channel that provides the current channel.
            kind: Kind of the method, such as `unary_unary`.
            args: Positional arguments that a stub passes to create the method.
            kwargs: Keyword arguments that a stub passes to create the method.
        """
        self._owner, self._kind, self._args, self._kwargs = owner, kind, args, kwargs
        self._channel: aio.Channel | None = None
        self._call: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Start a call."""
        channel = self._owner.current()
        if channel is not self._channel:
            self._channel, self._call = channel, getattr(channel, self._kind)(*self._args, **self._kwargs)
        return self._call(*args, **kwargs)
