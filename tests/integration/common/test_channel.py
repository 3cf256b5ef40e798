"""Channels reconnect to services that moved to another address, as pods do."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

from grpc import aio

from services.common.rpc.channel import open_channel
from tests.integration.common.dns_world import ADDRESSES, Replica, resolving
from tests.integration.common.grpc_world import unary


async def _seconds_until_answered(ask: Any) -> float:
    started = time.monotonic()
    while True:
        try:
            await ask(b"", timeout=2)
            return time.monotonic() - started
        except aio.AioRpcError:
            assert time.monotonic() < started + 60, "never reconnected"
            await asyncio.sleep(0.05)


async def test_a_service_that_moves_twice_in_quick_succession_is_found_both_times() -> None:
    """gRPC would resolve a name once in 30 s, and callers would be refused for as long."""
    async with AsyncExitStack() as stack:
        names = await stack.enter_async_context(resolving())
        pods = [await stack.enter_async_context(Replica(address, names.port)) for address in ADDRESSES]
        channel = await stack.enter_async_context(open_channel(names.target))
        ask = unary(channel, "ask")
        await _seconds_until_answered(ask)
        for gone, address in zip(pods, ADDRESSES[1:], strict=False):
            names.address = address
            await gone.stop()
            assert await _seconds_until_answered(ask) < 10
