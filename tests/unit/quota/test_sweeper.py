"""The sweeper's rounds and its calls to its ports, with a scripted store and a scripted ledger."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from services.common.errors import InvalidRequest, Unavailable
from services.common.limits import Unit, Window
from services.common.runtime.tasks import running
from services.common.verdict import CHARGED, RELEASED, RowVerdict, Verdict
from services.quota.holds import Counter, Settlement
from services.quota.metrics import SWEPT
from services.quota.overdue_holds import OverdueHold
from services.quota.sweeper import DayEntries, Sweeper

NOW = 10_000.0
HOLD_SECONDS = 180.0
LONG = 3_600.0
BATCH = 200
COUNTER = Counter("acc_1", "key_1", 7)
IDS = ["req_0", "req_1", "req_2"]


def overdue(count: int, *, start: int = 0) -> list[OverdueHold]:
    """Return overdue holds of one key."""
    return [OverdueHold(f"req_{start + number}", "key_1", "acc_1", 7, 1.0) for number in range(count)]


@dataclass
class ScriptedStore:
    """A store that returns the test's holds, round by round, and records its calls."""

    rounds: list[list[OverdueHold] | Exception] = field(default_factory=list)
    batches: list[list[DayEntries]] = field(default_factory=list)
    months: list[list[DayEntries]] = field(default_factory=list)
    closed: bool = True
    settled: list[Settlement] = field(default_factory=list)
    raised: list[tuple[Counter, int]] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    """The days before which everything was removed."""
    clock_shows: float = NOW
    reads: int = 0
    looked_everywhere: asyncio.Event = field(default_factory=asyncio.Event)

    async def now(self) -> float:
        """Return a fixed time."""
        return self.clock_shows

    async def overdue(self, *, at_most: int, before: float, after: float) -> list[OverdueHold]:
        """Return the next round's holds, or raise what it says."""
        if not self.rounds:
            self.looked_everywhere.set()
            return []
        found = self.rounds.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Record settlements."""
        self.settled += settlements
        return [self.closed] * len(settlements)

    async def entries(self, window: Window) -> AsyncIterator[list[DayEntries]]:
        """Yield the test's batches."""
        self.reads += 1
        for batch in self.batches if window is Window.DAY else self.months:
            yield batch

    async def delete_days(self, before: int) -> None:
        """Record removed days."""
        self.forgotten.append(before)

    async def repair_counter(
        self, counter: Counter, count: int, *, reserved_before: float, excluded: Sequence[str]
    ) -> int:
        """Record a repair and report that all rows were lost charges."""
        self.raised.append((counter, count))
        return count


@dataclass
class ScriptedClock:
    """A store's clock that behaves like a steady one, or as the test says."""

    is_steady: bool = True
    is_watched: bool = True
    monotonic_now: float = 0.0

    def monotonic(self) -> float:
        """Return what the test says."""
        return self.monotonic_now

    def observed_range(self, seconds: float) -> tuple[float, float] | None:
        """Return the times of the last `seconds`."""
        return (NOW - seconds, NOW) if self.is_watched else None


@dataclass
class ScriptedLedger:
    """A ledger of charged rows, each with the time of its reserve."""

    charged: dict[str, float] = field(default_factory=dict)
    poisoned: frozenset[str] = frozenset()
    """Requests that it refuses."""
    fails: list[Unavailable] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    counted: list[float | None] = field(default_factory=list)

    async def close_unknown(self, holds: Sequence[OverdueHold]) -> list[RowVerdict]:
        """Return verdicts by the charged rows; record the size of the batch."""
        if self.fails:
            raise self.fails.pop(0)
        if self.poisoned & {one.request_id for one in holds}:
            raise InvalidRequest("day: expected a date, YYYY-MM-DD")
        self.asked.append(len(holds))
        return [CHARGED if one.request_id in self.charged else RELEASED for one in holds]

    async def count_charged(self, counters: Sequence[Counter], *, reserved_before: float | None = None) -> list[int]:
        """Count rows; all belong to every requested key."""
        self.counted.append(reserved_before)
        return [len(self._before(reserved_before)) for _ in counters]

    async def count_charged_without(
        self, counter: Counter, request_ids: Sequence[str], *, reserved_before: float
    ) -> int:
        """Count rows except those of some requests."""
        return len(set(self._before(reserved_before)) - set(request_ids))

    def _before(self, reserved_before: float | None) -> list[str]:
        return [one for one, at in self.charged.items() if reserved_before is None or at < reserved_before]


