"""The Redis store keeps the contract of holds, and behaves correctly when Redis loses or keeps data."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from services.common.errors import Unavailable
from services.common.verdict import Verdict
from services.quota.holds import (
    Counter,
    CounterUnavailable,
    DayStatus,
    Denied,
    Held,
    KeyRef,
    Reservation,
    Settlement,
)
from services.quota.redis.store import RedisHoldStore, connect
from tests.contracts.hold_store import (
    ACCOUNT,
    DAY_SECONDS,
    HoldStoreContract,
    World,
    counts,
    reserve,
    reserve_item,
    settle,
    today,
)
from tests.valkey_backend import ValkeyServer, own_valkey, valkey_server, valkey_url

__all__ = ["own_valkey", "valkey_server", "valkey_url"]

Connect = Callable[..., Any]
HOLD_SECONDS = 180.0
TIMEOUT_SECONDS = 0.3


@pytest.fixture
async def connected() -> AsyncIterator[Connect]:
    """A function that opens clients, which are closed after the test."""
    async with AsyncExitStack() as stack:

        def open_client(url: str, timeout_seconds: float = 10) -> Any:
            client = connect(url, timeout_seconds=timeout_seconds)
            stack.push_async_callback(client.aclose)
            return client

        yield open_client


@pytest.fixture
def client(valkey_url: str, connected: Connect) -> Any:
    """A client of an empty server."""
    return connected(valkey_url)


@pytest.fixture
async def world(valkey_url: str, connected: Connect) -> World:
    """Replicas, each with its own connection pool."""
    return await _world(valkey_url, connected)


async def _world(url: str, connected: Connect, timeout_seconds: float = 10) -> World:
    seconds, _ = await connected(url).time()

    def open_at(second_of_day: int) -> RedisHoldStore:
        offset = second_of_day - seconds % DAY_SECONDS
        client = connected(url, timeout_seconds)
        return RedisHoldStore(client, hold_seconds=HOLD_SECONDS, clock_offset_seconds=offset)

    return World(open_at)


class TestHoldStoreOnRedis(HoldStoreContract):
    """The contract, on a real server."""


async def test_a_hold_has_a_deadline_until_it_is_settled(world: World, client: Any) -> None:
    store = await world.initialised()
    held = await reserve(store, reserve_item("req_dead"))
    assert isinstance(held, Held)
    (deadlines,) = await client.keys("quota:*:holds")

    entries = await client.zrange(deadlines, 0, -1, withscores=True)

    assert entries == [(f"{ACCOUNT} {held.status.day} req_dead".encode(), (held.reserved_at + HOLD_SECONDS) * 1000)]
    await settle(store, "req_dead", held.status.day, Verdict.RELEASED)
    assert await client.zcard(deadlines) == 0


async def test_a_denied_request_has_no_deadline(world: World, client: Any) -> None:
    store = await world.initialised()

    assert isinstance(await reserve(store, reserve_item(limit=0)), Denied)

    assert await client.keys("quota:*:holds") == []


async def test_a_repeated_reserve_does_not_extend_its_deadline(world: World, client: Any) -> None:
    store = await world.initialised()
    first = await reserve(store, reserve_item("req_again"))
    assert isinstance(first, Held)
    while (await _now_ms(client)) <= first.reserved_at * 1000:
        pass

    await reserve(store, reserve_item("req_again"))

    (deadlines,) = await client.keys("quota:*:holds")
    ((_, score),) = await client.zrange(deadlines, 0, -1, withscores=True)
    assert score == (first.reserved_at + HOLD_SECONDS) * 1000


async def test_nothing_expires_by_redis_clock_alone(world: World, client: Any) -> None:
    """It may step; the sweeper removes old days once it has been steady."""
    await reserve(await world.initialised(), reserve_item())

    assert {await client.ttl(name) for name in await client.keys("*")} == {-1}


async def test_the_keys_of_a_script_share_one_cluster_slot(world: World, client: Any) -> None:
    await reserve(await world.initialised(), reserve_item())

    names = [name.decode() for name in await client.keys("*")]

    assert len(names) == 2
    assert len({name.split("{")[1].split("}")[0] for name in names}) == 1


async def test_scripts_missing_on_the_server_are_loaded_again(world: World, client: Any) -> None:
    store = await world.initialised()
    await reserve(store, reserve_item("req_kept", limit=2))
    await client.script_flush()

    outcome = await reserve(store, reserve_item(limit=2))
    await client.script_flush()

    assert isinstance(outcome, Held)
    assert await settle(store, "req_kept", outcome.status.day) is True
    await client.script_flush()
    assert await counts(store) == (1, 1)


async def test_a_restarted_server_keeps_counters_and_holds(own_valkey: ValkeyServer, connected: Connect) -> None:
    store = await (await _world(own_valkey.url, connected)).initialised(charged=3)
    held = await reserve(store, reserve_item("req_kept"))
    own_valkey.stop()
    own_valkey.start()

    assert await _within_a_second(lambda: counts(store)) == (3, 1)

    assert isinstance(held, Held)
    assert await settle(store, "req_kept", held.status.day) is True


async def test_a_stopped_server_is_unavailable_at_once(own_valkey: ValkeyServer, connected: Connect) -> None:
    store = await (await _world(own_valkey.url, connected, TIMEOUT_SECONDS)).initialised()
    day = await today(store)
    own_valkey.kill()
    started = time.monotonic()

    for attempt in (reserve(store, reserve_item()), settle(store, "req_x", day), counts(store)):
        with pytest.raises(Unavailable) as raised:
            await attempt
        assert raised.value.reason == "quota_unavailable"

    assert time.monotonic() - started < TIMEOUT_SECONDS


async def test_a_hanging_server_is_unavailable_within_the_timeout_and_its_late_answer_is_dropped(
    own_valkey: ValkeyServer, connected: Connect
) -> None:
    store = await (await _world(own_valkey.url, connected, TIMEOUT_SECONDS)).initialised()
    own_valkey.send(signal.SIGSTOP)
    started = time.monotonic()

    with pytest.raises(Unavailable):
        await reserve(store, reserve_item("req_lost", limit=7))

    assert TIMEOUT_SECONDS <= time.monotonic() - started < 5 * TIMEOUT_SECONDS
    own_valkey.send(signal.SIGCONT)
    closed = await settle(store, "req_absent", 1)
    assert closed is False, "the answer of another call was taken for this one's"


async def test_a_cancelled_caller_leaves_no_answer_behind_for_the_next(
    own_valkey: ValkeyServer, connected: Connect
) -> None:
    store = await (await _world(own_valkey.url, connected)).initialised()
    own_valkey.send(signal.SIGSTOP)
    try:
        asking = asyncio.create_task(reserve(store, reserve_item("req_left", limit=7)))
        await _some_turns()  # Sent, but not answered.
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        settling = asyncio.create_task(settle(store, "req_absent", 1))
        await _some_turns()  # Sent too: the order of the answers is no race any more.
    finally:
        own_valkey.send(signal.SIGCONT)
    assert await settling is False, "the answer of another call was taken for this one's"


async def _some_turns() -> None:
    """Run more turns of the event loop than it takes to send on an open connection."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_unusable_entries_make_their_own_account_unavailable_and_no_other(world: World, client: Any) -> None:
    store = await world.initialised()
    name = await _entries(client)
    day = await today(store)
    start = {Counter("acc_other", "key_other", day): 0, Counter("acc_other", "", day): 0}
    held = await reserve(store, Reservation("req_held", "key_other", "acc_other", 10), start)
    assert isinstance(held, Held)
    await client.delete(name)
    await client.set(name, "not a hash")

    other = Reservation("req_new", "key_other", "acc_other", 10)
    outcomes = await store.reserve([reserve_item(), other, reserve_item()], {})
    closed = await store.settle(
        [
            Settlement("req_1", ACCOUNT, held.status.day, Verdict.CHARGED),
            Settlement("req_held", "acc_other", held.status.day, Verdict.CHARGED),
        ]
    )

    assert [type(outcome) for outcome in outcomes] == [CounterUnavailable, Held, CounterUnavailable]
    assert list(closed) == [None, True]
    (status,) = await store.status([KeyRef("acc_other", "key_other")])
    assert isinstance(status, DayStatus)
    assert (status.charged, status.held) == (1, 1)


async def _within_a_second(call: Callable[[], Awaitable[tuple[int, int]]]) -> tuple[int, int]:
    """Return a call's answer once connections to a restarted server are open again."""
    deadline = time.monotonic() + 1
    while True:
        try:
            return await call()
        except Unavailable:
            assert time.monotonic() < deadline, "the store was not used again within a second"
            await asyncio.sleep(0)


async def _now_ms(client: Any) -> int:
    seconds, microseconds = await client.time()
    return int(seconds * 1000 + microseconds // 1000)


async def _entries(client: Any) -> str:
    (name,) = [name for name in await client.keys("quota:*") if not name.endswith(b"holds")]
    return str(name.decode())
