"""Latency of a well-behaved client during abuse by others: `make test-abuse`, minutes long."""

import asyncio
import json
import os
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.e2e.abuse import SMALL_VALUES, abusive_clients, latencies, p99
from tests.e2e.stack import Key, Stack, running_stack, say

pytestmark = pytest.mark.skipif(not os.environ.get("ABUSE"), reason="takes minutes; run `make test-abuse`")

_CLIENTS = 8
_SECONDS = 30.0
_STREAM_BYTES, _BYTES_A_SECOND = 12_000_000, 60_000


@pytest.fixture(params=[0, 1], ids=["processes", "worker"])
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Yield a stack in each layout."""
    with running_stack(workers=request.param) as running:
        yield running


async def _p99_during(stack: Stack, bodies: tuple[bytes, ...], *, daily_limit: int) -> tuple[float, float, str]:
    """Return a well-behaved client's p99 alone, and with eight clients sending `bodies`; and the statuses of the
    latter.
    """
    url = f"{stack.base_url}/api/v1/chat"
    normal = await stack.create_key(daily_limit=10**6)
    unknown_callers = [await stack.create_key(daily_limit=daily_limit) for _ in range(_CLIENTS)]
    await latencies(url, normal, seconds=2)
    alone = await latencies(url, normal, seconds=_SECONDS / 2)
    with abusive_clients(url, unknown_callers, bodies) as statuses:
        await asyncio.sleep(3)
        during = await latencies(url, normal, seconds=_SECONDS)
    assert statuses.total() > 10 * _CLIENTS, statuses
    alone += await latencies(url, normal, seconds=_SECONDS / 2)
    return p99(alone), p99(during), str(dict(statuses))


async def test_eight_clients_sending_invalid_bodies_hardly_slow_down_a_well_behaved_one(stack: Stack) -> None:
    alone, during, reported = await _p99_during(stack, SMALL_VALUES, daily_limit=1_000)
    print(f"\np99 alone {alone * 1000:.1f} ms, with eight clients {during * 1000:.1f} ms; their statuses: {reported}")
    assert during < 2 * alone


async def test_a_client_that_reads_60_kb_a_second_gets_its_12_mb(stack: Stack) -> None:
    key = await stack.create_key()
    got, seconds = await asyncio.to_thread(_read_slowly, stack, key)
    print(f"\n{len(got):,} bytes in {seconds:.0f} s")
    assert len(got) > _STREAM_BYTES
    assert b"data: [DONE]" in got
    assert await stack.until_settled(key) == (1, 0)
    (row,) = stack.ledger(key)
    assert (row["outcome"], row["charged"]) == ("answered", 1)


def _read_slowly(stack: Stack, key: Key) -> tuple[bytes, float]:
    """Read a stream at a fixed rate through a small buffer; return all of it, and the time it took."""
    address = urlsplit(stack.base_url)
    body = json.dumps(say(f"[[standin:big bytes={_STREAM_BYTES // 2}]]", stream=True)).encode()
    fields = "".join(f"{name}: {value}\r\n" for name, value in key.headers.items())
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    connection.settimeout(60)
    connection.connect((address.hostname, address.port))
    head = f"POST /api/v1/chat HTTP/1.1\r\nhost: a\r\n{fields}content-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    got, began = bytearray(), time.monotonic()
    with connection:
        while not got.endswith(b"0\r\n\r\n"):
            part = connection.recv(6_000)
            assert part, f"interrupted after {len(got):,} bytes and {time.monotonic() - began:.0f} s"
            got += part
            time.sleep(max(0.0, len(got) / _BYTES_A_SECOND - (time.monotonic() - began)))
    return bytes(got), time.monotonic() - began
