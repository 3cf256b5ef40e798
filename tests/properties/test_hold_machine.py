"""The state machine of docs/accounting.md on the real engine: random sequences of crashes, losses and sweeps keep all
guarantees.

The steps are those of the exhaustive check (tools/hold_machine.py), on a real server and a real ledger. Operations
that take several calls in the service (initialising, sweeping, reconciling) are also split, so that other steps come
between.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from services.common.limits import Scope, Window
from services.common.verdict import Verdict
from services.quota.holds import Counter, Denied, Held, Settlement
from services.quota.redis.scripts import counter_of
from services.quota.redis.sweep_store import RedisSweepStore
from services.quota.sweeper import DayEntries, DiscrepancyKind
from tests.properties.hold_world import ACCOUNT, HOLD_SECONDS, HoldWorld, Snapshot, opened_world, sweeper_of
from tests.valkey_backend import valkey_server, valkey_url

__all__ = ["valkey_server", "valkey_url"]

LIMIT = 2
REQUESTS = 4
PROFILE = settings(
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
SEARCH = settings(
    PROFILE, max_examples=500, phases=[Phase.generate], verbosity=Verbosity.quiet, report_multiple_bugs=False
)
Step = Callable[[], None]


class Stage(Enum):
    """How far inference got with a request."""

    NEW = auto()
    HELD = auto()
    OUT = auto()
    CHARGED = auto()
    FREE = auto()
    DEAD = auto()
    UNKNOWN = auto()
    DENIED = auto()
    RETURNED = auto()
    """Released by its gateway before the RPC started."""


class Gateway(Enum):
    """The state of a request's gateway; one that lost its connection to inference counts as dead."""

    WAITING = auto()
    SETTLED = auto()
    DIED = auto()


@dataclass
class Request:
    """The invariants of one request."""

    stage: Stage = Stage.NEW
    gateway: Gateway = Gateway.WAITING
    is_old: bool = False
    may_be_late: bool = False
    """Inference may still write its row."""


