"""`python -m bench.bare_call`: CPU time of an empty gRPC call, and of a message on an open stream."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
import uvloop
from grpc import aio

from bench.processes import Process, plain_environment

_PAYLOAD = b"x" * 800
_CALLS, _AT_ONCE = 6_000, 32
_METHOD = "/bench.Bare/"


class _Bare(grpc.GenericRpcHandler):
    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method == _METHOD + "Call":
            return grpc.unary_unary_rpc_method_handler(self._call)
        return grpc.stream_stream_rpc_method_handler(self._stream)

    async def _call(self, request: bytes, context: Any) -> bytes:
        return request

    async def _stream(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            yield request


async def _serve(target: str) -> None:
    server = aio.server()
    server.add_generic_rpc_handlers((_Bare(),))
    server.add_insecure_port(target)
    await server.start()
    await server.wait_for_termination()


async def _measure(target: str, server: int) -> None:
    async with aio.insecure_channel(target) as channel:
        await channel.channel_ready()
        call: Any = channel.unary_unary(_METHOD + "Call")
        stream: Any = channel.stream_stream(_METHOD + "Stream")()
        await _report("a unary call", server, lambda: _all_calls(call))
        await _report("a message and its answer on one stream", server, lambda: _all_messages(stream))
        stream.cancel()


async def _all_calls(call: Any) -> None:
    async def some() -> None:
        for _ in range(_CALLS // _AT_ONCE):
            await call(_PAYLOAD)

    await asyncio.gather(*(some() for _ in range(_AT_ONCE)))


async def _all_messages(stream: Any) -> None:
    room = asyncio.Semaphore(_AT_ONCE)

    async def read() -> None:
        for _ in range(_CALLS):
            await stream.read()
            room.release()

    reading = asyncio.create_task(read())
    for _ in range(_CALLS):
        await room.acquire()
        await stream.write(_PAYLOAD)
    await reading


async def _report(name: str, server: int, work: Callable[[], Awaitable[None]]) -> None:
    await work()  # Warm up.
    before = [_cpu_seconds(pid) for pid in (os.getpid(), server)]
    await work()
    client_ms, server_ms = [
        (_cpu_seconds(pid) - one) * 1000 / _CALLS for pid, one in zip((os.getpid(), server), before, strict=True)
    ]
    print(f"{name}: {client_ms:.3f} ms of CPU in the client, {server_ms:.3f} ms in the server")


def _cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def main() -> None:
    """Start a server, measure calls and messages, and print the results."""
    with tempfile.TemporaryDirectory(prefix="bare-", dir="/tmp") as name:
        target = f"unix:{name}/bare.sock"
        command = (sys.executable, "-m", "bench.bare_call", target)
        server = Process(command, log=Path(name) / "bare.log", environment=plain_environment())
        try:
            uvloop.run(_measure(target, server.pid))
        finally:
            server.stop()


if __name__ == "__main__":
    if sys.argv[1:]:
        uvloop.run(_serve(sys.argv[1]))
    else:
        main()
