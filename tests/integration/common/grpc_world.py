"""A real gRPC server in the test process with scripted handlers."""

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from services.common.rpc.channel import open_channel
from services.common.rpc.interceptors import ServiceInterceptor

SERVICE = "tests.Echo"


_KINDS = {
    "stream": grpc.unary_stream_rpc_method_handler,
    "collect": grpc.stream_unary_rpc_method_handler,
    "talk": grpc.stream_stream_rpc_method_handler,
}


def handlers(**behaviours: Any) -> grpc.GenericRpcHandler:
    """Return handlers of bytes; the prefix `stream`, `collect` or `talk` makes output, input or both streaming."""
    return grpc.method_handlers_generic_handler(SERVICE, table(**behaviours))


def table(**behaviours: Any) -> dict[str, Any]:
    """Return handlers by their methods' names."""
    return {
        name: _KINDS.get(name.partition("_")[0], grpc.unary_unary_rpc_method_handler)(behaviour, _same, _same)
        for name, behaviour in behaviours.items()
    }


@asynccontextmanager
async def served(**behaviours: Any) -> AsyncIterator[aio.Channel]:
    """Yield a channel to a server with our interceptor and scripted handlers."""
    socket = socket_path()
    server = aio.server(interceptors=[ServiceInterceptor()])
    server.add_generic_rpc_handlers((handlers(**behaviours),))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        async with open_channel(f"unix:{socket}") as channel:
            yield channel
    finally:
        await server.stop(None)
        socket.unlink(missing_ok=True)


def unary(channel: aio.Channel, name: str) -> Callable[..., Any]:
    """Return a caller of a unary method."""
    return channel.unary_unary(f"/{SERVICE}/{name}", _same, _same)


def stream(channel: aio.Channel, name: str) -> Callable[..., Any]:
    """Return a caller of a streaming method."""
    return channel.unary_stream(f"/{SERVICE}/{name}", _same, _same)


def socket_path() -> Path:
    """Return a short path for a Unix socket."""
    return Path(f"/tmp/grpc-test-{uuid.uuid4().hex[:12]}.sock")


def _same(raw: bytes) -> bytes:
    return raw
