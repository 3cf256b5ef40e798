"""Readiness probes for the programs of a stack."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.common.rpc.channel import open_channel

_POLL_SECONDS = 0.05
_PROBE_SECONDS = 1.0
_CHECKED_SECONDS = 6.0
"""Slightly longer than the longest dependency check."""


def local_http(timeout: float) -> httpx.AsyncClient:
    """Return a client for plain HTTP on this machine. It skips loading certificate authorities, which takes 15 ms."""
    return httpx.AsyncClient(trust_env=False, verify=False, timeout=timeout)


async def until(probe: Callable[[], Awaitable[bool]]) -> None:
    """Call `probe` repeatedly until it returns True. Callers must set a timeout."""
    while True:
        if await probe():
            return
        await asyncio.sleep(_POLL_SECONDS)


async def grpc_serves(target: str) -> bool:
    """Return whether a gRPC service reports SERVING."""
    async with open_channel(target) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=_PROBE_SECONDS)
        except aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def http_answers(url: str) -> bool:
    """Return whether a GET of `url` returns 200."""
    async with local_http(_PROBE_SECONDS) as client:
        try:
            return (await client.get(url)).status_code == 200
        except httpx.HTTPError:
            return False


async def problems(url: str) -> list[str]:
    """Return the messages of failed dependencies from `GET /readyz`, once all of them have been checked.

    Dependencies that are not checked within a few seconds are left out.
    """
    dependencies: dict[str, Any] = {}
    async with local_http(_PROBE_SECONDS) as client:
        deadline = time.monotonic() + _CHECKED_SECONDS
        while time.monotonic() < deadline:
            with suppress(httpx.HTTPError):
                dependencies = (await client.get(url)).json()["dependencies"]
            if dependencies and all(one["state"] != "unknown" for one in dependencies.values()):
                break
            await asyncio.sleep(_POLL_SECONDS)
    return [one["message"] for one in dependencies.values() if one["state"] in ("rejected", "unreachable")]


async def valkey_answers(socket: Path) -> bool:
    """Return whether the Valkey at a Unix socket responds. It does not while it loads its data."""
    client: Redis = Redis(unix_socket_path=str(socket), socket_timeout=_PROBE_SECONDS)
    try:
        return bool(await client.ping())
    except (RedisError, OSError):
        return False
    finally:
        await client.aclose()
