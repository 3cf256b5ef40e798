"""Sweeper: closes overdue holds, restores lost charges and compares counters with the ledger.

A hold whose verdict never arrived stays until it is overdue. The sweeper then closes it with the ledger's verdict. A
charged row charges the hold. Any other row releases it. A request without a row gets an `unknown` row, which makes the
verdict final, and is released. Age alone never ends a hold, so slots stay held while the ledger is unavailable.

A counter can be below the ledger only if Redis lost data. Reconciliation compares each counter with the rows that are
older than a hold can live, and raises it if necessary.
"""

import asyncio
import logging
import math
from collections import Counter as Tally
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import compress
from typing import Protocol

from services.common.batched import batched
from services.common.concurrency.batch import run_isolated
from services.common.errors import ServiceError, Unavailable
from services.common.limits import Unit, Window
from services.common.verdict import RowVerdict, Verdict
from services.quota.holds import COUNTERS_MAX, Counter, Settlement
from services.quota.metrics import COUNTERS_REPAIRED, DRIFT, OLDEST_HOLD, ROUNDS_FAILED, SWEPT, VERIFIED_AT
from services.quota.overdue_holds import OverdueHold, OverdueHolds

_log = logging.getLogger(__name__)
_OVERDUE_BATCH = 200
_EXCLUDED_MAX = 1_000
"""Maximum number of excluded requests in one call to the ledger."""
_DAY_SECONDS = 86_400
_KEEP_DAYS = 3
DISCREPANCIES_MAX = 1_000
"""Maximum number of discrepancies in a report. Every key differs after Redis lost its data."""
_LOGGED_MAX = 100
_SLACK_SECONDS = 5.0
"""Time that a round may take, on top of the pause between rounds."""


@dataclass(frozen=True, slots=True)
class DayEntries:
    """A counter of a key or an account and its holds, read atomically."""

    counter: Counter
    charged: int
    holds: Mapping[str, float]
    """Time of the reserve by Redis' clock, in Unix seconds, of each hold that takes of the counter, by request id."""
    held: int
    """What the holds take of the counter."""
    limit: int
    """Highest limit in force at a reserve in the window."""

    @property
    def oldest_hold_at(self) -> float | None:
        """Reserve time of the oldest hold, in Unix seconds; None without holds."""
        return min(self.holds.values(), default=None)

    def holds_before(self, reserved_before: float) -> list[str]:
        """Return the request ids of holds reserved before a time."""
        return [request_id for request_id, at in self.holds.items() if at < reserved_before]


class DiscrepancyKind(StrEnum):
    """How a counter or its holds disagree with the ledger."""

    COUNTER_ABOVE_LEDGER = "counter_above_ledger"
    """The counter has charges without a ledger row, so the key is charged too much."""
    COUNTER_BELOW_LEDGER = "counter_below_ledger"
    """The ledger has charged rows that the counter lacks, so the key is charged too little."""
    HOLD_OVERDUE = "hold_overdue"
    """The sweeper has not closed an overdue hold in time."""
    OVER_LIMIT = "over_limit"
    """Charged and held requests exceed the highest limit of the day."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A difference between a counter and the ledger."""

    kind: DiscrepancyKind
    entries: DayEntries
    ledger_charged: int
    """Number of charged rows: of all rows if the counter is above the ledger or over the limit, otherwise of rows older
    than a hold can live."""


@dataclass(frozen=True, slots=True)
class Report:
    """Result of a comparison of counters with the ledger."""

    discrepancies: Sequence[Discrepancy]
    """The first `DISCREPANCIES_MAX` discrepancies."""
    counts: Mapping[DiscrepancyKind, int]
    """Total number of discrepancies by kind."""
    key_days: int
    """Number of compared counters: of keys and of accounts, for each day."""
    held: int
    """Number of holds."""
    oldest_hold_seconds: float
    """Age of the oldest hold; 0 without holds."""


