"""A DNS server controlled by the test, and replicas of a service at its addresses."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self, cast

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.integration.common.grpc_world import handlers
from tests.ports import free_port

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class Resolver(asyncio.DatagramProtocol):
    """A DNS server that answers every name with one IPv4 address, or with none."""

    address = ADDRESSES[0]
    """Empty when the name has no address."""

    def __init__(self) -> None:
        self.port = free_port()
        """Where every replica listens."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer a question for an A record with the address, and any other with nothing."""
        question = data[12 : data.index(0, 12) + 5]
        has_address = self.address and question.endswith(b"\0\1\0\1")
        answers = [b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(self.address)] if has_address else []
        counts = bytes([0, 1, 0, len(answers), 0, 0, 0, 0])
        self._transport.sendto(data[:2] + b"\x84\0" + counts + question + b"".join(answers), addr)

    @property
    def target(self) -> str:
        """The gRPC target to resolve, and the resolver's address."""
        return "dns://{}:{}/quota:{}".format(*self._transport.get_extra_info("sockname"), self.port)


@asynccontextmanager
async def resolving() -> AsyncIterator[Resolver]:
    """Run a resolver for the block."""
    transport, resolver = await asyncio.get_running_loop().create_datagram_endpoint(
        Resolver, local_addr=("127.0.0.1", 0)
    )
    try:
        yield resolver
    finally:
        transport.close()


class Replica:
    """A service with health that answers as the test says; by default with its address, also as a stream."""

    def __init__(self, address: str, port: int, **behaviours: Any) -> None:
        self._health = health.aio.HealthServicer()
        self._server = aio.server(options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

        async def ask(request: bytes, context: Any) -> bytes:
            return address.encode()

        async def listen(request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield address.encode()

        self._server.add_generic_rpc_handlers((handlers(**{"ask": ask, "stream": listen, **behaviours}),))
        self._server.add_insecure_port(f"{address}:{port}")

    async def drain(self) -> None:
        """Report that it is not ready any more, and continue serving."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float = 0) -> None:
        """Stop when nothing is in progress, within `grace` seconds."""
        await self._server.stop(grace)

    async def __aenter__(self) -> Self:
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
