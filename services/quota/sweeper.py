"""What keeps the two records together: overdue holds are closed by the ledger's word, lost charges are raised again.

A hold whose verdict never came stays until it is overdue. Then the ledger is asked: a charged row makes it a charge,
another row or none at all releases it, and a request without a row gets an `unknown` one, so that its verdict is final.
Time alone never ends a hold; while the ledger is away, slots stay taken.

Counters can be below the ledger only where Redis lost data (emptied, rolled back). Reconciliation compares each with
the rows that are older than a hold can live, and raises it.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import compress
from typing import Protocol

from services.common.concurrency.batch import run_isolated
from services.common.errors import ServiceError, Unavailable
from services.common.verdict import Verdict
from services.quota.holds import KeyDay, Settlement
from services.quota.metrics import COUNTERS_REPAIRED, DRIFT, OLDEST_HOLD, ROUNDS_FAILED, SWEPT, VERIFIED_AT

_log = logging.getLogger(__name__)
_OVERDUE_BATCH = 200
_LEFT_OUT_MAX = 1_000
"""Most requests that the ledger takes in one call."""
_DAY_SECONDS = 86_400
_KEEP_DAYS = 3
DISCREPANCIES_MAX = 1_000
"""Most findings of a report: with an emptied Redis every key differs."""
_LOGGED_MAX = 100
_SLACK_SECONDS = 5.0
"""What an overdue hold or a lost charge may take to be dealt with, beyond the pauses of the rounds."""


@dataclass(frozen=True, slots=True)
class OverdueHold:
    """A hold whose time is over."""

    request_id: str
    key_id: str
    account_id: str
    day: int
    """Days since 1970-01-01, of the reserve."""
    reserved_at: float
    """Redis' time of the reserve; Unix seconds."""


@dataclass(frozen=True, slots=True)
class DayEntries:
    """All that Redis holds of a key's day, read in one step."""

    key_day: KeyDay
    charged: int
    holds: Mapping[str, float]
    """Redis' time of each hold's reserve, by request id; Unix seconds."""
    limit: int
    """The highest limit in force at a reserve of that day."""

    @property
    def held(self) -> int:
        """Number of holds."""
        return len(self.holds)

    @property
    def oldest_hold_at(self) -> float | None:
        """Redis' time of the oldest hold; None when there is none."""
        return min(self.holds.values(), default=None)

    def holds_before(self, reserved_before: float) -> list[str]:
        """Return the request ids of holds that were reserved before a time."""
        return [request_id for request_id, at in self.holds.items() if at < reserved_before]


class DiscrepancyKind(StrEnum):
    """How the two records can differ."""

    COUNTER_ABOVE_LEDGER = "counter_above_ledger"
    """Somebody is charged for nothing."""
    COUNTER_BELOW_LEDGER = "counter_below_ledger"
    """Somebody gets requests for nothing."""
    HOLD_OVERDUE = "hold_overdue"
    """The sweeper has not closed a hold in its time."""
    OVER_LIMIT = "over_limit"
    """More is charged and held than the limit ever was."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One key's day on which the records differ."""

    kind: DiscrepancyKind
    entries: DayEntries
    ledger_charged: int
    """Charged rows: all of them where the counter is above, else those older than a hold can live."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a comparison found."""

    discrepancies: Sequence[Discrepancy]
    """The first `DISCREPANCIES_MAX`."""
    counts: Mapping[DiscrepancyKind, int]
    """All findings, by kind."""
    key_days: int
    held: int
    oldest_hold_seconds: float
    """Age of the oldest hold; 0 when there is none."""


class SweepStore(Protocol):
    """What the sweeper needs of the store. All raise `Unavailable` when it cannot be reached."""

    async def now(self) -> float:
        """Return the store's clock; Unix seconds."""

    async def overdue(self, *, at_most: int, before: float, after: float) -> list[OverdueHold]:
        """Return holds whose deadline is until `before` or later than `after`, of each bucket at most so many each."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool | None]:
        """Close holds, in order; false where there was none, None where it failed for this key alone."""

    def entries(self) -> AsyncIterator[list[DayEntries]]:
        """Yield everything that is held, in batches."""

    async def forget(self, key_days: Sequence[KeyDay]) -> None:
        """Remove all that is kept of days that are long over."""

    async def repair_counter(
        self, key_day: KeyDay, count: int, *, reserved_before: float, left_out: Sequence[str]
    ) -> int:
        """Raise a counter to a number of charged rows; return by how much.

        Args:
            key_day: Whose counter.
            count: Charged rows that were reserved before a time, without those of the holds in `left_out`.
            reserved_before: That time; while there is an older hold that is not in `left_out`, nothing is changed.
            left_out: Request ids.
        """


class SteadyClock(Protocol):
    """What is known of the store's clock, beside one that never steps."""

    @property
    def is_steady(self) -> bool:
        """Whether no step is waited out."""

    def shown(self, seconds: float) -> tuple[float, float] | None:
        """Return the earliest and the latest time shown in the last `seconds`; None when not watched for so long."""


