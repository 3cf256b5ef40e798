"""The sweep store keeps its contract on a real server."""

from collections.abc import AsyncIterator

import pytest

from services.common.errors import Unavailable
from services.quota.holds import KeyDay
from services.quota.store import RedisHoldStore, connect
from services.quota.sweep_store import RedisSweepStore
from tests.contracts.sweep_store import SweepStoreContract, SweepWorld, listed
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


async def test_a_server_that_is_away_is_unavailable_to_every_step(own_valkey: ValkeyServer) -> None:
    client = connect(own_valkey.url, timeout_seconds=0.3)
    store = RedisSweepStore(client, RedisHoldStore(client, hold_seconds=60))
    own_valkey.kill()

    steps = (
        store.now(),
        store.overdue(at_most=1, before=0),
        listed(store),
        store.forget([KeyDay("key", 1)]),
        store.raise_counter(KeyDay("key", 1), ["req"]),
    )
    for step in steps:
        with pytest.raises(Unavailable):
            await step
    await client.aclose()
