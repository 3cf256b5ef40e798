"""Channels find services again that moved to another address, as pods do."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.common.channel import open_channel
from tests.e2e.stack import free_port

_ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class Resolver(asyncio.DatagramProtocol):
    """A DNS server that knows one IPv4 address for every name."""

    address = _ADDRESSES[0]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer a question for an A record with the address, and any other with nothing."""
        question = data[12 : data.index(0, 12) + 5]
        record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(self.address)
        answers = [record] if question.endswith(b"\0\1\0\1") else []
        counts = bytes([0, 1, 0, len(answers), 0, 0, 0, 0])
        self._transport.sendto(data[:2] + b"\x84\0" + counts + question + b"".join(answers), addr)


@pytest.fixture
async def resolver() -> AsyncIterator[tuple[Resolver, str]]:
    """A resolver and its `host:port`."""
    transport, resolver = await asyncio.get_running_loop().create_datagram_endpoint(
        Resolver, local_addr=("127.0.0.1", 0)
    )
    yield resolver, "{}:{}".format(*transport.get_extra_info("sockname"))
    transport.close()


async def _pod(address: str, port: int) -> aio.Server:
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"{address}:{port}")
    await server.start()
    return server


async def _seconds_until_answered(stub: Any) -> float:
    started = time.monotonic()
    while True:
        try:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
            return time.monotonic() - started
        except aio.AioRpcError:
            assert time.monotonic() < started + 60, "never found again"
            await asyncio.sleep(0.05)


async def test_a_service_that_moves_twice_in_a_moment_is_found_both_times(resolver: tuple[Resolver, str]) -> None:
    """gRPC would look a name up once in 30 s, and every caller would be refused for as long."""
    names, authority = resolver
    port = free_port()
    async with AsyncExitStack() as stack:
        pods = [await _pod(address, port) for address in _ADDRESSES]
        for pod in pods:
            stack.push_async_callback(pod.stop, 0)
        channel = await stack.enter_async_context(open_channel(f"dns://{authority}/auth:{port}"))
        stub = health_pb2_grpc.HealthStub(channel)
        await _seconds_until_answered(stub)
        for gone, address in zip(pods, _ADDRESSES[1:], strict=False):
            names.address = address
            await gone.stop(0)
            assert await _seconds_until_answered(stub) < 10
