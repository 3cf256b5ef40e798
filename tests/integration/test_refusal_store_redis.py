"""The Redis store keeps the contract of refused requests, within a bounded size and time."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from services.common.errors import Unavailable
from services.quota.redis.refusal_store import RedisRefusalStore
from services.quota.redis.scripts import refusals_of
from services.quota.redis.store import RedisHoldStore, connect
from services.quota.redis.sweep_store import RedisSweepStore
from tests.contracts.refusal_store import KEY, RefusalStoreContract, RefusalWorld, refused, total
from tests.valkey_backend import valkey_server, valkey_url

__all__ = ["valkey_server", "valkey_url"]

_DAY_SECONDS = 86_400
_FIELDS_MAX = 225


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Any]:
    """A client of an empty server."""
    client = connect(valkey_url, timeout_seconds=10)
    yield client
    await client.aclose()


@pytest.fixture
def store(client: Any) -> RedisRefusalStore:
    """A store on an empty server."""
    return RedisRefusalStore(client)


class TestRedisRefusalStore(RefusalStoreContract):
    """The contract on one server."""

    @pytest.fixture
    def world(self, client: Any, store: RedisRefusalStore) -> RefusalWorld:
        """A store on an empty server."""

        async def now() -> int:
            seconds, _ = await client.time()
            return int(seconds)

        return RefusalWorld(store, now)


async def test_a_day_of_a_key_has_a_bounded_size_and_expires(client: Any, store: RedisRefusalStore) -> None:
    for hour in range(24):
        await store.record([refused(code=f"code_{n}", age_seconds=3_600 * hour) for n in range(300)])
    names = await client.keys("*")
    assert 1 <= len(names) <= 2
    for name in names:
        assert name.startswith(refusals_of(KEY).encode())
        assert await client.hlen(name) <= _FIELDS_MAX
        assert 8 * _DAY_SECONDS - 60 <= await client.ttl(name) <= 8 * _DAY_SECONDS


async def test_entries_that_the_service_never_writes_hide_nothing(client: Any, store: RedisRefusalStore) -> None:
    await store.record([refused(3)])
    (name,) = await client.keys("*")
    await client.hset(name, mapping={"x": "1", "12:400": "1", "12:400:a": "many", "last:400:b": "?", "99:1:\xff": "2"})
    (found,) = await store.list([KEY])
    assert [(one.status, one.code, total([one])) for one in found] == [(400, "invalid_type", 3)]


async def test_an_entry_of_another_type_affects_no_other_key(client: Any, store: RedisRefusalStore) -> None:
    other = replace(KEY, key_id="key_other")
    await store.record([refused()])
    (name,) = await client.keys("*")
    await client.set(name, "text")
    await store.record([refused(), refused(2, key=other)])
    found = await store.list([KEY, other])
    assert [total(one) for one in found] == [0, 2]


async def test_the_sweeper_leaves_them_alone(client: Any, store: RedisRefusalStore) -> None:
    await store.record([refused(3), refused(3, age_seconds=3 * _DAY_SECONDS)])
    sweep_store = RedisSweepStore(client, RedisHoldStore(client, hold_seconds=60))
    await sweep_store.delete_days(int((await client.time())[0]) // _DAY_SECONDS)
    (found,) = await store.list([KEY])
    assert total(found) == 6


async def test_an_unreachable_server_is_unavailable() -> None:
    client = connect("redis://127.0.0.1:1/0", timeout_seconds=0.3)
    store = RedisRefusalStore(client)
    try:
        with pytest.raises(Unavailable):
            await store.record([refused()])
        with pytest.raises(Unavailable):
            await store.list([KEY])
    finally:
        await client.aclose()
