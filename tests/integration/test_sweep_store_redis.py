"""The sweep store keeps its contract on a real server."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.common.errors import Unavailable
from services.quota.holds import Counter
from services.quota.redis.scripts import deadlines_of, entries_of
from services.quota.redis.store import RedisHoldStore, connect
from services.quota.redis.sweep_store import RedisSweepStore
from tests.contracts.sweep_store import (
    ACCOUNT,
    KEY,
    SweepStoreContract,
    SweepWorld,
    hold,
    listed,
    overdue_now,
    reserve_items,
    today,
)
from tests.properties.hold_world import DAY_SECONDS, noon_offset
from tests.valkey_backend import ValkeyServer, own_valkey, valkey_server, valkey_url

__all__ = ["own_valkey", "valkey_server", "valkey_url"]


@pytest.fixture
async def world(valkey_url: str) -> AsyncIterator[SweepWorld]:
    """An empty server at noon."""
    client = connect(valkey_url, timeout_seconds=10)
    try:
        offset = await noon_offset(client)
        young, late, tomorrow = (
            RedisHoldStore(client, hold_seconds=seconds, clock_offset_seconds=at)
            for seconds, at in ((60, offset), (0, offset), (0, offset + DAY_SECONDS))
        )
        yield SweepWorld(client, RedisSweepStore(client, young), young, late, tomorrow)
    finally:
        await client.aclose()


class TestSweepStoreOnRedis(SweepStoreContract):
    """The contract, on a real server."""


async def test_entries_that_quota_did_not_write_do_not_block_others(world: SweepWorld, caplog: Any) -> None:
    await hold(world.late, [*reserve_items("req_1"), *reserve_items("req_2", key_id="key_2")])
    day = await today(world.late)
    deadlines, other = (deadlines_of(account_id) for account_id in (ACCOUNT, "acc_other"))
    await world.client.zadd(deadlines, {"garbage": 0, "a b c d": 0, b"\xff 1 req": 0, f"{ACCOUNT} x req_1": 0})
    await world.client.set(other, "not a sorted set")
    await world.client.hset(f"{entries_of(ACCOUNT)}:{day}", "req_2", "garbage")
    await world.client.set(f"{entries_of('acc_string')}:{day}", "not a hash")
    fields = {"key_count:requests": "garbage", "key_count:requests:limit": "1", "key_count:other": "1"}
    await world.client.hset(f"{entries_of('acc_count')}:{day}", mapping=fields)

    overdue = {(hold.request_id, hold.reserved_at > 0) for hold in await overdue_now(world.store, at_most=10)}
    entries = {one.counter.key_id: one.charged for batch in await listed(world.store) for one in batch}

    assert overdue == {("req_1", True), ("req_2", False)}
    assert entries == {KEY: 0, "key_2": 0, "": 0, "key_count": 0}
    assert await world.client.zcard(deadlines) == 2, "an invalid deadline is removed"
    assert "Removed malformed deadlines" in caplog.text


async def try_repair(store: RedisSweepStore) -> int:
    """Repair a counter."""
    return await store.repair_counter(Counter("acc", "key", 1), 1, reserved_before=0, excluded=[])


async def test_an_unreachable_server_makes_every_step_unavailable(own_valkey: ValkeyServer) -> None:
    client = connect(own_valkey.url, timeout_seconds=0.3)
    store = RedisSweepStore(client, RedisHoldStore(client, hold_seconds=60))
    own_valkey.kill()

    steps = (
        store.now(),
        store.overdue(at_most=1, before=0),
        listed(store),
        store.delete_days(1),
        try_repair(store),
    )
    for step in steps:
        with pytest.raises(Unavailable):
            await step
    await client.aclose()
