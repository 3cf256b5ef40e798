"""Quota on a Redis Cluster: the same contracts, over keys on all nodes; a failing node affects only its own keys."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.cluster import RedisCluster
from redis.crc import key_slot

from services.common.errors import Unavailable
from services.common.verdict import Verdict
from services.quota.holds import Counter, Denied, Held, HoldStore, InitialCounts, KeyRef, Reservation, Settlement
from services.quota.redis.refusal_store import RedisRefusalStore
from services.quota.redis.scripts import entries_of
from services.quota.redis.state import State
from services.quota.redis.store import RedisHoldStore, connect
from services.quota.redis.sweep_store import RedisSweepStore
from services.quota.sweeper import DiscrepancyKind
from tests.contracts.hold_store import HoldStoreContract, World
from tests.contracts.refusal_store import RefusalStoreContract, RefusalWorld
from tests.contracts.sweep_store import SweepStoreContract, SweepWorld
from tests.properties.hold_world import DAY_SECONDS, NOON, opened_ledger, sweeper_of
from tests.valkey_backend import ClusterNode, cluster, cluster_nodes, running_cluster

__all__ = ["cluster", "cluster_nodes"]

KEYS = [f"key_{number}" for number in range(200)]
TIMEOUT_SECONDS = 1.0

Connect = Callable[..., Any]

# The nodes start once for all tests that need them.
pytestmark = pytest.mark.xdist_group("redis_cluster")


@pytest.fixture
async def connected() -> AsyncIterator[Connect]:
    """A function that opens clients of a cluster, which are closed after the test."""
    async with AsyncExitStack() as stack:

        def open_client(node: ClusterNode, timeout_seconds: float = 10) -> Any:
            client = connect(node.url, timeout_seconds=timeout_seconds, is_cluster=True)
            stack.push_async_callback(client.aclose)
            return client

        yield open_client


@pytest.fixture
def client(cluster: list[ClusterNode], connected: Connect) -> Any:
    """A client of the empty cluster."""
    return connected(cluster[0])


@pytest.fixture
def store(client: Any) -> RedisHoldStore:
    """A store at noon."""
    return RedisHoldStore(client, hold_seconds=60, clock_offset_seconds=_offset(NOON))


def _offset(second_of_day: int) -> int:
    """Nodes of this machine have this machine's clock."""
    return second_of_day - int(time.time()) % DAY_SECONDS


def account_of(key: str) -> str:
    """Return the account of a key. Each has its own."""
    return key.replace("key_", "acc_")


def refs(keys: list[str]) -> list[KeyRef]:
    """Return keys with their accounts."""
    return [KeyRef(account_of(key), key) for key in keys]


async def initial_counts(store: HoldStore, keys: list[str], charged: int = 0) -> InitialCounts:
    """Return initial counts of today, for keys and their accounts."""
    (status,) = await store.status(refs(["key_any"]))
    return {Counter(account_of(key), key_id, status.day): charged for key in keys for key_id in (key, "")}


def reserve_items(number: int, keys: list[str], *, limit: int = 3) -> list[Reservation]:
    """Return a reserve request for each key."""
    return [Reservation(f"req_{key}_{number}", key, account_of(key), limit, limit) for key in keys]


def served_by(node: ClusterNode) -> list[str]:
    """Return the keys whose entries are on a node."""
    return [key for key in KEYS if key_slot(entries_of(account_of(key)).encode()) in node.slots]


class TestHoldStoreOnACluster(HoldStoreContract):
    @pytest.fixture
    def world(self, cluster: list[ClusterNode], connected: Connect) -> World:
        """Replicas that each discovered the cluster through another node."""
        nodes = iter(cluster * 10)
        return World(
            lambda second: RedisHoldStore(
                connected(next(nodes)), hold_seconds=180, clock_offset_seconds=_offset(second)
            )
        )


class TestSweepStoreOnACluster(SweepStoreContract):
    @pytest.fixture
    def world(self, client: Any) -> SweepWorld:
        """An empty cluster at noon."""
        young, late, tomorrow = (
            RedisHoldStore(client, hold_seconds=seconds, clock_offset_seconds=_offset(at))
            for seconds, at in ((60, NOON), (0, NOON), (0, NOON + DAY_SECONDS))
        )
        return SweepWorld(client, RedisSweepStore(client, young), young, late, tomorrow)