class HoldMachine(RuleBasedStateMachine):
    """A key, or an account with two keys; a few requests, at most one flush and one rollback."""

    def __init__(self, world: HoldWorld, runner: asyncio.Runner) -> None:
        super().__init__()
        self.world, self.runner = world, runner
        self.requests = {f"req_{number}": Request() for number in range(REQUESTS)}
        self.initial_counts: list[int] = []
        self.verdicts: list[Settlement] = []
        self.lost: list[tuple[Counter, int, float, list[str]]] = []
        """The results of a reconciliation: each counter, its count, the time, and the holds that it left out."""
        self.has_flushed = self.has_rolled_back = self.is_broken = self.is_checked = False
        self.may_flush = self.may_roll_back = False
        self.forgiven = 0
        self.dump: Snapshot | None = None
        self.dumped: tuple[int, set[str]] = (0, set())
        self.known: list[tuple[int, set[str]] | None] = []
        self.run(world.clear())

    @initialize(may_flush=st.booleans(), may_roll_back=st.booleans(), scope=st.sampled_from(Scope))
    def choose(self, may_flush: bool, may_roll_back: bool, scope: Scope) -> None:
        """Choose whose limit is checked, and exclude each kind of loss from half of the sequences."""
        self.may_flush, self.may_roll_back, self.world.scope = may_flush, may_roll_back, scope

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """Take any step that is possible now."""
        steps = dict(self.steps())
        steps[data.draw(st.sampled_from(list(steps)), label="step")]()

    def steps(self) -> Iterator[tuple[str, Step]]:
        """Yield the possible steps, under the names of the design's check."""
        entries = self.entries()
        if entries is None and len(self.initial_counts) < 2:
            yield "initial-count-read", self.read_initial_count
        if self.initial_counts:
            yield "initial-count-put", self.put_initial_count
        for name, request in self.requests.items():
            for what, step in self.steps_of(request):
                yield f"{what} {name}", partial(step, name)
        yield from self.steps_of_sweeper()
        if any(not one.is_old for one in self.once_held()):
            yield "age", self.grow_old
        if entries is not None and self.once_held():
            yield from self.losses()

    def steps_of(self, request: Request) -> Iterator[tuple[str, Callable[[str], None]]]:
        """Yield the possible steps of one request."""
        stage, waits = request.stage, request.gateway is Gateway.WAITING
        if stage is Stage.NEW and (self.initial_counts or self.entries()):
            yield "reserve", self.reserve
        if stage is Stage.HELD and waits and not request.is_old:  # A gateway's deadline is shorter than a hold.
            yield "dispatch", self.dispatch
            yield "give-back", self.give_back
        if stage is Stage.OUT:
            yield from (("row-charged", self.commit_charged), ("row-free", self.commit_free))
            yield "inference-dies", self.inference_is_killed
        if waits and stage in (Stage.HELD, Stage.OUT, Stage.CHARGED, Stage.FREE, Stage.DEAD):
            yield "gateway-dies", self.gateway_is_killed
        if waits and stage in (Stage.CHARGED, Stage.FREE):
            yield "settle", self.settle
        if request.may_be_late:
            yield "late-row", self.commit_late

    def steps_of_sweeper(self) -> Iterator[tuple[str, Step]]:
        """Yield the possible steps of sweepers and operators."""
        if self.overdue():
            yield from (("sweep", self.sweep), ("sweep-ask", self.ask_for_verdicts))
        if self.verdicts:
            yield "sweep-settle", self.settle_verdicts
        if self.those(Stage.CHARGED):
            yield from (("reconcile", self.reconcile), ("reconcile-list", self.list_lost_charges))
        if self.lost:
            yield "reconcile-raise", self.raise_lost_charges
        yield "verify", self.verify

    def losses(self) -> Iterator[tuple[str, Step]]:
        """Yield the possible faults of Redis."""
        if self.may_flush and not self.has_flushed:
            yield "flush", self.flush
        if self.may_roll_back and self.dump is None:
            yield "snapshot", self.take_snapshot
        if self.dump is not None and not self.has_rolled_back:
            yield "rollback", self.roll_back

    # Reserving, with an initial count that may be stale when it arrives.

    def read_initial_count(self) -> None:
        """Read a count from the ledger, since the store has none."""
        self.initial_counts.append(self.run(self.world.charged_rows()))

    def put_initial_count(self) -> None:
        """Send a count that was read before; nothing is held."""
        before, initial_count = self.entries(), self.initial_counts.pop(0)
        self.run(self.world.reserve("req_probe", limit=0, initial_count=initial_count))
        self.guarantee(
            self.entries() == ((initial_count, set()) if before is None else before),
            "an initial count replaced a counter",
        )

    def reserve(self, name: str) -> None:
        """Reserve, with an initial count if there is one."""
        initial_count = self.initial_counts.pop(0) if self.initial_counts else None
        before = self.entries() or (initial_count or 0, set())
        outcome = self.run(self.world.reserve(name, limit=LIMIT, initial_count=initial_count))
        is_free = before[0] + len(before[1]) < LIMIT
        self.guarantee(isinstance(outcome, Held if is_free else Denied), f"{outcome} with {before}")
        self.requests[name].stage = Stage.HELD if is_free else Stage.DENIED

    # One request's life.

    def dispatch(self, name: str) -> None:
        """Start the RPC."""
        self.requests[name].stage = Stage.OUT

    def give_back(self, name: str) -> None:
        """Release a slot whose RPC never started."""
        self.requests[name].stage, self.requests[name].gateway = Stage.RETURNED, Gateway.SETTLED
        self.run(self.world.settle(name, Verdict.RELEASED))

    def commit_charged(self, name: str) -> None:
        """Commit the row of an answered request."""
        self.run(self.world.commit_row(name))
        self.requests[name].stage = Stage.CHARGED

    def commit_free(self, name: str) -> None:
        """Commit the row of a failed request."""
        self.run(self.world.commit_row(name, is_charged=False))
        self.requests[name].stage = Stage.FREE

    def commit_late(self, name: str) -> None:
        """Commit the row of a paused inference after the sweeper's verdict."""
        self.run(self.world.commit_row(name))
        self.requests[name].may_be_late = False

    def inference_is_killed(self, name: str) -> None:
        """Lose a request before its row."""
        self.requests[name].stage = Stage.DEAD

    def gateway_is_killed(self, name: str) -> None:
        """Lose the gateway that would settle."""
        self.requests[name].gateway = Gateway.DIED

    def settle(self, name: str) -> None:
        """Settle with inference's own verdict."""
        verdict = Verdict.CHARGED if self.requests[name].stage is Stage.CHARGED else Verdict.RELEASED
        before = self.entries()
        closed = self.run(self.world.settle(name, verdict))
        self.guarantee(closed == (before is not None and name in before[1]), "a settle closed what was not there")
        self.requests[name].gateway = Gateway.SETTLED

    # The sweeper.

    def sweep(self) -> None:
        """Sweep a whole round."""
        before, overdue = self.entries() or (0, set()), self.overdue()
        self.close_unknown(overdue)
        self.run(self.world.sweeper.sweep())
        charged = sum(self.requests[name].stage is Stage.CHARGED for name in overdue)
        expected = (before[0] + charged, before[1] - overdue)
        self.guarantee((self.entries() or (0, set())) == expected, f"a sweep of {before} is not {expected}")

    def ask_for_verdicts(self) -> None:
        """Take a sweep's first half: find what is overdue and get the ledger's verdicts."""
        overdue = self.run(self.world.store.overdue(at_most=10, before=time.time()))
        self.guarantee({one.request_id for one in overdue} == self.overdue(), "overdue holds were not found")
        self.close_unknown(self.overdue())
        verdicts = self.run(self.world.ledger.close_unknown(overdue)) if overdue else []
        self.verdicts += [
            Settlement(one.request_id, one.account_id, one.day, verdict.verdict)
            for one, verdict in zip(overdue, verdicts, strict=True)
        ]

    def settle_verdicts(self) -> None:
        """Take a sweep's second half, after the steps that came between."""
        self.run(self.world.holds.settle(self.verdicts))
        self.verdicts = []

    def reconcile(self) -> None:
        """Reconcile a whole round."""
        self.run(self.world.sweeper.reconcile())

    def list_lost_charges(self) -> None:
        """Take a reconciliation's first half: read the holds, then count the old rows without theirs."""
        before = math.floor((self.run(self.world.store.now()) - HOLD_SECONDS) * 1000) / 1000
        self.lost = []
        for counter in self.world.counters:
            found = self.run(self.world.day_entries(counter))
            left_out = found.holds_before(before) if found else []
            count = self.run(self.world.ledger.count_charged_without(counter, left_out, reserved_before=before))
            self.lost.append((counter, count, before, left_out))

    def raise_lost_charges(self) -> None:
        """Take a reconciliation's second half, after the steps that came between."""
        for counter, count, before, left_out in self.lost:
            store = self.world.store
            self.run(store.repair_counter(counter, count, reserved_before=before, excluded=left_out))
        self.lost = []

    def verify(self) -> None:
        """Compare the records as an operator does."""
        kinds = {finding.kind for finding in self.run(self.world.sweeper.verify()).discrepancies}
        allowed = {DiscrepancyKind.HOLD_OVERDUE} if self.overdue() else set()
        if self.has_lost_data:
            allowed |= {DiscrepancyKind.COUNTER_BELOW_LEDGER, DiscrepancyKind.OVER_LIMIT}
        self.guarantee(kinds <= allowed, f"verify found {kinds} on a healthy system")
        self.guarantee((DiscrepancyKind.HOLD_OVERDUE in kinds) == bool(self.overdue()), "verify missed an overdue hold")

    # Time and losses.

    def grow_old(self) -> None:
        """Let more time pass than a hold can live."""
        self.run(self.world.grow_older())
        for request in self.once_held():
            request.is_old = True

    def flush(self) -> None:
        """Lose everything in Redis: its holds, and the charges that a pending initial count does not include."""
        charged, held = self.entries() or (0, set())
        self.forgiven += len(held) + max(0, charged - min(self.initial_counts, default=charged))
        self.has_flushed = True
        self.run(self.world.client.flushall())

    def take_snapshot(self) -> None:
        """Snapshot the data of a replica that falls behind from now on."""
        self.dump, self.dumped = self.run(self.world.snapshot()), self.entries() or (0, set())

    def roll_back(self) -> None:
        """Fail over to that replica."""
        charged, held = self.entries() or (0, set())
        self.forgiven += abs(charged - self.dumped[0]) + len(held ^ self.dumped[1])
        self.has_rolled_back = True
        assert self.dump is not None
        self.run(self.world.roll_back(self.dump))
        self.guarantee(self.entries() == self.dumped, "the snapshot did not come back")

    # Invariants.

    @invariant()
    def check(self) -> None:
        """Compare both records with the guarantees, unless nothing touched them since."""
        if self.is_checked:
            return
        charged = len(self.those(Stage.CHARGED))
        self.guarantee(self.run(self.world.charged_rows()) == charged, "the ledger charged another key")
        self.guarantee(charged <= LIMIT + self.forgiven, "over-admission")
        counter, held = self.entries() or (0, set())
        self.is_checked = True
        unheld = [name for name in self.those(Stage.CHARGED) if name not in held]
        self.guarantee(counter <= len(unheld), f"charged for nothing: counter {counter}, rows without a hold {unheld}")
        self.guarantee(counter + len(held) <= LIMIT or self.has_lost_data, "counter above the limit")

    def teardown(self) -> None:
        """Kill everything and let time pass: the records must agree in the end, whatever happened."""
        if self.is_broken:
            return
        for name in self.those(Stage.OUT):
            self.inference_is_killed(name)
        for step in (self.settle_verdicts, self.grow_old, self.sweep, self.reconcile, self.check):
            step()
        self.run(self.world.reserve("req_probe", limit=0, initial_count=len(self.those(Stage.CHARGED))))
        self.guarantee(self.entries() == (len(self.those(Stage.CHARGED)), set()), f"not at rest: {self.entries()}")
        self.guarantee(not (found := self.run(self.world.differences())), f"counters differ from the ledger: {found}")
        self.verify()

    # Helpers.

    @property
    def has_lost_data(self) -> bool:
        """Whether Redis ever lost anything."""
        return self.has_flushed or self.has_rolled_back

    def those(self, *stages: Stage) -> list[str]:
        """Return the requests at some stages."""
        return [name for name, one in self.requests.items() if one.stage in stages]

    def once_held(self) -> list[Request]:
        """Return requests that were ever reserved."""
        return [one for one in self.requests.values() if one.stage not in (Stage.NEW, Stage.DENIED)]

    def overdue(self) -> set[str]:
        """Return the holds whose time is over."""
        _, held = self.entries() or (0, set())
        return {name for name in held if self.requests[name].is_old}

    def close_unknown(self, names: set[str]) -> None:
        """Record that requests without a row have an `unknown` one now."""
        for request in (self.requests[name] for name in names):
            if request.stage in (Stage.HELD, Stage.OUT, Stage.DEAD, Stage.RETURNED):
                request.may_be_late = request.stage is Stage.OUT
                request.stage = Stage.UNKNOWN

    def entries(self) -> tuple[int, set[str]] | None:
        """Return Redis' counter and holds, read once after each step."""
        if not self.known:
            self.known = [self.run(self.world.entries())]
        return self.known[0]

    def guarantee(self, is_kept: bool, what: str) -> None:
        """Fail when a guarantee is broken."""
        self.is_broken = not is_kept
        assert is_kept, what

    def run(self, work: Any) -> Any:
        """Await something on the world's own event loop."""

        async def awaited() -> Any:
            return await work

        self.known, self.is_checked = [], False
        return self.runner.run(awaited())


