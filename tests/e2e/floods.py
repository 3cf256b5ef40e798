"""Floods of bad keys over raw connections, and the latency of valid calls during them."""

import asyncio
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from tests.e2e.auth_proxy import Remote
from tests.e2e.stack import Key, say

_CONNECTIONS = 8
_CALLS_MIN = 60


@dataclass(frozen=True)
class Flood:
    """The result of a flood."""

    statuses: Counter[int]
    """How many requests got which status."""
    seconds: float
    latencies: list[float]
    """Of the valid calls meanwhile, in seconds."""
    look_ups: int
    """Keys that auth was called for."""

    def summary(self, before: Sequence[float]) -> str:
        """Describe it, with the latencies before it."""
        then, now = p50_p95(before), p50_p95(self.latencies)
        ratios = ", ".join(f"{after / earlier:.1f}" for after, earlier in zip(now, then, strict=True))
        return (
            f"{self.statuses.total() / self.seconds:,.0f} keys/s, {dict(self.statuses)}, auth saw {self.look_ups}; "
            f"valid calls' p50 and p95 {then} -> {now} s, ratios {ratios}"
        )


async def flood(session: aiohttp.ClientSession, url: str, keys: Sequence[str], valid: Key, proxy: Remote) -> Flood:
    """Send a request with each of `keys` as fast as they are accepted, and call with a `valid` key meanwhile."""
    looked_up, began = await proxy.look_ups(), time.monotonic()
    flooding = asyncio.create_task(_flood(url, keys))
    felt = await latencies(session, url, valid, goes_on=lambda: not flooding.done())
    return Flood(await flooding, time.monotonic() - began, felt, await proxy.look_ups() - looked_up)


async def latencies(
    session: aiohttp.ClientSession, url: str, key: Key, *, goes_on: Callable[[], bool] = lambda: False
) -> list[float]:
    """Call repeatedly, a number of times and then while `goes_on` holds; return the durations in seconds."""
    taken: list[float] = []
    while len(taken) < _CALLS_MIN or goes_on():
        started = time.perf_counter()
        async with session.post(url, headers=key.headers, json=say("hi")) as response:
            assert response.status == 200, await response.text()
            await response.read()
        taken.append(time.perf_counter() - started)
    return taken


def p50_p95(taken: Sequence[float]) -> tuple[float, float]:
    """Return the 50th and the 95th percentile, to a tenth of a millisecond."""
    hundredths = statistics.quantiles(taken, n=100)
    return round(hundredths[49], 4), round(hundredths[94], 4)


async def _flood(url: str, keys: Sequence[str]) -> Counter[int]:
    statuses: Counter[int] = Counter()
    shares = [keys[number::_CONNECTIONS] for number in range(_CONNECTIONS)]
    for share in await asyncio.gather(*(_flood_over_one_connection(url, share) for share in shares)):
        statuses += share
    return statuses


async def _flood_over_one_connection(url: str, keys: Sequence[str]) -> Counter[int]:
    """Send without waiting for responses (HTTP/1.1 pipelining), so that the client is not the bottleneck."""
    parsed = urlsplit(url)
    reader, writer = await asyncio.open_connection(parsed.hostname, parsed.port)
    statuses: Counter[int] = Counter()

    async def read() -> None:
        for _ in keys:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))  # type: ignore[index]
            statuses[int(head.split(b" ", 2)[1])] += 1

    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        for key in keys:
            head = f"POST {parsed.path} HTTP/1.1\r\nHost: flood\r\nAuthorization: Bearer {key}\r\n"
            writer.write(f"{head}Content-Length: 0\r\n\r\n".encode())
            await writer.drain()
    writer.close()
    return statuses