class TestRedisClusterRefusalStore(RefusalStoreContract):
    """The contract of refused requests on a cluster."""

    @pytest.fixture
    def world(self, client: Any) -> RefusalWorld:
        """A store on the empty cluster."""

        async def now() -> int:
            times = await client.time(target_nodes=RedisCluster.PRIMARIES)
            return min(int(seconds) for seconds, _ in times.values())

        return RefusalWorld(RedisRefusalStore(client), now)


def test_the_keys_are_spread_over_all_nodes(cluster: list[ClusterNode]) -> None:
    counts = [len(served_by(node)) for node in cluster]

    assert sum(counts) == len(KEYS)
    assert min(counts) > 20


async def test_concurrent_reserves_of_many_keys_hold_each_limit_exactly(store: RedisHoldStore) -> None:
    start = await initial_counts(store, KEYS)

    rounds = await asyncio.gather(*(store.reserve(reserve_items(number, KEYS), start) for number in range(6)))

    for outcomes in zip(*rounds, strict=True):
        assert sum(isinstance(outcome, Held) for outcome in outcomes) == 3
        assert sum(isinstance(outcome, Denied) for outcome in outcomes) == 3
    assert {(status.charged, status.held) for status in await store.status(refs(KEYS))} == {(0, 3)}  # type: ignore[union-attr]


async def test_concurrent_settles_of_many_keys_close_each_hold_once(store: RedisHoldStore) -> None:
    start = await initial_counts(store, KEYS)
    await store.reserve(reserve_items(0, KEYS), start)
    ends = [Settlement(f"req_{one.key_id}_0", one.account_id, one.day, Verdict.CHARGED) for one in start if one.key_id]

    rounds = await asyncio.gather(*(store.settle(ends) for _ in range(4)))

    assert [sum(closed) for closed in zip(*rounds, strict=True)] == [1] * len(KEYS)
    assert {(status.charged, status.held) for status in await store.status(refs(KEYS))} == {(1, 0)}  # type: ignore[union-attr]


async def test_scripts_missing_on_one_node_are_loaded_again(cluster: list[ClusterNode], store: RedisHoldStore) -> None:
    start = await initial_counts(store, KEYS)
    await store.reserve(reserve_items(0, KEYS), start)
    cluster[1].ask("SCRIPT", "FLUSH")

    outcomes = await store.reserve(reserve_items(1, KEYS, limit=2), {})

    assert all(isinstance(outcome, Held) for outcome in outcomes)
    assert {(status.charged, status.held) for status in await store.status(refs(KEYS))} == {(0, 2)}  # type: ignore[union-attr]


async def test_a_sweeper_sweeps_reconciles_and_verifies_keys_of_all_nodes(client: Any, tmp_path: Path) -> None:
    late = RedisHoldStore(client, hold_seconds=0, clock_offset_seconds=_offset(NOON))
    await late.reserve(reserve_items(0, KEYS), await initial_counts(late, KEYS))
    async with opened_ledger(tmp_path / "ledger.db") as ledger:
        sweeper = sweeper_of(RedisSweepStore(client, late), ledger)

        assert await sweeper.sweep() == len(KEYS)

        assert (await sweeper.verify()).key_days == 2 * len(KEYS)
        assert await sweeper.reconcile() == 0
        await late.reserve(reserve_items(1, ["key_new"], limit=1), await initial_counts(late, ["key_new"], charged=1))
        kinds = [finding.kind for finding in (await sweeper.verify()).discrepancies]
    assert kinds == [DiscrepancyKind.COUNTER_ABOVE_LEDGER] * 2, "of the key and of its account"


async def test_a_moved_slot_is_followed(cluster: list[ClusterNode], store: RedisHoldStore) -> None:
    key = served_by(cluster[0])[0]
    await store.status(refs([key]))
    slot = key_slot(entries_of(account_of(key)).encode())
    try:
        _move(slot, cluster, to=cluster[1])

        (outcome,) = await store.reserve(reserve_items(0, [key]), await initial_counts(store, [key]))

        assert isinstance(outcome, Held)
        assert cluster[1].ask("CLUSTER", "COUNTKEYSINSLOT", slot) == "2"
    finally:
        cluster[1].ask("FLUSHALL")
        _move(slot, cluster, to=cluster[0])