class UnguardedStore(RedisSweepStore):
    """A store whose reconciliation counts rows together with their holds."""

    async def entries(self, window: Window) -> AsyncIterator[list[DayEntries]]:
        """Yield all entries without any hold."""
        async for batch in super().entries(window):
            yield [replace(one, holds={}) for one in batch]

    async def repair_counter(self, counter: Counter, count: int, **guards: Any) -> int:
        """Repair a counter to all rows."""
        (name,) = await self._client.keys(f"quota:*:{ACCOUNT}:{counter.day}")
        await self._client.hset(name, counter_of(counter), count)
        return count


Machines = Callable[[], HoldMachine]


def explore(machines: Machines, profile: settings) -> None:
    """Run the machines of a fixture; hypothesis expects a class."""
    machine: Any = machines
    run_state_machine_as_test(machine, settings=profile)


@pytest.fixture
def machines(valkey_url: str, tmp_path: Path) -> Iterator[Machines]:
    """A function that creates machines of one world, which is emptied each time."""
    with asyncio.Runner() as runner:
        opened = opened_world(valkey_url, tmp_path / "ledger.db")
        world = runner.run(opened.__aenter__())
        yield lambda: HoldMachine(world, runner)
        runner.run(opened.__aexit__(None, None, None))


@pytest.fixture
def unguarded(machines: Machines) -> Machines:
    """A function that creates machines whose reconciliation ignores age and holds."""

    def make() -> HoldMachine:
        machine = machines()
        machine.world.store = UnguardedStore(machine.world.client, machine.world.holds)
        machine.world.sweeper = sweeper_of(machine.world.store, machine.world.ledger, hold_seconds=0)
        return machine

    return make


@pytest.mark.parametrize("examples", [8, pytest.param(120, marks=pytest.mark.long)])
def test_no_interleaving_of_crashes_losses_and_sweeps_breaks_a_guarantee(machines: Machines, examples: int) -> None:
    explore(machines, settings(PROFILE, max_examples=examples))


def test_the_check_finds_the_double_charge_of_a_reconciliation_without_its_guards(unguarded: Machines) -> None:
    """A check that cannot fail proves nothing."""
    with pytest.raises(AssertionError, match="charged for nothing"):
        explore(unguarded, SEARCH)


def test_the_designs_seven_steps_charge_twice_without_the_guards_and_once_with_them(
    machines: Machines, unguarded: Machines
) -> None:
    """A row before its settle with a concurrent reconciliation, as found by the exhaustive check."""

    def run_steps(machine: HoldMachine) -> tuple[int, set[str]] | None:
        machine.read_initial_count()
        machine.put_initial_count()
        machine.reserve("req_0")
        machine.dispatch("req_0")
        machine.commit_charged("req_0")
        machine.reconcile()
        machine.settle("req_0")
        return machine.entries()

    assert run_steps(machines()) == (1, set())
    assert run_steps(unguarded()) == (2, set())
