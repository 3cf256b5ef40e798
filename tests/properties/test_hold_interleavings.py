"""Random sequences and random races of reserves, initialisations and settles on a real server, compared with a small
model.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from services.common.verdict import Verdict
from services.quota.holds import DayStatus, Denied, Held, KeyDay, Reservation, Settlement, Uninitialised
from services.quota.redis.store import RedisHoldStore, connect
from tests.valkey_backend import valkey_server, valkey_url

__all__ = ["valkey_server", "valkey_url"]

LIMIT = 3
KEYS = ("key_a", "key_b")
DAY_SECONDS = 86_400
NOON = 43_200
PROFILE = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

keys = st.sampled_from(KEYS)
ids = st.sampled_from([f"req_{number}" for number in range(8)])
days = st.sampled_from([0, 1])
replicas = st.sampled_from([0, 1])
initial_counts = st.none() | st.integers(0, LIMIT + 1)
verdicts = st.sampled_from(Verdict)


@dataclass
class ModelDay:
    """The expected state of a key's day."""

    initial_count: int
    charged: int
    held: set[str] = field(default_factory=set)


class HoldMachine(RuleBasedStateMachine):
    """Two replicas, two keys, two days; the model is a dictionary."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.client: Any = connect(url, timeout_seconds=10)
        self.model: dict[KeyDay, ModelDay] = {}

    @initialize()
    def open(self) -> None:
        """Empty the server and open each replica's store of each day."""
        self.run(self.client.flushall())
        seconds, _ = self.run(self.client.time())
        offset = NOON - seconds % DAY_SECONDS
        self.stores = [
            [
                RedisHoldStore(self.client, hold_seconds=60, clock_offset_seconds=offset + day * DAY_SECONDS)
                for day in (0, 1)
            ]
            for _ in (0, 1)
        ]
        self.first_day = (seconds + offset) // DAY_SECONDS

    @rule(
        replica=replicas, day=days, key=keys, wanted=st.lists(ids, min_size=1, max_size=3), initial_count=initial_counts
    )
    def reserve(self, replica: int, day: int, key: str, wanted: list[str], initial_count: int | None) -> None:
        """Reserve a batch, with an initial count that may be stale."""
        key_day = KeyDay(key, self.first_day + day)
        batch = [Reservation(request_id, key, "acc_1", LIMIT) for request_id in wanted]
        outcomes = self.run(
            self.stores[replica][day].reserve(batch, {} if initial_count is None else {key_day: initial_count})
        )
        if initial_count is not None:
            self.model.setdefault(key_day, ModelDay(initial_count, initial_count))
        for request_id, outcome in zip(wanted, outcomes, strict=True):
            self.check(key_day, request_id, outcome)

    @rule(replica=replicas, day=days, settled_on=days, key=keys, request_id=ids, verdict=verdicts)
    def settle(self, replica: int, day: int, settled_on: int, key: str, request_id: str, verdict: Verdict) -> None:
        """Settle a hold that may be absent, on its own day or on another."""
        key_day = KeyDay(key, self.first_day + day)
        settlement = Settlement(request_id, key, key_day.day, verdict)
        (closed,) = self.run(self.stores[replica][settled_on].settle([settlement]))
        state = self.model.get(key_day)
        assert closed == (state is not None and request_id in state.held)
        if closed and state is not None:
            state.held.remove(request_id)
            state.charged += verdict is Verdict.CHARGED

    @invariant()
    def counters_equal_the_model(self) -> None:
        """Compare every counter, and check that no grant exceeded the limit."""
        for day in (0, 1):
            for key, status in zip(KEYS, self.run(self.stores[0][day].status(KEYS)), strict=True):
                state = self.model.get(KeyDay(key, self.first_day + day))
                assert isinstance(status, Uninitialised) == (state is None)
                if state is not None and isinstance(status, DayStatus):
                    assert (status.charged, status.held) == (state.charged, len(state.held))
                    assert status.charged + status.held <= max(LIMIT, state.initial_count)

    @invariant()
    def deadlines_are_those_of_the_holds(self) -> None:
        """Compare the sorted sets of deadlines with the model's holds."""
        found = sorted(self.run(self.deadlines()))
        assert found == sorted(f"{at.key_id} {at.day} {one}" for at, state in self.model.items() for one in state.held)

    def check(self, key_day: KeyDay, request_id: str, outcome: Held | Denied | Uninitialised) -> None:
        """Compare one outcome with the model, and update the model."""
        state = self.model.get(key_day)
        if state is None:
            assert isinstance(outcome, Uninitialised)
            return
        admitted = request_id in state.held or state.charged + len(state.held) < LIMIT
        assert isinstance(outcome, Held if admitted else Denied)
        if admitted:
            state.held.add(request_id)

    async def deadlines(self) -> list[str]:
        """Return the content of all sorted sets of deadlines."""
        names: list[bytes] = await self.client.keys("quota:*:deadlines")
        return [member.decode() for name in names for member in await self.client.zrange(name, 0, -1)]

    def run(self, work: Any) -> Any:
        """Await something on the machine's own event loop."""

        async def awaited() -> Any:
            return await work

        return self.runner.run(awaited())

    def teardown(self) -> None:
        """Close the client and its loop."""
        self.run(self.client.aclose())
        self.runner.close()


