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
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
Name = tuple[str, str, int]
"""Key or account id, limit's unit and window, and the start of its window."""


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

    @rule(
        key=st.sampled_from(KEYS),
        request_id=st.sampled_from([f"req_{number}" for number in range(12)]),
        prompt=st.integers(0, 40),
        output=st.integers(1, 60),
        prompt_cost=st.integers(0, 20),
        price=st.sampled_from([0, 1, 333_333, 1_000_000, 2_500_000]),
    )
    def reserve(self, key: str, request_id: str, prompt: int, output: int, prompt_cost: int, price: int) -> None:
        """Reserve; missing counters start at what is charged."""
        known = self.holds.get(request_id)
        if known is not None and known.day != self.day:
            return  # Ids are unique.
        estimate = Estimate(prompt, output, prompt_cost, price)
        item = Reservation(request_id, key, ACCOUNT, LIMIT, ACCOUNT_LIMIT, limits=OTHERS, estimate=estimate)
        outcome = self.run(self.reserved(item))
        if known is not None:
            assert isinstance(outcome, Held)
            assert outcome.output_tokens == known.output
            return
        fitting = next((some for some in range(output, 0, -1) if self.fits(key, estimate, some)), 0)
        assert isinstance(outcome, Held if fitting else Denied)
        if isinstance(outcome, Held):
            assert outcome.output_tokens == fitting
            taken = {self.name(one, key): _amount(one, estimate, fitting) for one in LIMITS if one.window}
            self.holds[request_id] = ModelHold(key, self.day, taken, fitting)
        else:
            limit = outcome.tightest.limit
            assert not self.fits(key, estimate, 1, [limit])
            assert (outcome.status.charged, outcome.status.held) == self.counts(limit, key)

    @rule(
        request_id=st.sampled_from([f"req_{number}" for number in range(12)]),
        verdict=st.sampled_from(Verdict),
        amounts=st.none() | st.builds(Amounts, st.integers(0, 90), st.integers(0, 90)),
        is_today=st.booleans(),
    )
    def settle(self, request_id: str, verdict: Verdict, amounts: Amounts | None, *, is_today: bool) -> None:
        """Settle a hold that may be absent, or of another day."""
        hold = self.holds.get(request_id)
        day = hold.day if hold is not None and not is_today else self.day
        settlement = Settlement(request_id, ACCOUNT, day, verdict, amounts)
        (closed,) = self.run(self.stores[self.time].settle([settlement]))
        assert closed is (hold is not None and hold.day == day)
        if hold is None or not closed:
            return
        del self.holds[request_id]
        for name, held in hold.taken.items() if verdict is Verdict.CHARGED else ():
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

    async def reserved(self, item: Reservation) -> Any:
        """Reserve, with initial counts where they are missing."""
        store = self.stores[self.time]
        (outcome,) = await store.reserve([item], {})
        if isinstance(outcome, Uninitialised):
            counts = {
                one: self.charged[one.key_id or ACCOUNT, f"{one.unit}:{one.window}", one.day]
                for one in outcome.counters
            }
            (outcome,) = await store.reserve([item], counts)
        return outcome

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

    def fits(self, key: str, estimate: Estimate, output: int, limits: Any = LIMITS) -> bool:
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


def _amount(limit: Limit, estimate: Estimate, output: int) -> int:
    held = estimate.held(output)
    return {Unit.TOKENS: held.tokens, Unit.COST: held.cost}.get(limit.unit, 1)


def test_any_sequence_of_reserves_and_settlements_matches_the_model(valkey_url: str) -> None:
    class Machine(LimitMachine):
        def __init__(self) -> None:
            super().__init__(valkey_url)

    run_state_machine_as_test(Machine, settings=PROFILE)
