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

from services.common.limits import Scope
from services.common.verdict import Verdict
from services.quota.holds import (
    Counter,
    DayStatus,
    Denied,
    Held,
    KeyRef,
    Reservation,
    Settlement,
    Uninitialised,
)
from services.quota.redis.store import RedisHoldStore, connect
from tests.valkey_backend import valkey_server, valkey_url

__all__ = ["valkey_server", "valkey_url"]

LIMIT, ACCOUNT_LIMIT = 3, 4
ACCOUNT = "acc_1"
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
class ModelCounter:
    """The expected state of a counter."""

    initial_count: int
    charged: int
    held: int = 0


@dataclass
class ModelDay:
    """The expected state of an account's day."""

    counters: dict[str, ModelCounter] = field(default_factory=dict)
    """By key id; the account's own under the empty id."""
    holds: dict[str, str] = field(default_factory=dict)
    """Key of each hold, by request id."""


class HoldMachine(RuleBasedStateMachine):
    """Two replicas, an account with two keys, two days; the model is a dictionary.

    It checks on the scripts the rules `key-limit`, `account-limit`, `holds-count`, `all-or-none`, `current-limit`,
    `settle-needs-hold`, `window-of-reserve` and `seed-absent` of docs/accounting.md.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.client: Any = connect(url, timeout_seconds=10)
        self.model: dict[int, ModelDay] = {}

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
        replica=replicas,
        day=days,
        key=keys,
        wanted=st.lists(ids, min_size=1, max_size=3),
        initial_count=initial_counts,
        account_count=initial_counts,
        account_limit=st.sampled_from([ACCOUNT_LIMIT, ACCOUNT_LIMIT, 2, None]),
    )
    def reserve(
        self,
        replica: int,
        day: int,
        key: str,
        wanted: list[str],
        initial_count: int | None,
        account_count: int | None,
        account_limit: int | None,
    ) -> None:
        """Reserve a batch, with initial counts that may be stale and an account limit that may be lowered."""
        at = self.first_day + day
        batch = [Reservation(request_id, key, ACCOUNT, LIMIT, account_limit) for request_id in wanted]
        given = {key_id: count for key_id, count in ((key, initial_count), ("", account_count)) if count is not None}
        initial = {Counter(ACCOUNT, key_id, at): count for key_id, count in given.items()}
        outcomes = self.run(self.stores[replica][day].reserve(batch, initial))
        state = self.model.setdefault(at, ModelDay())
        missing = [one for one in (key, "") if one not in state.counters and one not in given]
        if not missing:
            for key_id, count in given.items():
                state.counters.setdefault(key_id, ModelCounter(count, count))
        for request_id, outcome in zip(wanted, outcomes, strict=True):
            if missing:
                assert isinstance(outcome, Uninitialised)
            else:
                self.check(state, key, request_id, outcome, account_limit)

    @rule(replica=replicas, day=days, settled_on=days, request_id=ids, verdict=verdicts)
    def settle(self, replica: int, day: int, settled_on: int, request_id: str, verdict: Verdict) -> None:
        """Settle a hold that may be absent, on its own day or on another."""
        at = self.first_day + day
        (closed,) = self.run(self.stores[replica][settled_on].settle([Settlement(request_id, ACCOUNT, at, verdict)]))
        state = self.model.get(at, ModelDay())
        assert closed == (request_id in state.holds)
        if closed:
            for counter in (state.counters[state.holds[request_id]], state.counters[""]):
                counter.held -= 1
                counter.charged += verdict is Verdict.CHARGED
            del state.holds[request_id]

    @invariant()
    def counters_equal_the_model(self) -> None:
        """Compare every counter, and check that no grant exceeded a limit."""
        for day in (0, 1):
            state = self.model.get(self.first_day + day, ModelDay())
            statuses = self.run(self.stores[0][day].status([KeyRef(ACCOUNT, key_id) for key_id in (*KEYS, "")]))
            for key_id, status in zip((*KEYS, ""), statuses, strict=True):
                counter = state.counters.get(key_id)
                assert isinstance(status, Uninitialised) == (counter is None)
                if counter is not None and isinstance(status, DayStatus):
                    assert (status.charged, status.held) == (counter.charged, counter.held)
                    if key_id:
                        assert status.charged + status.held <= max(LIMIT, counter.initial_count)

    @invariant()
    def deadlines_are_those_of_the_holds(self) -> None:
        """Compare the sorted sets of deadlines with the model's holds."""
        found = sorted(self.run(self.deadlines()))
        assert found == sorted(f"{ACCOUNT} {day} {one}" for day, state in self.model.items() for one in state.holds)

    def check(
        self, state: ModelDay, key: str, request_id: str, outcome: Held | Denied | Uninitialised, limit: int | None
    ) -> None:
        """Compare one outcome with the model, and update the model."""
        of_key, of_account = state.counters[key], state.counters[""]
        left = LIMIT - of_key.charged - of_key.held
        left_of_account = 1_000 if limit is None else limit - of_account.charged - of_account.held
        is_held = request_id in state.holds
        admitted = is_held or (left > 0 and left_of_account > 0)
        assert isinstance(outcome, Held if admitted else Denied)
        if not is_held and admitted:
            state.holds[request_id] = key
            of_key.held, of_account.held = of_key.held + 1, of_account.held + 1
        if isinstance(outcome, Denied):
            assert outcome.tightest.remaining == min(left, left_of_account)
            assert outcome.tightest.limit.scope is (Scope.ACCOUNT if left_of_account < left else Scope.KEY)

    async def deadlines(self) -> list[str]:
        """Return the content of all sorted sets of deadlines."""
        names: list[bytes] = await self.client.keys("quota:*:holds")
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
        start = {Counter(ACCOUNT, key_id, today): initial_count for key_id in ("key_a", "")}
        await stores[0].reserve([Reservation("req_initial", "key_a", ACCOUNT, 0)], start)
        granted = await asyncio.gather(*(_live(stores[number % 2], life, today) for number, life in enumerate(lives)))
        (status,) = await stores[0].status([KeyRef(ACCOUNT, "key_a")])
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
    reserve_item = Reservation(request_id, "key_a", ACCOUNT, LIMIT, LIMIT)
    stale = {Counter(ACCOUNT, key_id, day): stale_initial_count for key_id in ("key_a", "")}
    (outcome,) = await store.reserve([reserve_item], stale)
    assert isinstance(outcome, Held | Denied)
    assert outcome.status.charged + outcome.status.held <= LIMIT
    if isinstance(outcome, Denied):
        return None
    if verdict is None:
        return "held"
    assert await store.settle([Settlement(request_id, ACCOUNT, day, verdict)]) == [True]
    return verdict