class SweepStore(Protocol):
    """Port to the store of holds. All methods raise `Unavailable` when it cannot be reached."""

    async def now(self) -> float:
        """Return the time of the store's clock, in Unix seconds."""

    async def overdue(self, *, at_most: int, before: float, after: float) -> list[OverdueHold]:
        """Return holds with a deadline up to `before` or later than `after`, both in Unix seconds.

        Returns at most `at_most` holds of each of the two ranges per bucket.
        """

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool | None]:
        """Close holds; returns the same as `HoldStore.settle`."""

    def entries(self, window: Window) -> AsyncIterator[list[DayEntries]]:
        """Yield the entries of all counters with a window (a day or a month), in batches."""

    async def delete_days(self, before: int) -> None:
        """Delete the entries of windows that ended before a day, in days since 1970-01-01."""

    async def repair_counter(
        self, counter: Counter, count: int, *, reserved_before: float, excluded: Sequence[str]
    ) -> int:
        """Raise a counter to a number of charged rows and return the number of charges added.

        Args:
            counter: Name of the counter.
            count: Number of charged rows reserved before `reserved_before`, without those of `excluded`.
            reserved_before: Time in Unix seconds. If there is an older hold not in `excluded`, nothing is changed.
            excluded: Request ids of the holds whose rows are not part of `count`.
        """


class StoreClock(Protocol):
    """Port to the tracker of the store's clock."""

    @property
    def is_steady(self) -> bool:
        """Whether no step is in progress."""

    def monotonic(self) -> float:
        """Return the time of the clock that never steps, in seconds."""

    def observed_range(self, seconds: float) -> tuple[float, float] | None:
        """Return the lowest and the highest reading in the last `seconds`; None if not observed for that long."""


class SweepLedger(Protocol):
    """Port to the usage ledger. All methods raise `ServiceError` when it cannot be reached."""

    async def close_unknown(self, holds: Sequence[OverdueHold]) -> Sequence[RowVerdict | None]:
        """Return each request's verdict, in order; a request without a row gets an `unknown` row.

        None stands for a verdict that only a newer version of the ledger knows.
        """

    async def count_charged(self, counters: Sequence[Counter], *, reserved_before: float | None = None) -> list[int]:
        """Return the number of charged rows of each counter, in order; None counts rows of any time."""

    async def count_charged_without(
        self, counter: Counter, request_ids: Sequence[str], *, reserved_before: float
    ) -> int:
        """Return the number of a counter's charged rows reserved before a time, excluding those of `request_ids`."""