def sweeper(
    store: ScriptedStore, ledger: ScriptedLedger, clock: ScriptedClock | None = None, *, pause_seconds: float = LONG
) -> Sweeper:
    """Return a sweeper over the two."""
    return Sweeper(
        store,
        ledger,
        clock or ScriptedClock(),
        hold_seconds=HOLD_SECONDS,
        sweep_seconds=pause_seconds,
        reconcile_seconds=pause_seconds,
    )


def entries(*, charged: int = 0, held: int = 0) -> DayEntries:
    """Return a key's day without old holds."""
    return DayEntries(COUNTER, charged, {f"req_held_{number}": NOW for number in range(held)}, held, limit=100)


@asynccontextmanager
async def rounds(of: Sweeper) -> AsyncIterator[None]:
    """Run the sweeper's own rounds during the block, which must end soon."""
    async with asyncio.timeout(10), running(of.run()):
        yield


async def test_each_hold_is_settled_by_the_verdict_of_its_own_row() -> None:
    store, ledger = ScriptedStore([overdue(3)]), ScriptedLedger({"req_1": 1.0})

    assert await sweeper(store, ledger).sweep() == 3

    verdicts = [RELEASED, CHARGED, RELEASED]
    assert store.settled == [
        Settlement(f"req_{number}", "acc_1", 7, one.verdict, one.amounts) for number, one in enumerate(verdicts)
    ]


async def test_a_hold_that_the_last_sweep_should_have_found_lives_for_another_full_time() -> None:
    store, clock = ScriptedStore([[], overdue(1), overdue(1), overdue(1)]), ScriptedClock()
    of = sweeper(store, ScriptedLedger(), clock)

    swept = []
    for clock.monotonic_now in (0.0, 1.0, HOLD_SECONDS, HOLD_SECONDS + 1):
        swept.append(await of.sweep())

    assert swept == [0, 0, 0, 1]


async def test_the_ledger_is_called_in_batches_within_its_limit() -> None:
    store, ledger = ScriptedStore([overdue(450)]), ScriptedLedger()

    await sweeper(store, ledger).sweep()

    assert ledger.asked == [200, 200, 50]
    assert len(store.settled) == 450


async def test_no_hold_is_settled_without_an_answer_of_the_ledger() -> None:
    store, ledger = ScriptedStore([overdue(3)]), ScriptedLedger(fails=[Unavailable("away", reason="gone")])

    with pytest.raises(Unavailable):
        await sweeper(store, ledger).sweep()

    assert store.settled == []


async def test_a_hold_that_the_ledger_refuses_stays_and_does_not_block_others() -> None:
    ledger = ScriptedLedger({"req_0": 1.0}, poisoned=frozenset({"req_1"}))
    store = ScriptedStore([overdue(3)])

    assert await sweeper(store, ledger).sweep() == 2

    verdicts = {one.request_id: one.verdict for one in store.settled}
    assert verdicts == {"req_0": Verdict.CHARGED, "req_2": Verdict.RELEASED}


async def test_a_round_that_fails_unexpectedly_is_logged_and_the_next_one_runs() -> None:
    store = ScriptedStore([ValueError("odd"), overdue(1)])

    async with rounds(sweeper(store, ScriptedLedger(), pause_seconds=0.01)):
        await store.looked_everywhere.wait()

    assert len(store.settled) == 1


@pytest.mark.parametrize("failure", [Unavailable("away", reason="gone"), ValueError("odd")])
async def test_a_sweeper_whose_cancellation_is_swallowed_ends_without_a_pause(failure: Exception) -> None:
    """redis-py can raise another exception in place of the cancellation, at the end of a stack for example."""
    reading = asyncio.Event()

    class SwallowingStore(ScriptedStore):
        async def overdue(self, *, at_most: int, before: float, after: float) -> list[OverdueHold]:
            reading.set()
            try:
                await asyncio.sleep(LONG)
            except asyncio.CancelledError:
                raise failure from None
            return []

    async with rounds(sweeper(SwallowingStore(), ScriptedLedger())):
        await reading.wait()


