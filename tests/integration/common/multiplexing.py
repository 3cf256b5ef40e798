"""Multiplexed calls against a real gRPC server in the test process, with scripted answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from grpc import aio

from services.common.rpc.channel import open_channel
from services.common.rpc.interceptors import ServiceInterceptor
from services.common.rpc.multiplex.client import MultiplexClient
from services.common.rpc.multiplex.server import MultiplexServer, Put
from services.common.rpc.multiplex.stream import CallStream
from stack.inference.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.common.grpc_world import socket_path

SECONDS = 10
Answer = Callable[[str, Put], Awaitable[None]]
"""Answers a call, given its text."""


async def until_open(client: MultiplexClient) -> CallStream:
    """Return a stream, once the client has opened one."""
    async with asyncio.timeout(SECONDS):
        while (stream := client.stream()) is None:
            await asyncio.sleep(0.01)
    return stream


def call(text: str = "") -> inference_pb2.MultiplexedCall:
    """Return a call with a text."""
    return inference_pb2.MultiplexedCall(chat_json=text.encode())


def last(text: bytes = b"") -> inference_pb2.MultiplexedResult:
    """Return the last result of a call."""
    return inference_pb2.MultiplexedResult(completion_json=text, is_last=True)


def chunk(text: bytes) -> inference_pb2.MultiplexedResult:
    """Return a result that is not the last one."""
    return inference_pb2.MultiplexedResult(chunks_json=[text])


def chunk_size(result: inference_pb2.MultiplexedResult) -> int:
    """Return the size of a result, as the service counts it."""
    return sum(map(len, result.chunks_json))


class Replica(inference_pb2_grpc.InferenceServiceServicer):
    """A replica of a service whose calls are answered by a function of the test.

    Attributes:
        calls: Texts of the calls that were started.
        cancelled: Texts of the calls that were cancelled.
    """

    def __init__(self, answer: Answer) -> None:
        self.calls: list[str] = []
        self.cancelled: list[str] = []
        self._answer = answer
        self.multiplexed = MultiplexServer(
            self._handle,
            response_type=inference_pb2.MultiplexResponse,
            result_type=inference_pb2.MultiplexedResult,
            method_of=lambda _: "/tests.Echo/Call",
        )

    async def CreateChatCompletion(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    StreamChatCompletion = ListModels = GetDependencies = CreateChatCompletion  # type: ignore[assignment]

    async def Multiplex(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        await self.multiplexed.serve(context)

    async def _handle(self, one: inference_pb2.MultiplexedCall, put: Put) -> None:
        text = one.chat_json.decode()
        self.calls.append(text)
        try:
            await self._answer(text, put)
        except asyncio.CancelledError:
            self.cancelled.append(text)
            raise


@asynccontextmanager
async def serving(servicer: inference_pb2_grpc.InferenceServiceServicer, target: str) -> AsyncIterator[aio.Server]:
    """Serve on an address until the end of the block."""
    server = aio.server(interceptors=[ServiceInterceptor()])
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)
    server.add_insecure_port(target)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(None)


@asynccontextmanager
async def client_of(
    servicer: inference_pb2_grpc.InferenceServiceServicer, *, timeout_seconds: float = SECONDS
) -> AsyncIterator[tuple[MultiplexClient, aio.Server]]:
    """Yield a client and the server of one replica."""
    path = socket_path()
    target = f"unix:{path}"
    async with (
        serving(servicer, target) as server,
        open_channel(target) as channel,
        multiplex_client(lambda: channel, timeout_seconds=timeout_seconds) as client,
    ):
        yield client, server
    path.unlink(missing_ok=True)


def multiplex_client(channel: Callable[[], aio.Channel], *, timeout_seconds: float = SECONDS) -> MultiplexClient:
    """Return a client of the calls of `Replica`, which opens each stream on what `channel` returns."""
    return MultiplexClient(
        lambda: inference_pb2_grpc.InferenceServiceStub(channel()).Multiplex(),
        inference_pb2.MultiplexRequest,
        service="inference",
        timeout_seconds=timeout_seconds,
    )
