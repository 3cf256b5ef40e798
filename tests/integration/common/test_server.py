"""One gRPC server from start to drain, in this process and over real sockets."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.common.errors import StartError
from services.common.rpc.channel import open_channel
from services.common.rpc.health import Health
from services.common.rpc.server import LIVENESS, GrpcServer
from services.common.rpc.types import Context
from services.common.runtime.settings import ServiceSettings
from tests.integration.common.grpc_world import handlers, socket_path, stream, unary

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Running:
    """A running server and a client of it."""

    def __init__(self, task: "asyncio.Task[None]", channel: aio.Channel) -> None:
        self.task = task
        self.channel = channel

    async def health(self, name: str = "") -> int:
        """Return the status of a health name."""
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        request = health_pb2.HealthCheckRequest(service=name)
        response = await stub.Check(request, wait_for_ready=True, timeout=10)
        return int(response.status)

    async def stops(self) -> None:
        """Send the real signal, and return when readiness has failed."""
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)
        try:
            # An open watch would be a call in progress, which the server waits for.
            assert (await watch.read()).status == SERVING
            signal.raise_signal(signal.SIGTERM)
            assert (await watch.read()).status == NOT_SERVING
        finally:
            watch.cancel()


@asynccontextmanager
async def running(
    drain_seconds: float = 0, grace_seconds: float = 10, on_drain: Callable[[], None] = lambda: None, **behaviours: Any
) -> AsyncIterator[Running]:
    """Run a server until the block ends; the signal that stops it is real.

    The client's channel is a plain one: ours follow health and would leave when the server reports that it stops.
    """
    path = socket_path()
    server = GrpcServer(f"unix:{path}", _settings(drain_seconds=drain_seconds, grace_seconds=grace_seconds))
    server.grpc.add_generic_rpc_handlers((handlers(**behaviours),))
    task = asyncio.create_task(server.run([], on_drain=on_drain))
    try:
        async with aio.insecure_channel(f"unix:{path}") as channel:
            one = Running(task, channel)
            await one.health()
            yield one
            if not task.done():
                signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(task, 20)
    finally:
        path.unlink(missing_ok=True)


def _settings(**changes: float) -> ServiceSettings:
    return ServiceSettings(**changes)  # type: ignore[arg-type]


async def test_a_call_made_while_the_server_starts_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Health.begin

    async def begin_late(self: Health) -> None:
        await asyncio.sleep(0.3)
        await begin(self)

    monkeypatch.setattr(Health, "begin", begin_late)
    path = socket_path()
    server = GrpcServer(f"unix:{path}", _settings())
    server.grpc.add_generic_rpc_handlers((handlers(echo=_echo),))
    task = asyncio.create_task(server.run([]))
    try:
        while not path.exists():
            await asyncio.sleep(0.001)
        async with open_channel(f"unix:{path}") as channel:  # Follows health, as the channels between services do.
            assert await unary(channel, "echo")(b"hello", timeout=10) == b"hello"
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(task, 20)
    finally:
        path.unlink(missing_ok=True)


async def _echo(request: bytes, context: Context) -> bytes:
    return request


async def test_a_started_server_is_ready_and_alive_and_lists_its_services() -> None:
    async with running() as one:
        assert await one.health() == SERVING
        assert await one.health(LIVENESS) == SERVING
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(one.channel)  # type: ignore[arg-type]
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = [response async for response in stub.ServerReflectionInfo(iter([asked]))]
    names = {service.name for service in answer.list_services_response.service}
    assert {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= names


async def test_a_stopping_server_is_unready_first_and_still_answers_new_calls() -> None:
    async def echo(request: bytes, context: Context) -> bytes:
        return request

    async with running(drain_seconds=0.6, echo=echo) as one:
        await one.stops()

        assert await unary(one.channel, "echo")(b"late", timeout=5) == b"late"
        assert not one.task.done()


async def test_a_server_drains_for_half_a_second_at_most() -> None:
    """A call that was made before its caller noticed waits until the server stops, and may have a deadline of 1 s."""
    async with running(drain_seconds=60) as one:
        began = time.monotonic()
        await one.stops()
        await asyncio.wait_for(one.task, 5)
    assert 0.4 < time.monotonic() - began < 1.4


async def test_a_stream_in_flight_is_finished_before_the_server_stops() -> None:
    going_on = asyncio.Event()

    async def stream_slow(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"one"
        await going_on.wait()
        yield b"two"

    async with running(stream_slow=stream_slow) as one:
        call = stream(one.channel, "stream_slow")(b"")
        parts = aiter(call)
        assert await anext(parts) == b"one"
        await one.stops()
        assert not one.task.done()
        going_on.set()
        assert [part async for part in parts] == [b"two"]
        await asyncio.wait_for(one.task, 5)


async def test_a_call_that_exceeds_the_grace_period_is_cancelled() -> None:
    async def stream_endless(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.Event().wait()

    async with running(grace_seconds=0.1, stream_endless=stream_endless) as one:
        parts = aiter(stream(one.channel, "stream_endless")(b""))
        await anext(parts)
        signal.raise_signal(signal.SIGTERM)

        with pytest.raises(grpc.aio.AioRpcError):
            await anext(parts)

        await asyncio.wait_for(one.task, 5)


@pytest.mark.parametrize(("drain_seconds", "grace_seconds"), [(60, 60), (0, 60)])
async def test_a_second_signal_cancels_the_calls_in_progress_without_waiting(
    drain_seconds: float, grace_seconds: float
) -> None:
    async def stream_endless(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.Event().wait()

    async with running(drain_seconds, grace_seconds, stream_endless=stream_endless) as one:
        parts = aiter(stream(one.channel, "stream_endless")(b""))
        await anext(parts)
        await one.stops()
        signal.raise_signal(signal.SIGTERM)

        with pytest.raises(grpc.aio.AioRpcError):
            await anext(parts)

        await asyncio.wait_for(one.task, 5)


async def test_endless_streams_are_ended_after_callers_had_time_to_leave() -> None:
    drained = asyncio.Event()

    async def stream_watch(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"one"
        await drained.wait()
        yield b"end"

    async with running(on_drain=drained.set, stream_watch=stream_watch) as one:
        parts = aiter(stream(one.channel, "stream_watch")(b""))
        await anext(parts)
        signal.raise_signal(signal.SIGTERM)

        assert [part async for part in parts] == [b"end"]


async def test_a_port_in_use_is_reported_in_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = GrpcServer(address, _settings())

        with pytest.raises(StartError, match=f"Cannot listen on {address}: the port is in use"):
            await server.run([])


async def test_a_failover_channel_moves_to_another_replica_as_soon_as_one_starts_to_stop() -> None:
    """Calls that arrive as a server stops would be cancelled, and their outcome would be unknown."""
    answered: list[str] = []

    def by(name: str) -> Callable[[bytes, Context], Any]:
        async def echo(request: bytes, context: Context) -> bytes:
            answered.append(name)
            return request

        return echo

    paths = [socket_path(), socket_path()]
    servers = [GrpcServer(f"unix:{path}", _settings(drain_seconds=5, grace_seconds=1)) for path in paths]
    for server, name in zip(servers, ("leaving", "staying"), strict=True):
        server.grpc.add_generic_rpc_handlers((handlers(echo=by(name)),))
        await server._start([])
    async with open_channel("unix:" + ",".join(map(str, paths))) as channel:
        call = unary(channel, "echo")
        async with asyncio.timeout(5):
            while set(answered) != {"leaving", "staying"}:
                await call(b"x", timeout=5, wait_for_ready=True)
        await servers[0]._health.leave()
        async with asyncio.timeout(5):
            while answered[-10:] != ["staying"] * 10:
                await call(b"x", timeout=5)
        answered.clear()
        for _ in range(20):
            await call(b"x", timeout=5)
    assert set(answered) == {"staying"}
    for server, path in zip(servers, paths, strict=True):
        await server.grpc.stop(0)
        path.unlink(missing_ok=True)
