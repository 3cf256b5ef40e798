"""A proxy in front of auth that can block the watch: look-ups pass, but changes are no longer reported.

This is what an intermediary does that keeps a connection open and loses its stream. It forwards raw bytes without
parsing messages, and counts the look-ups. Run it as `python -m tests.e2e.auth_proxy`.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
from grpc import aio

from services.common.rpc.channel import open_channel

_LOOK_UP = "/stack.auth.v1.AuthService/Authenticate"
_WATCH = "/stack.auth.v1.AuthService/WatchKeys"
_WATCH_HEALTH = "/grpc.health.v1.Health/Watch"
_BLOCK, _UNBLOCK, _COUNT = "/proxy/Swallow", "/proxy/Release", "/proxy/Count"


class Remote:
    """Controls a running proxy."""

    def __init__(self, target: str) -> None:
        """Control the proxy at `target`."""
        self.target = target

    async def block_watches(self) -> None:
        """From now on leave watches, old and new, open without events."""
        await self._call(_BLOCK)

    async def unblock_watches(self) -> None:
        """End the blocked watches, and let new ones through."""
        await self._call(_UNBLOCK)

    async def look_ups(self) -> int:
        """Return the look-ups so far."""
        return int(await self._call(_COUNT))

    async def _call(self, method: str) -> bytes:
        async with open_channel(self.target) as channel:
            call: Any = channel.unary_unary(method)
            answer: bytes = await call(b"", timeout=5)
            return answer


class _Proxy(grpc.GenericRpcHandler):
    def __init__(self, channel: aio.Channel) -> None:
        self._channel = channel
        self._swallows = asyncio.Event()
        self._lets_through = asyncio.Event()
        self._lets_through.set()
        self._look_ups = 0

    def service(self, handler_call_details: Any) -> Any:
        method: str = handler_call_details.method
        if method == _WATCH_HEALTH:
            return None  # Unimplemented, which channels treat as ready.
        if method == _WATCH:
            return grpc.unary_stream_rpc_method_handler(self._watch)
        if method in (_BLOCK, _UNBLOCK, _COUNT):
            return grpc.unary_unary_rpc_method_handler(partial(self._steer, method))
        return grpc.unary_unary_rpc_method_handler(partial(self._pass_on, method))

    async def _steer(self, method: str, request: bytes, context: Any) -> bytes:
        if method == _BLOCK:
            self._lets_through.clear()
            self._swallows.set()
        elif method == _UNBLOCK:
            self._swallows.clear()
            self._lets_through.set()
        return str(self._look_ups).encode()

    async def _pass_on(self, method: str, request: bytes, context: Any) -> bytes:
        self._look_ups += method == _LOOK_UP
        call: Any = self._channel.unary_unary(method)
        try:
            answer: bytes = await call(request, timeout=context.time_remaining())
        except aio.AioRpcError as exc:
            await context.abort(exc.code(), exc.details() or "")
        return answer

    async def _watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        if not self._swallows.is_set():
            call: Any = self._channel.unary_stream(_WATCH)
            events = call(request)
            try:
                async for event in events:
                    if self._swallows.is_set():
                        break
                    yield event
            except aio.AioRpcError as exc:
                await context.abort(exc.code(), exc.details() or "")
            finally:
                events.cancel()
        await self._lets_through.wait()


async def _serve(listen: str, upstream: str) -> None:
    async with open_channel(upstream) as channel:
        server = aio.server(handlers=[_Proxy(channel)])
        server.add_insecure_port(listen)
        await server.start()
        await server.wait_for_termination()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(*sys.argv[1:]))