def test_any_sequence_of_reserves_initialisations_and_settles_matches_the_model(valkey_url: str) -> None:
    class Machine(HoldMachine):
        def __init__(self) -> None:
            super().__init__(valkey_url)

    run_state_machine_as_test(Machine, settings=PROFILE)


Life = tuple[str, Verdict | None, int]
lives = st.lists(
    st.tuples(ids, st.none() | verdicts, st.integers(0, LIMIT)), min_size=2, max_size=12, unique_by=lambda life: life[0]
)


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    """A loop that outlives one example."""
    with asyncio.Runner() as runner:
        yield runner


@PROFILE
@given(lives=lives, initial_count=st.integers(0, LIMIT))
def test_no_race_of_complete_requests_over_two_replicas_exceeds_the_limit(
    valkey_url: str, loop: asyncio.Runner, lives: list[Life], initial_count: int
) -> None:
    """Each request initialises with its possibly stale count, reserves, and settles or never does; all run at once."""
    loop.run(_race(valkey_url, lives, initial_count))


async def _race(url: str, lives: list[Life], initial_count: int) -> None:
    clients: list[Any] = [connect(url, timeout_seconds=10) for _ in range(2)]
    try:
        await clients[0].flushall()
        seconds, _ = await clients[0].time()
        offset = NOON - seconds % DAY_SECONDS
        stores = [RedisHoldStore(client, hold_seconds=60, clock_offset_seconds=offset) for client in clients]
        today = (seconds + offset) // DAY_SECONDS
        await stores[0].reserve(
            [Reservation("req_initial", "key_a", "acc_1", 0)], {KeyDay("key_a", today): initial_count}
        )
        granted = await asyncio.gather(*(_live(stores[number % 2], life, today) for number, life in enumerate(lives)))
        (status,) = await stores[0].status(["key_a"])
        assert isinstance(status, DayStatus)
        assert status.charged == initial_count + granted.count(Verdict.CHARGED)
        assert status.held == granted.count("held")
        assert status.charged + status.held <= LIMIT
    finally:
        for client in clients:
            await client.aclose()


async def _live(store: RedisHoldStore, life: Life, day: int) -> Verdict | str | None:
    """Return how a request ended: its verdict, `held` when it never settled, None when it was denied."""
    request_id, verdict, stale_initial_count = life
    reserve_item = Reservation(request_id, "key_a", "acc_1", LIMIT)
    (outcome,) = await store.reserve([reserve_item], {KeyDay("key_a", day): stale_initial_count})
    assert isinstance(outcome, Held | Denied)
    assert outcome.status.charged + outcome.status.held <= LIMIT
    if isinstance(outcome, Denied):
        return None
    if verdict is None:
        return "held"
    assert await store.settle([Settlement(request_id, "key_a", day, verdict)]) == [True]
    return verdict