class SweepLedger(Protocol):
    """What the sweeper needs of the ledger. All raise a `ServiceError` when it cannot be asked."""

    async def close_unknown(self, holds: Sequence[OverdueHold]) -> list[Verdict]:
        """Return each request's verdict, in order; one without a row gets an `unknown` row."""

    async def count_charged(self, key_days: Sequence[KeyDay], *, reserved_before: float | None = None) -> list[int]:
        """Return charged rows, in order; with a time only those reserved before it."""

    async def count_charged_without(
        self, key_day: KeyDay, request_ids: Sequence[str], *, reserved_before: float
    ) -> int:
        """Return the charged rows of a key's day that were reserved before a time, without those of some requests."""


class Sweeper:
    """Runs rounds; any number of replicas may run them at the same time."""

    def __init__(
        self,
        store: SweepStore,
        ledger: SweepLedger,
        clock: SteadyClock,
        *,
        hold_seconds: float,
        sweep_seconds: float,
        reconcile_seconds: float,
    ) -> None:
        """Work on `store` by the word of `ledger`.

        Args:
            store: Where the holds are.
            ledger: What really happened.
            clock: What is known of the store's clock.
            hold_seconds: Age at which a hold is overdue.
            sweep_seconds: Pause between two looks for overdue holds.
            reconcile_seconds: Pause between two comparisons of all counters.
        """
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._hold_seconds = hold_seconds
        self._sweep_seconds = sweep_seconds
        self._reconcile_seconds = reconcile_seconds

    async def run(self) -> None:
        """Sweep and reconcile until cancelled; what fails is tried again in the next round."""
        async with asyncio.TaskGroup() as rounds:
            rounds.create_task(_repeat(self._sweep_all, self._sweep_seconds))
            rounds.create_task(_repeat(self._reconcile_and_verify, self._reconcile_seconds))

    async def sweep(self) -> int:
        """Close overdue holds, a batch of each bucket; return how many were closed.

        Overdue is what was reserved at a time that the store's clock has not shown for as long as a hold may live:
        before that, or after it where the clock has gone back.

        Raises:
            ServiceError: The store or the ledger cannot be reached; the holds stay.
        """
        await self._store.now()
        shown = self._clock.shown(self._hold_seconds)
        if shown is None:
            return 0
        before, after = (time + self._hold_seconds for time in shown)
        overdue = await self._store.overdue(at_most=_OVERDUE_BATCH, before=before, after=after + _SLACK_SECONDS)
        swept = 0
        for start in range(0, len(overdue), _OVERDUE_BATCH):
            holds = overdue[start : start + _OVERDUE_BATCH]
            settlements = [
                Settlement(hold.request_id, hold.key_id, hold.day, verdict)
                for hold, verdict in zip(holds, await self._verdicts(holds), strict=True)
                if verdict is not None
            ]
            # Another replica or the gateway may have closed some of them meanwhile.
            closed = list(compress(settlements, await self._store.settle(settlements)))
            for settlement in closed:
                SWEPT.labels(settlement.verdict.value).inc()
            charged = sum(settlement.verdict is Verdict.CHARGED for settlement in closed)
            _log.info("swept", extra={"holds": len(closed), "charged": charged})
            swept += len(closed)
        return swept

    async def _verdicts(self, holds: Sequence[OverdueHold]) -> list[Verdict | None]:
        """Return the ledger's verdict on each hold; None for one that the ledger does not take.

        Raises:
            Unavailable: The ledger cannot be asked.
        """
        results = await run_isolated(self._ledger.close_unknown, holds, name="close")
        for result in results:
            if isinstance(result, Unavailable):
                raise result
        return [None if isinstance(result, Exception) else result for result in results]

    async def reconcile(self) -> int:
        """Raise counters that are below the ledger; return how many charges they had lost.

        Raises:
            ServiceError: The store or the ledger cannot be reached.
        """
        now = await self._store.now()
        shown = self._clock.shown(self._hold_seconds)
        if shown is None:
            return 0
        reserved_before, raised = math.floor(shown[0] * 1000) / 1000, 0
        async for batch in self._store.entries():
            await self._forget_old_days(batch, now)
            counts = await self._ledger.count_charged([one.key_day for one in batch], reserved_before=reserved_before)
            for one, count in zip(batch, counts, strict=True):
                if count > one.charged:
                    raised += await self._repair_counter(one, count, reserved_before)
        if raised:
            COUNTERS_REPAIRED.inc(raised)
            _log.warning("counters had lost charges", extra={"charges": raised})
        return raised

    async def _repair_counter(self, entries: DayEntries, count: int, reserved_before: float) -> int:
        """Raise one counter; return by how much. What goes wrong with it is logged and stops no other."""
        left_out = entries.holds_before(reserved_before)
        if len(left_out) > _LEFT_OUT_MAX:
            return 0  # The sweep closes them, and a later round counts their rows.
        try:
            if left_out:
                count = await self._ledger.count_charged_without(
                    entries.key_day, left_out, reserved_before=reserved_before
                )
            return await self._store.repair_counter(
                entries.key_day, count, reserved_before=reserved_before, left_out=left_out
            )
        except ServiceError as exc:
            _log.warning("a counter was not compared", extra={"key": entries.key_day.key_id, "reason": exc.reason})
            return 0

    async def verify(self) -> Report:
        """Compare all counters and holds with the ledger.

        What is in flight explains a difference for the time of a hold; only what outlives it is found.

        Raises:
            ServiceError: The store or the ledger cannot be reached.
        """
        now = await self._store.now()
        shown = self._clock.shown(self._patience_seconds)
        # Nothing has outlived it where the clock has not been watched for so long.
        dealt_with_before = shown[0] if shown else 0.0
        discrepancies: list[Discrepancy] = []
        counts: Counter[DiscrepancyKind] = Counter()
        key_days = held = 0
        oldest_hold_at = now
        async for batch in self._store.entries():
            # The order matters: a row commits before its charge, so a ledger read after the counters has all of theirs.
            names = [one.key_day for one in batch]
            old = await self._ledger.count_charged(names, reserved_before=dealt_with_before)
            total = await self._ledger.count_charged(names)
            for one, old_count, count in zip(batch, old, total, strict=True):
                found = _compare(one, old_count, count, dealt_with_before)
                counts.update(discrepancy.kind for discrepancy in found)
                discrepancies += found[: DISCREPANCIES_MAX - len(discrepancies)]
            key_days += len(batch)
            held += sum(one.held for one in batch)
            oldest_hold_at = min([oldest_hold_at, *(one.oldest_hold_at for one in batch if one.oldest_hold_at)])
        return Report(discrepancies, counts, key_days, held, now - oldest_hold_at)

    @property
    def _patience_seconds(self) -> float:
        """Age at which a hold, or a lost charge, must have been dealt with."""
        return self._hold_seconds + self._sweep_seconds + self._reconcile_seconds + _SLACK_SECONDS

    async def _forget_old_days(self, batch: Sequence[DayEntries], now: float) -> None:
        """Remove days that are long over; while a step of the clock is waited out, none is."""
        oldest = int(now // _DAY_SECONDS) - _KEEP_DAYS
        old = [one.key_day for one in batch if one.key_day.day < oldest]
        if old and self._clock.is_steady:
            await self._store.forget(old)

    async def _reconcile_and_verify(self) -> None:
        try:
            await self.reconcile()
        finally:
            await self._show_drift()

    async def _show_drift(self) -> None:
        report = await self.verify()
        for kind in DiscrepancyKind:
            DRIFT.labels(kind.value).set(report.counts[kind])
        OLDEST_HOLD.set(report.oldest_hold_seconds)
        VERIFIED_AT.set_to_current_time()
        for discrepancy in report.discrepancies[:_LOGGED_MAX]:
            _log.error(
                "the records differ", extra={"kind": discrepancy.kind.value, "key": discrepancy.entries.key_day.key_id}
            )

    async def _sweep_all(self) -> None:
        while await self.sweep() >= _OVERDUE_BATCH:
            continue


def _compare(entries: DayEntries, old: int, total: int, dealt_with_before: float) -> list[Discrepancy]:
    discrepancies = []
    if entries.charged > total:
        discrepancies.append(Discrepancy(DiscrepancyKind.COUNTER_ABOVE_LEDGER, entries, total))
    # Old rows may still have their hold when its sweep is late, which is told by itself.
    if entries.charged + entries.held < old:
        discrepancies.append(Discrepancy(DiscrepancyKind.COUNTER_BELOW_LEDGER, entries, old))
    if entries.oldest_hold_at is not None and entries.oldest_hold_at < dealt_with_before:
        discrepancies.append(Discrepancy(DiscrepancyKind.HOLD_OVERDUE, entries, old))
    if entries.charged + entries.held > entries.limit:
        discrepancies.append(Discrepancy(DiscrepancyKind.OVER_LIMIT, entries, total))
    return discrepancies


async def _repeat(work: Callable[[], Awaitable[object]], pause_seconds: float) -> None:
    task = asyncio.current_task()
    assert task is not None, "rounds run in a task"
    # A cancellation that lands as the connection to Redis dies gets lost in the client; it is still known here.
    while not task.cancelling():
        try:
            await work()
        except ServiceError as exc:
            _log.warning("the round is put off", extra={"reason": exc.reason})
        except Exception:  # noqa: BLE001 - without further rounds no hold would be swept
            ROUNDS_FAILED.inc()
            _log.exception("a round failed")
        await asyncio.sleep(pause_seconds)
