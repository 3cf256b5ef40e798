"""Random sequences of reserves and settlements under limits of every scope, unit and window, on a real server.

The expected state is a dictionary. The test checks on the scripts the rules `token-limit`, `holds-count`,
`all-or-none`, `give-back`, `at-most-held`, `settle-needs-hold` and `window-of-reserve` of docs/accounting.md.
"""

import asyncio
from collections import Counter as Tally
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from services.common.estimate import Estimate
from services.common.limits import Limit, Scope, Unit, Window, parse_limits
from services.common.verdict import Amounts, Verdict
from services.quota.days import first_day_of_month
from services.quota.holds import Denied, Held, Reservation, Settlement, Uninitialised
from services.quota.redis.store import RedisHoldStore, connect
from tests.valkey_backend import valkey_server, valkey_url

__all__ = ["valkey_server", "valkey_url"]

ACCOUNT, KEYS = "acc_1", ("key_a", "key_b")
DAY_SECONDS, NOON = 86_400, 43_200
TIMES = (0, 60, DAY_SECONDS, DAY_SECONDS + 60)
"""Seconds after noon: two minutes of today, and two of tomorrow."""
LIMIT, ACCOUNT_LIMIT = 7, 9
DAILY = (
    Limit(Scope.KEY, Unit.REQUESTS, Window.DAY, LIMIT),
    Limit(Scope.ACCOUNT, Unit.REQUESTS, Window.DAY, ACCOUNT_LIMIT),
)
OTHERS = parse_limits(
    [
        *("key:requests:minute=3", "account:requests:minute=4"),
        *("key:tokens:minute=70", "account:tokens:minute=90", "key:tokens:day=100", "account:tokens:day=150"),
        *("key:cost:day=50", "account:cost:day=70", "key:cost:month=60", "account:cost:month=90"),
        *("key:concurrent_requests=3", "account:concurrent_requests=4"),
    ]
)
LIMITS = (*DAILY, *OTHERS)
PROFILE = settings(
    max_examples=20,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
Name = tuple[str, str, int]
"""Key or account id, limit's unit and window, and the start of its window."""


@dataclass(frozen=True)
class Request:
    """A request that wants a slot."""

    request_id: str
    key: str
    estimate: Estimate | None

    @property
    def reservation(self) -> Reservation:
        """The item of a batch."""
        return Reservation(
            self.request_id, self.key, ACCOUNT, LIMIT, ACCOUNT_LIMIT, limits=OTHERS, estimate=self.estimate
        )


IDS = st.sampled_from([f"req_{number}" for number in range(6)])
PRICES = st.sampled_from([0, 1, 333_333, 1_000_000, 2_500_000])
ESTIMATES = st.builds(Estimate, st.integers(0, 40), st.integers(1, 60), st.integers(0, 20), PRICES)
REQUESTS = st.builds(Request, IDS, st.sampled_from(KEYS), ESTIMATES | ESTIMATES | st.none())
AMOUNTS = st.builds(Amounts, st.integers(0, 90), st.integers(0, 90))
SETTLEMENTS = st.tuples(IDS, st.sampled_from(Verdict), st.none() | AMOUNTS, st.booleans())


@dataclass
class ModelHold:
    """What a hold takes."""

    key_id: str
    day: int
    taken: dict[Name, int] = field(default_factory=dict)
    output: int = 0


class LimitMachine(RuleBasedStateMachine):
    """An account with two keys, and a clock that moves on."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.client: Any = connect(url, timeout_seconds=10)
        self.charged: Tally[Name] = Tally()
        self.holds: dict[str, ModelHold] = {}
        self.time = 0

    @initialize()
    def open(self) -> None:
        """Empty the server and open a store at each time. No run takes the minute that is left of each."""
        self.run(self.client.flushall())
        seconds, _ = self.run(self.client.time())
        offset = NOON - seconds % DAY_SECONDS
        self.first_day = (seconds + offset) // DAY_SECONDS
        self.stores = [RedisHoldStore(self.client, hold_seconds=60, clock_offset_seconds=offset + one) for one in TIMES]

    @property
    def day(self) -> int:
        """Today."""
        return int(self.first_day + TIMES[self.time] // DAY_SECONDS)

    @rule()
    def wait(self) -> None:
        """Let the next minute begin, or the next day."""
        self.time = min(self.time + 1, len(TIMES) - 1)

    @rule(requests=st.lists(REQUESTS, min_size=1, max_size=4))
    def reserve(self, requests: list[Request]) -> None:
        """Reserve in one batch."""
        # Ids are unique.
        requests = [one for one in requests if one.request_id not in self.holds or self.is_of_today(one.request_id)]
        for key in dict.fromkeys(one.key for one in requests):
            self.run(self.initialise(key))
        items = [one.reservation for one in requests]
        outcomes = self.run(self.stores[self.time].reserve(items, {}))
        # The requests of a key share a call.
        keys = list(dict.fromkeys(one.key for one in requests))
        for one, outcome in sorted(zip(requests, outcomes, strict=True), key=lambda pair: keys.index(pair[0].key)):
            self.check_reserve(one, outcome)

    def check_reserve(self, request: Request, outcome: Any) -> None:
        """Compare an outcome with the model, and hold."""
        key, estimate, known = request.key, request.estimate, self.holds.get(request.request_id)
        if known is not None:
            assert isinstance(outcome, Held)
            assert outcome.output_tokens == known.output
            return
        wanted = range(estimate.output_tokens, 0, -1) if estimate else [0]
        fitting = next((some for some in wanted if self.fits(key, estimate, some)), None)
        assert isinstance(outcome, Denied if fitting is None else Held)
        if isinstance(outcome, Held):
            assert fitting is not None
            assert outcome.output_tokens == fitting
            taken = {self.name(one, key): _amount(one, estimate, fitting) for one in LIMITS if one.window}
            self.holds[request.request_id] = ModelHold(key, self.day, taken, fitting)
            assert outcome.tokens is not None
            shown = [outcome.tightest, outcome.tokens]
        else:
            shown = [outcome.tightest]
            assert not self.fits(key, estimate, min(1, estimate.output_tokens if estimate else 0), [shown[0].limit])
        for status in shown:
            assert (status.counts.charged, status.counts.held) == self.counts(status.limit, key)

    @rule(settlements=st.lists(SETTLEMENTS, min_size=1, max_size=4))
    def settle(self, settlements: list[tuple[str, Verdict, Amounts | None, bool]]) -> None:
        """Settle holds in one batch; some are absent, or of another day."""
        items = []
        for request_id, verdict, amounts, is_today in settlements:
            hold = self.holds.get(request_id)
            day = hold.day if hold is not None and not is_today else self.day
            items.append(Settlement(request_id, ACCOUNT, day, verdict, amounts))
        closed = self.run(self.stores[self.time].settle(items))
        for item, flag in zip(items, closed, strict=True):
            hold = self.holds.get(item.request_id)
            assert flag is (hold is not None and hold.day == item.day)
            if hold is None or not flag:
                continue
            del self.holds[item.request_id]
            amounts = item.amounts
            for name, held in hold.taken.items() if item.verdict is Verdict.CHARGED else ():
                used = {"tokens": amounts.tokens, "cost": amounts.cost} if amounts is not None else {}
                self.charged[name] += min(held, used.get(name[1].partition(":")[0], held))

    @invariant()
    def counts_equal_the_model(self) -> None:
        """Compare the counts of all limits of both keys."""
        for key in KEYS:
            item = Reservation("req_none", key, ACCOUNT, LIMIT, ACCOUNT_LIMIT, limits=OTHERS)
            statuses = self.run(self.stores[self.time].limits(item, {}))
            if isinstance(statuses, Uninitialised):
                continue
            for status in statuses:
                counts = status.counts.charged, status.counts.held
                assert counts == self.counts(status.limit, key), status.limit
                assert sum(counts) <= status.limit.limit, status.limit

    @invariant()
    def deadlines_are_those_of_the_holds(self) -> None:
        """Compare the deadlines with the holds."""
        names = self.run(self.client.keys("quota:*:holds"))
        found = [one.decode() for name in names for one in self.run(self.client.zrange(name, 0, -1))]
        assert sorted(found) == sorted(f"{ACCOUNT} {hold.day} {name}" for name, hold in self.holds.items())

    async def initialise(self, key: str) -> None:
        """Start the counters of a key that are missing from what is charged."""
        item = Reservation("req_none", key, ACCOUNT, LIMIT, ACCOUNT_LIMIT, limits=OTHERS)
        found = await self.stores[self.time].limits(item, {})
        if isinstance(found, Uninitialised):
            names = {one: (one.key_id or ACCOUNT, f"{one.unit}:{one.window}", one.day) for one in found.counters}
            await self.stores[self.time].limits(item, {one: self.charged[name] for one, name in names.items()})

    def is_of_today(self, request_id: str) -> bool:
        """Return whether a hold is of today."""
        return self.holds[request_id].day == self.day

    def name(self, limit: Limit, key: str) -> Name:
        """Return the model's name of a limit's counter."""
        minute = TIMES[self.time] // 60 + self.first_day * DAY_SECONDS
        month = first_day_of_month(self.day)
        start = {Window.MINUTE: minute, Window.DAY: self.day, Window.MONTH: month}.get(limit.window or Window.DAY, 0)
        return key if limit.scope is Scope.KEY else ACCOUNT, f"{limit.unit}:{limit.window}", start

    def counts(self, limit: Limit, key: str) -> tuple[int, int]:
        """Return what is charged and held of a limit."""
        if limit.window is None:
            own = [one for one in self.holds.values() if limit.scope is Scope.ACCOUNT or one.key_id == key]
            return 0, len([one for one in own if one.day >= self.day - 1])
        name = self.name(limit, key)
        return self.charged[name], sum(hold.taken.get(name, 0) for hold in self.holds.values())

    def fits(self, key: str, estimate: Estimate | None, output: int, limits: Any = LIMITS) -> bool:
        """Return whether limits have room for a request with this output."""
        return all(sum(self.counts(one, key)) + _amount(one, estimate, output) <= one.limit for one in limits)

    def run(self, work: Any) -> Any:
        """Await something on the machine's own event loop."""

        async def awaited() -> Any:
            return await work

        return self.runner.run(awaited())

    def teardown(self) -> None:
        """Close the client and its loop."""
        self.run(self.client.aclose())
        self.runner.close()


def _amount(limit: Limit, estimate: Estimate | None, output: int) -> int:
    held = estimate.held(output) if estimate else Amounts(0, 0)
    return {Unit.TOKENS: held.tokens, Unit.COST: held.cost}.get(limit.unit, 1)


def test_any_sequence_of_reserves_and_settlements_matches_the_model(valkey_url: str) -> None:
    class Machine(LimitMachine):
        def __init__(self) -> None:
            super().__init__(valkey_url)

    run_state_machine_as_test(Machine, settings=PROFILE)
