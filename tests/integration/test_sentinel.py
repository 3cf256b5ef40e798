"""Redis with Sentinels: the primary is discovered, and discovered again after a failover."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import Unavailable
from services.quota.holds import Counter, Held, KeyRef, Reservation
from services.quota.redis.connections import RedisTarget, connect
from services.quota.redis.state import State
from services.quota.redis.store import RedisHoldStore
from tests.valkey_backend import TCPValkey, running_pair

_SERVICE = "stack"
_FAILED_OVER_SECONDS_MAX = 20.0


@dataclass(frozen=True)
class Watched:
    """A primary, its replica, and the Sentinel that monitors them."""

    primary: TCPValkey
    replica: TCPValkey
    sentinel: TCPValkey


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """Yield a pair with a Sentinel that fails over quickly."""
    with running_pair() as (primary, replica):
        configuration = tmp_path / "sentinel.conf"
        configuration.write_text(
            f"sentinel monitor {_SERVICE} 127.0.0.1 {primary.port} 1\n"
            f"sentinel down-after-milliseconds {_SERVICE} 300\n"
            f"sentinel failover-timeout {_SERVICE} 2000\n"
        )
        sentinel = TCPValkey(tmp_path / "sentinel", configuration=configuration)
        try:
            sentinel.wait_until_up()
            yield Watched(primary, replica, sentinel)
        finally:
            sentinel.end()


@pytest.fixture
async def client(watched: Watched) -> AsyncIterator[Any]:
    """A client configured with two Sentinels, of which one does not answer; the URL's host is not used."""
    target = RedisTarget(
        "redis://nowhere.invalid:1/0",
        sentinels=("127.0.0.1:1", f"127.0.0.1:{watched.sentinel.port}"),
        sentinel_service=_SERVICE,
    )
    client = connect(target, timeout_seconds=2)
    yield client
    await client.aclose()


async def test_the_primary_is_found_and_found_again_after_a_failover(watched: Watched, client: Any) -> None:
    store = RedisHoldStore(client, hold_seconds=60)
    await _hold(store, "req_before")
    with watched.primary.client() as redis:
        assert len(redis.keys("quota:*")) == 2

    watched.primary.end()
    ends = time.monotonic() + _FAILED_OVER_SECONDS_MAX
    while True:
        try:
            await _hold(store, "req_after")
            break
        except Unavailable:
            assert client.state.state is State.UNREACHABLE
            assert time.monotonic() < ends
            await asyncio.sleep(0.1)

    assert client.state.state is State.OK
    with watched.replica.client() as redis:
        assert redis.info("replication")["role"] == "master"
        held = [name for key in redis.keys("quota:*:acc_1:*") for name in redis.hkeys(key)]
    assert b"req_after" in held


async def _hold(store: RedisHoldStore, request_id: str) -> None:
    (status,) = await store.status([KeyRef("acc_1", "key_1")])
    initial_counts = {Counter("acc_1", "key_1", status.day): 0, Counter("acc_1", "", status.day): 0}
    (outcome,) = await store.reserve([Reservation(request_id, "key_1", "acc_1", 10)], initial_counts)
    assert isinstance(outcome, Held)