class Sweeper:
    """Sweeps and reconciles in rounds. Several replicas may run concurrently."""

    def __init__(
        self,
        store: SweepStore,
        ledger: SweepLedger,
        clock: StoreClock,
        *,
        hold_seconds: float,
        sweep_seconds: float,
        reconcile_seconds: float,
    ) -> None:
        """Create a sweeper.

        Args:
            store: Store of the holds.
            ledger: Ledger with the verdicts.
            clock: Tracker of the store's clock.
            hold_seconds: Age at which a hold is overdue.
            sweep_seconds: Pause between sweeps.
            reconcile_seconds: Pause between reconciliations.
        """
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._hold_seconds = hold_seconds
        self._overdue = OverdueHolds(clock.monotonic, hold_seconds=hold_seconds)
        self._sweep_seconds = sweep_seconds
        self._reconcile_seconds = reconcile_seconds

    async def run(self) -> None:
        """Sweep and reconcile until cancelled. A failed round is retried after the pause."""
        async with asyncio.TaskGroup() as rounds:
            rounds.create_task(_repeat(self._sweep_all, self._sweep_seconds))
            rounds.create_task(_repeat(self._reconcile_and_verify, self._reconcile_seconds))

    async def sweep(self) -> int:
        """Close up to one batch of overdue holds per bucket and return the number closed.

        A hold is overdue if the store's clock has not read its reserve time for `hold_seconds`. The reserve time is
        then in the past, or in the future if the clock has stepped back. An overdue hold that the last sweep should
        have found and did not lives for `hold_seconds` from now on.

        Raises:
            ServiceError: The store or the ledger cannot be reached. The holds stay.
        """
        await self._store.now()
        observed = self._clock.observed_range(self._hold_seconds)
        if observed is None:
            return 0
        before, after = (time + self._hold_seconds for time in observed)
        after += _SLACK_SECONDS
        found = await self._store.overdue(at_most=_OVERDUE_BATCH, before=before, after=after)
        is_complete = len(found) < _OVERDUE_BATCH
        overdue = self._overdue.to_close(found, before=before, after=after, is_complete=is_complete)
        swept = 0
        for start in range(0, len(overdue), _OVERDUE_BATCH):
            holds = overdue[start : start + _OVERDUE_BATCH]
            settlements = [
                Settlement(hold.request_id, hold.account_id, hold.day, verdict.verdict, verdict.amounts)
                for hold, verdict in zip(holds, await self._verdicts(holds), strict=True)
                if verdict is not None
            ]
            # Another replica or the gateway may have closed some of them already.
            closed = list(compress(settlements, await self._store.settle(settlements)))
            for settlement in closed:
                SWEPT.labels(settlement.verdict.value).inc()
            charged = sum(settlement.verdict is Verdict.CHARGED for settlement in closed)
            _log.info("swept", extra={"holds": len(closed), "charged": charged})
            swept += len(closed)
        return swept

    async def _verdicts(self, holds: Sequence[OverdueHold]) -> list[RowVerdict | None]:
        """Return the ledger's verdict on each hold; None for a hold that stays.

        Raises:
            Unavailable: The ledger cannot be reached.
        """
        results = await run_isolated(self._ledger.close_unknown, holds, name="close")
        for result in results:
            if isinstance(result, Unavailable):
                raise result
        return [None if isinstance(result, Exception) else result for result in results]

    async def reconcile(self) -> int:
        """Raise counters that are below the ledger and return what was added to counters of requests.

        Raises:
            ServiceError: The store or the ledger cannot be reached.
        """
        now = await self._store.now()
        observed = self._clock.observed_range(self._hold_seconds)
        if observed is None:
            return 0
        reserved_before = math.floor(observed[0] * 1000) / 1000
        if self._clock.is_steady:
            await self._store.delete_days(int(now // _DAY_SECONDS) - _KEEP_DAYS)
        raised, restored = await self._reconcile(Window.DAY, reserved_before)
        await self._reconcile(Window.MONTH, reserved_before)
        if raised:
            COUNTERS_REPAIRED.inc(restored)
            _log.warning("Restored charges that Redis had lost.", extra={"charges": restored})
        return restored

    async def _reconcile(self, window: Window, reserved_before: float) -> tuple[int, int]:
        """Return the number of counters that were raised, and what was added to those of requests."""
        raised = restored = 0
        async for batch in self._store.entries(window):
            counts = await self._counts_to_compare(window, [one.counter for one in batch], reserved_before)
            for entries, count in zip(batch, counts, strict=True):
                if count > entries.charged and (added := await self._repair_counter(entries, count, reserved_before)):
                    raised += 1
                    restored += added if entries.counter.unit is Unit.REQUESTS else 0
        return raised, restored

    async def _counts_to_compare(
        self, window: Window, counters: Sequence[Counter], reserved_before: float
    ) -> Sequence[int]:
        """Return the ledger's counts; zeros for months that take too long, as they do until roll-ups are complete.

        Raises:
            ServiceError: The ledger cannot be reached.
        """
        try:
            return await self._count_charged(counters, reserved_before)
        except ServiceError as exc:
            if window is not Window.MONTH:
                raise
            _log.warning(
                "Counters of months could not be compared. They are retried in the next round.",
                extra={"counters": len(counters), "reason": exc.reason},
            )
            return [0] * len(counters)

    async def _repair_counter(self, entries: DayEntries, count: int, reserved_before: float) -> int:
        """Raise one counter and return the number of charges added. Errors are logged and do not stop the round."""
        excluded = entries.holds_before(reserved_before)
        if len(excluded) > _EXCLUDED_MAX:
            return 0  # The sweep closes these holds, and a later round counts their rows.
        try:
            if excluded:
                count = await self._ledger.count_charged_without(
                    entries.counter, excluded, reserved_before=reserved_before
                )
            return await self._store.repair_counter(
                entries.counter, count, reserved_before=reserved_before, excluded=excluded
            )
        except ServiceError as exc:
            _log.warning(
                "A counter could not be reconciled. It is retried in the next round.",
                extra={"account": entries.counter.account_id, "key": entries.counter.key_id, "reason": exc.reason},
            )
            return 0

    async def verify(self, windows: Sequence[Window] = (Window.DAY, Window.MONTH)) -> Report:
        """Compare counters of these windows, and holds, with the ledger.

        Requests in flight cause differences for up to the lifetime of a hold. Only older differences are reported.

        Raises:
            ServiceError: The store or the ledger cannot be reached.
        """
        now = await self._store.now()
        observed = self._clock.observed_range(self._grace_seconds)
        # Until the clock has been observed for that long, nothing is old enough to report.
        cutoff = observed[0] if observed else 0.0
        discrepancies: list[Discrepancy] = []
        counts: Tally[DiscrepancyKind] = Tally()
        key_days = held = 0
        oldest_hold_at = now
        for window in windows:
            async for batch in self._store.entries(window):
                # The ledger must be read after the counters: a row commits before its charge, so every charge has its
                # row.
                names = [entries.counter for entries in batch]
                old = await self._count_charged(names, cutoff)
                total = await self._count_charged(names, None)
                for entries, old_count, count in zip(batch, old, total, strict=True):
                    found = _compare(entries, old_count, count, cutoff)
                    counts.update(discrepancy.kind for discrepancy in found)
                    discrepancies += found[: DISCREPANCIES_MAX - len(discrepancies)]
                key_days += len(batch)
                held += sum(len(entries.holds) for entries in batch if _counts_holds(entries.counter))
                times = [entries.oldest_hold_at for entries in batch if entries.oldest_hold_at]
                oldest_hold_at = min([oldest_hold_at, *times])
        return Report(discrepancies, counts, key_days, held, now - oldest_hold_at)

    @property
    def _grace_seconds(self) -> float:
        """Age by which a hold must have been swept, or a lost charge restored."""
        return self._hold_seconds + self._sweep_seconds + self._reconcile_seconds + _SLACK_SECONDS

    async def _count_charged(self, counters: Sequence[Counter], reserved_before: float | None) -> list[int]:
        """Return the ledger's counts, in calls of at most `_COUNTERS_MAX` counters."""
        counts: list[int] = []
        for some in batched(counters, COUNTERS_MAX):
            counts += await self._ledger.count_charged(some, reserved_before=reserved_before)
        return counts

    async def _reconcile_and_verify(self) -> None:
        try:
            await self.reconcile()
        finally:
            await self._report_drift()

    async def _report_drift(self) -> None:
        report = await self.verify([Window.DAY])
        for kind in DiscrepancyKind:
            DRIFT.labels(kind.value).set(report.counts[kind])
        OLDEST_HOLD.set(report.oldest_hold_seconds)
        VERIFIED_AT.set_to_current_time()
        for discrepancy in report.discrepancies[:_LOGGED_MAX]:
            _log.error(
                "Counter and ledger differ. Run `stackctl verify` for details.",
                extra={
                    "kind": discrepancy.kind.value,
                    "account": discrepancy.entries.counter.account_id,
                    "key": discrepancy.entries.counter.key_id,
                },
            )

    async def _sweep_all(self) -> None:
        while await self.sweep() >= _OVERDUE_BATCH:
            continue


def _compare(entries: DayEntries, old: int, total: int, cutoff: float) -> list[Discrepancy]:
    discrepancies = []
    if entries.charged > total:
        discrepancies.append(Discrepancy(DiscrepancyKind.COUNTER_ABOVE_LEDGER, entries, total))
    # If a sweep is late, old rows still have their hold. That is reported as HOLD_OVERDUE.
    if entries.charged + entries.held < old:
        discrepancies.append(Discrepancy(DiscrepancyKind.COUNTER_BELOW_LEDGER, entries, old))
    if _counts_holds(entries.counter) and entries.oldest_hold_at is not None and entries.oldest_hold_at < cutoff:
        discrepancies.append(Discrepancy(DiscrepancyKind.HOLD_OVERDUE, entries, old))
    if entries.charged + entries.held > entries.limit:
        discrepancies.append(Discrepancy(DiscrepancyKind.OVER_LIMIT, entries, total))
    return discrepancies


def _counts_holds(counter: Counter) -> bool:
    """Return whether a counter is one of which each hold takes: the requests of its key and day."""
    return bool(counter.key_id) and counter.unit is Unit.REQUESTS and counter.window is Window.DAY


async def _repeat(work: Callable[[], Awaitable[object]], pause_seconds: float) -> None:
    task = asyncio.current_task()
    assert task is not None, "rounds run in a task"
    while True:
        try:
            await work()
        except ServiceError as exc:
            _log.warning("A round failed because a dependency is unavailable. Retrying.", extra={"reason": exc.reason})
        except Exception:  # noqa: BLE001 - without further rounds no hold would be swept
            ROUNDS_FAILED.inc()
            _log.exception("A round failed. Retrying.")
        # redis-py can swallow a cancellation that arrives while a connection fails. The pause would delay the shutdown.
        if task.cancelling():
            return
        await asyncio.sleep(pause_seconds)