async def test_without_overdue_holds_the_ledger_is_not_called() -> None:
    store, ledger = ScriptedStore([[]]), ScriptedLedger()

    assert await sweeper(store, ledger).sweep() == 0

    assert ledger.asked == []


@pytest.mark.parametrize(("closed", "counted"), [(True, 2), (False, 0)])
async def test_only_holds_closed_by_this_replica_are_counted_as_swept(closed: bool, counted: int) -> None:
    store, ledger = ScriptedStore([overdue(2)], closed=closed), ScriptedLedger()
    metric = SWEPT.labels(Verdict.RELEASED.value)
    before = metric._value.get()

    await sweeper(store, ledger).sweep()

    assert metric._value.get() - before == counted


async def test_a_backlog_is_swept_without_a_pause() -> None:
    store = ScriptedStore([overdue(BATCH), overdue(BATCH), overdue(BATCH)])

    async with rounds(sweeper(store, ScriptedLedger())):
        await store.looked_everywhere.wait()

    assert len(store.settled) == 3 * BATCH


@pytest.mark.parametrize("away", ["store", "ledger"])
async def test_a_failed_round_is_retried(away: str) -> None:
    failure = Unavailable("away", reason="gone")
    store = ScriptedStore([failure, overdue(1)] if away == "store" else [overdue(1), overdue(1)])
    ledger = ScriptedLedger(fails=[failure] if away == "ledger" else [])

    async with rounds(sweeper(store, ledger, pause_seconds=0.001)):
        await store.looked_everywhere.wait()

    assert [end.request_id for end in store.settled] == ["req_0"]


async def test_nothing_is_swept_repaired_or_reported_until_the_clock_was_watched_for_a_holds_lifetime() -> None:
    old = DayEntries(COUNTER, charged=0, holds={"req_held": 1.0}, held=1, limit=100)
    store, ledger = ScriptedStore([overdue(1)], batches=[[old]]), ScriptedLedger({"req_1": 1.0, "req_2": 1.0})
    clock = ScriptedClock(is_watched=False)
    waiting = sweeper(store, ledger, clock)

    assert await waiting.sweep() == 0
    assert await waiting.reconcile() == 0
    assert list((await waiting.verify()).discrepancies) == []
    assert (store.settled, store.raised) == ([], [])

    clock.is_watched = True
    assert await waiting.sweep() == 1
    assert await waiting.reconcile() == 2
    assert len((await waiting.verify()).discrepancies) == 2


async def test_old_days_are_removed_unless_the_clock_has_stepped() -> None:
    store, clock = ScriptedStore(clock_shows=9.5 * 86_400), ScriptedClock(is_steady=False)
    waiting = sweeper(store, ScriptedLedger(), clock)

    await waiting.reconcile()
    assert store.forgotten == []

    clock.is_steady = True
    await waiting.reconcile()
    assert store.forgotten == [6]


async def test_a_failing_sweep_does_not_stop_reconciliation() -> None:
    store = ScriptedStore([Unavailable("away", reason="gone")] * 10_000, batches=[[entries(charged=0)]])
    ledger = ScriptedLedger({"req_1": 1.0})

    async with rounds(sweeper(store, ledger, pause_seconds=0.001)):
        await until(lambda: len(store.raised) > 1)

    assert store.settled == []


async def test_only_rows_older_than_a_holds_lifetime_repair_a_counter() -> None:
    store = ScriptedStore(batches=[[entries(charged=0)]])
    ledger = ScriptedLedger({"req_old": NOW - HOLD_SECONDS - 1, "req_young": NOW - HOLD_SECONDS + 1})

    assert await sweeper(store, ledger).reconcile() == 1

    assert store.raised == [(COUNTER, 1)]


async def test_rows_of_holds_that_are_not_swept_yet_are_excluded() -> None:
    old = NOW - HOLD_SECONDS - 1
    store = ScriptedStore(batches=[[DayEntries(COUNTER, 0, {"req_held": old, "req_young": NOW}, 2, limit=100)]])
    ledger = ScriptedLedger({"req_held": old, "req_lost": old})

    assert await sweeper(store, ledger).reconcile() == 1

    assert store.raised == [(COUNTER, 1)]


