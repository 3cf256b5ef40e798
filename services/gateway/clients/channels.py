"""gRPC channels to the other services."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from grpc import aio

from services.common.rpc.channel import open_channel
from services.gateway.settings import GatewaySettings


@dataclass(frozen=True, slots=True)
class Channels:
    """A channel to each service."""

    auth: aio.Channel
    quota: aio.Channel
    inference: aio.Channel


async def open_channels(settings: GatewaySettings, stack: AsyncExitStack) -> Channels:
    """Return channels that `stack` closes."""
    certificates = settings.certificates()
    auth, quota, inference = [
        await stack.enter_async_context(open_channel(target, certificates, service=service))
        for service, target in settings.targets
    ]
    return Channels(auth, quota, inference)
