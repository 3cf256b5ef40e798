"""A Redis that answers but refuses every write is not reported as usable until a write succeeds."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.common.errors import Unavailable
from services.quota.holds import Counter, Held, KeyRef, Reservation
from services.quota.redis.connections import connect
from services.quota.redis.state import RedisState, State
from services.quota.redis.store import RedisHoldStore
from services.quota.redis.sweep_store import RedisSweepStore
from tests.logs import service_records
from tests.valkey_backend import ValkeyServer, own_valkey

__all__ = ["own_valkey"]

_REFUSED = "Redis refused a write. Check Redis' log; the usual causes are memory, disk space and replicas."


@pytest.fixture
async def client(own_valkey: ValkeyServer) -> AsyncIterator[Any]:
    """Yield a client of a server that only this test uses."""
    made = connect(own_valkey.url, timeout_seconds=2)
    yield made
    await made.aclose()


async def _hold(store: RedisHoldStore, request_id: str) -> None:
    today = (await store.status([KeyRef("acc_1", "key_1")]))[0].day
    outcome = (
        await store.reserve(
            [Reservation(request_id, "key_1", "acc_1", 9)],
            {Counter("acc_1", "key_1", today): 0, Counter("acc_1", "", today): 0},
        )
    )[0]
    assert isinstance(outcome, Held)


def _shown(state: RedisState) -> tuple[State, str]:
    return state.state, state.message


@pytest.mark.parametrize(
    ("setting", "refusing", "serving"),
    [("min-replicas-to-write", "1", "0"), ("maxmemory", "1", "0")],
    ids=["NOREPLICAS", "OOM"],
)
async def test_refused_writes_are_reported_whatever_reads_return_until_a_write_succeeds(
    client: Any, caplog: pytest.LogCaptureFixture, setting: str, refusing: str, serving: str
) -> None:
    store = RedisHoldStore(client, hold_seconds=60)
    sweeps = RedisSweepStore(client, store)
    await _hold(store, "req_1")
    assert _shown(client.state) == (State.OK, "")

    await client.config_set(setting, refusing)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(Unavailable):
                await _hold(store, "req_2")
            await store.status([KeyRef("acc_1", "key_1")])
            await sweeps.now()
            assert await sweeps.overdue(at_most=1, before=0) == []
            assert _shown(client.state) == (State.UNREACHABLE, _REFUSED)
        assert [record.message for record in service_records(caplog)] == [_REFUSED]

        await client.config_set(setting, serving)
        await sweeps.now()  # An unready service receives no calls.
        assert _shown(client.state) == (State.OK, "")
    assert [record.message for record in service_records(caplog)] == [_REFUSED, "Redis is available again."]
    await _hold(store, "req_2")


async def test_an_entry_of_a_wrong_type_does_not_count_as_a_refused_write(client: Any) -> None:
    store = RedisHoldStore(client, hold_seconds=60)
    await _hold(store, "req_1")
    (entries,) = await client.keys("quota:*:acc_1:*")
    await client.delete(entries)
    await client.set(entries, "of another type")
    with pytest.raises(Unavailable):
        await store.status([KeyRef("acc_1", "key_1")])
    assert _shown(client.state) == (State.OK, "")