def _move(slot: int, nodes: list[ClusterNode], *, to: ClusterNode) -> None:
    owner = to.ask("CLUSTER", "MYID")
    for node in (to, *nodes):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", owner)


async def test_a_hanging_node_makes_only_its_own_keys_unavailable(
    cluster: list[ClusterNode], connected: Connect
) -> None:
    keys = [served_by(node)[0] for node in cluster]
    store = RedisHoldStore(connected(cluster[0], TIMEOUT_SECONDS), hold_seconds=60, clock_offset_seconds=_offset(NOON))
    start = await initial_counts(store, keys)
    cluster[2].process.send_signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await store.reserve(reserve_items(0, [keys[2]]), start)
        try:
            outcomes = await store.reserve(reserve_items(0, keys[:2]), start)
        except Unavailable:  # The client asked the hanging node for the cluster's state first.
            outcomes = await store.reserve(reserve_items(0, keys[:2]), start)
        assert time.monotonic() - started < 5 * TIMEOUT_SECONDS
        assert all(isinstance(outcome, Held) for outcome in outcomes)
    finally:
        cluster[2].process.send_signal(signal.SIGCONT)

    assert isinstance(await _within_a_second(lambda: store.reserve(reserve_items(1, [keys[2]]), start)), Held)


async def test_a_promoted_replica_is_found_and_keeps_the_holds_of_the_failed_primary(connected: Connect) -> None:
    with running_cluster(primaries=1, replicas=1) as (primary, replica):
        store = RedisHoldStore(connected(primary, TIMEOUT_SECONDS), hold_seconds=60)
        await store.reserve(reserve_items(0, ["key_1"]), await initial_counts(store, ["key_1"], charged=1))
        assert primary.ask("WAIT", 1, 5000) == "1"
        primary.end()

        with pytest.raises(Unavailable):
            await store.reserve(reserve_items(1, ["key_1"]), {})
        replica.ask("CLUSTER", "FAILOVER", "TAKEOVER")

        outcome = await _within_a_second(lambda: store.reserve(reserve_items(2, ["key_1"]), {}))
        assert isinstance(outcome, Held)
        assert (outcome.status.charged, outcome.status.held) == (1, 2)


async def test_a_cluster_that_cannot_be_found_is_unavailable() -> None:
    client = connect("redis://127.0.0.1:1/0", timeout_seconds=TIMEOUT_SECONDS, is_cluster=True)
    store = RedisHoldStore(client, hold_seconds=60)

    for attempt in (store.status(refs(["key_1"])), RedisSweepStore(client, store).now()):
        with pytest.raises(Unavailable):
            await attempt


async def _within_a_second(call: Callable[[], Any]) -> Any:
    """Return a call's outcome once the cluster serves it again."""
    deadline = time.monotonic() + 1
    while True:
        try:
            (outcome,) = await call()
            return outcome
        except Unavailable:
            assert time.monotonic() < deadline, "the store was not used again within a second"
            await asyncio.sleep(0)


async def test_one_node_that_refuses_writes_is_reported_until_all_accept_them(
    cluster: list[ClusterNode], client: Any, store: RedisHoldStore
) -> None:
    sweeps = RedisSweepStore(client, store)
    start = await initial_counts(store, KEYS)
    for number, node in enumerate(cluster):
        node.ask("CONFIG", "SET", "min-replicas-to-write", 1)
        try:
            with pytest.raises(Unavailable):
                await store.reserve(reserve_items(number, KEYS, limit=9), start)
            for _ in range(2):
                await store.status(refs(KEYS))
                await sweeps.now()
                assert client.state.message.startswith("Redis refused a write.")
        finally:
            node.ask("CONFIG", "SET", "min-replicas-to-write", 0)
        await sweeps.now()
        assert (client.state.state, client.state.message) == (State.OK, "")