async def test_a_counter_that_cannot_be_repaired_does_not_block_others(caplog: pytest.LogCaptureFixture) -> None:
    class RefusingStore(ScriptedStore):
        async def repair_counter(self, counter: Counter, count: int, **more: Any) -> int:
            if counter.key_id == "key_bad":
                raise InvalidRequest("odd")
            return await super().repair_counter(counter, count, **more)

    bad = DayEntries(Counter("acc_1", "key_bad", 7), 0, {}, 0, limit=100)
    store = RefusingStore(batches=[[bad, entries(charged=0)], [entries(charged=0)]])

    assert await sweeper(store, ScriptedLedger({"req_1": 1.0})).reconcile() == 2

    assert "A counter could not be reconciled." in caplog.text


async def test_months_are_compared_in_every_round() -> None:
    """Once an hour was too late for a Redis that had lost only charges of months."""
    month = Counter("acc_1", "", 7, Unit.COST, Window.MONTH)
    store = ScriptedStore(batches=[[entries(charged=1)]], months=[[DayEntries(month, 0, {}, 0, limit=100)]])
    quota = sweeper(store, ScriptedLedger({"req_1": 1.0}))

    assert [await quota.reconcile() for _ in range(2)] == [0, 0], "only requests of days are counted"

    assert store.raised == [(month, 1)] * 2


async def test_sums_of_months_that_take_too_long_stop_neither_days_nor_other_months(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class SlowLedger(ScriptedLedger):
        async def count_charged(
            self, counters: Sequence[Counter], *, reserved_before: float | None = None
        ) -> list[int]:
            if counters[0].account_id == "acc_heavy":
                raise Unavailable("away", reason="deadline")
            return await super().count_charged(counters, reserved_before=reserved_before)

    heavy, light = (Counter(account, "", 7, Unit.COST, Window.MONTH) for account in ("acc_heavy", "acc_1"))
    months = [[DayEntries(one, 0, {}, 0, limit=100)] for one in (heavy, light)]
    store = ScriptedStore(batches=[[entries(charged=0)]], months=months)

    assert await sweeper(store, SlowLedger({"req_1": 1.0})).reconcile() == 1

    assert store.raised == [(COUNTER, 1), (light, 1)]
    assert "Counters of months could not be compared" in caplog.text


async def test_a_counter_at_or_above_its_old_rows_is_not_changed() -> None:
    store, ledger = ScriptedStore(batches=[[entries(charged=1)]]), ScriptedLedger({"req_1": 1.0})

    assert await sweeper(store, ledger).reconcile() == 0

    assert store.raised == []


async def test_a_comparison_reads_the_complete_ledger_after_the_counters() -> None:
    """A row commits before its charge: a ledger read before the counters could lack rows that they include."""
    order: list[str] = []

    class OrderedStore(ScriptedStore):
        async def entries(self, window: Window) -> AsyncIterator[list[DayEntries]]:
            if window is Window.DAY:
                order.append("counters")
                yield [entries(charged=1)]

    class OrderedLedger(ScriptedLedger):
        async def count_charged(
            self, counters: Sequence[Counter], *, reserved_before: float | None = None
        ) -> list[int]:
            order.append("old rows" if reserved_before else "all rows")
            return await super().count_charged(counters, reserved_before=reserved_before)

    report = await sweeper(OrderedStore(), OrderedLedger({"req_1": NOW})).verify()

    assert list(report.discrepancies) == []
    assert order == ["counters", "old rows", "all rows"]


async def test_a_discrepancy_is_reported_only_after_holds_and_rounds_had_their_time() -> None:
    store, ledger = ScriptedStore(batches=[[entries(charged=0)]]), ScriptedLedger()
    patient = sweeper(store, ledger, pause_seconds=10)

    await patient.verify()

    (old, everything) = ledger.counted
    assert old is not None
    assert old < NOW - HOLD_SECONDS - 20
    assert everything is None


async def until(condition: Callable[[], bool]) -> None:
    """Run other tasks until a condition holds."""
    while not condition():
        await asyncio.sleep(0)
