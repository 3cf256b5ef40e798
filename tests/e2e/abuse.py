"""Abusive clients, each in a loop, and the latency of well-behaved ones at the same time."""

import asyncio
import multiprocessing
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

import aiohttp

from tests.e2e.stack import Key, say

_BYTES = 4 * 1024 * 1024 - 1_000


def filled(before: bytes, unit: bytes, after: bytes, *, size: int = _BYTES) -> bytes:
    """Return a body of `size` that repeats one element."""
    return before + b",".join([unit] * ((size - len(before)) // (len(unit) + 1))) + after


SMALL_VALUES = (
    filled(b'{"messages":[', b'{"role":"user","content":"a"}', b"]}"),
    filled(b'{"messages":[{"role":"user","content":[', b'{"type":"text","text":"a"}', b"]}]}"),
    filled(
        b'{"messages":[{"role":"assistant","tool_calls":[',
        b'{"id":"a","function":{"name":"a","arguments":""}}',
        b"]}]}",
    ),
    filled(b'{"messages":[', b"{}", b"]}"),
    filled(b'{"messages":[{"role":"user","content":"a"}],"documents":[', b"[" * 900 + b"]" * 900, b"]}"),
    filled(b'{"messages":[{"role":"user","content":"a"}],"metadata":{', b'"a":1', b"}}"),
    b'{"messages":[{"role":"user","content":"' + b"a, [{" * 800_000 + b'"}],"unheard_of":1}',
    b"[" * _BYTES,
)
"""Bodies that are refused, each as expensive as possible."""


@contextmanager
def abusive_clients(url: str, keys: Sequence[Key], bodies: Sequence[bytes]) -> Iterator[Counter[int]]:
    """Have one client per key send one body after the other for the block, in a separate process.

    Yields how often each status came, available after the block.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hammer_until_stopped, args=(url, list(keys), list(bodies), theirs), daemon=True)
    process.start()
    statuses: Counter[int] = Counter()
    try:
        yield statuses
    finally:
        ours.send("stop")
        statuses.update(ours.recv())
        process.join(10)


def _hammer_until_stopped(
    url: str, keys: list[Key], bodies: list[bytes], pipe: "Connection[Counter[int], str]"
) -> None:
    async def main() -> Counter[int]:
        statuses: Counter[int] = Counter()
        clients = [
            asyncio.create_task(_hammer(url, key, bodies[number % len(bodies)], statuses))
            for number, key in enumerate(keys)
        ]
        await asyncio.to_thread(pipe.recv)
        for one in clients:
            assert not one.done(), one.exception()
            one.cancel()
        return statuses

    pipe.send(asyncio.run(main()))


async def _hammer(url: str, key: Key, body: bytes, statuses: Counter[int]) -> None:
    """Send repeatedly, over a new connection each time, and read the response."""
    address = urlsplit(url)
    fields = "".join(f"{name}: {value}\r\n" for name, value in key.headers.items())
    head = f"POST {address.path} HTTP/1.1\r\nhost: a\r\n{fields}content-length: {len(body)}\r\n\r\n".encode()
    while True:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            writer.write(head)
            writer.write(body)
            statuses[int((await reader.readline()).split()[1])] += 1
            await writer.drain()
        except (ConnectionError, IndexError):
            statuses[0] += 1
        finally:
            writer.close()


async def latencies(url: str, key: Key, *, seconds: float, pause_seconds: float = 0.01) -> list[float]:
    """Call repeatedly as a well-behaved client does; return the durations of the calls, in seconds."""
    taken: list[float] = []
    ends = time.monotonic() + seconds
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < ends:
            began = time.perf_counter()
            async with session.post(url, headers=key.headers, json=say("hi")) as response:
                assert response.status == 200, await response.text()
                await response.read()
            taken.append(time.perf_counter() - began)
            await asyncio.sleep(pause_seconds)
    return taken


def p99(taken: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return statistics.quantiles(taken, n=100)[98]
