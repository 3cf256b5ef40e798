"""Background work on the ledger: folds deltas, backfills the roll-ups once, and removes old rows."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from services.common.db import database
from services.common.db.transactions import Transactions
from services.common.errors import Unavailable
from services.common.runtime.clock import Clock, SystemClock
from services.common.runtime.tasks import restarting, running
from services.inference import metrics
from services.inference.ledger.retention import Retention, first_day, first_hour, spans
from services.inference.ledger.retention_clock import RetentionClock
from services.inference.ledger.rollups import Progress, RollUps, unavailable

_log = logging.getLogger(__name__)
_FOLD_SECONDS = 1.0
_RETRY_SECONDS = 5.0
_RETENTION_SECONDS = 60.0
_LOG_SECONDS = 10.0
_DELTAS_MAX = {"sqlite": 500, "postgresql": 5_000}
"""Deltas in a fold. While SQLite folds them, commits wait: 2 to 4 ms."""
BACKFILL_ROWS = {"sqlite": 500, "postgresql": 5_000}
"""Rows in a step of the backfill."""
_REMOVED_ROWS = {"sqlite": 10, "postgresql": 500}
"""Rows in a step of retention. A row is in seven indices, hence on up to as many pages of SQLite's file."""
_BACKFILL_SHARE = 0.5
"""Share of the time that the backfill works; between its steps, it pauses."""
_RETENTION_SHARE = {"sqlite": 0.05, "postgresql": 0.2}
"""The same for retention. On SQLite a commit waits for a step, and both for the disk."""
_PAUSE_SECONDS_MAX = 1.0
"""A step may have waited for a disk, which the pause after it must not multiply."""
_CHECKPOINT_PAGES = 1_000
"""Pages in SQLite's write-ahead log from which on a fold makes a checkpoint, in its thread, so that rows need not."""
_READ_SECONDS = 30.0
"""Longer than any read takes: one that began before the roll-ups were complete reads rows, of which none may lack."""


class Maintenance:
    """The background work of one process. Several processes may do it at once."""

    def __init__(
        self, rollups: RollUps, retention: Retention, clock: Clock, *, dialect: str, retention_days: int
    ) -> None:
        """Create it.

        Args:
            rollups: The roll-ups.
            retention: Removes rows.
            clock: The machine's clock.
            dialect: `sqlite` or `postgresql`.
            retention_days: Age in days from which rows are removed; 0 keeps all.
        """
        self._rollups = rollups
        self._retention = retention
        self._clock = RetentionClock(clock, retention.newest_day)
        self._dialect = dialect
        self._retention_days = retention_days
        self._folded_at = time.monotonic()
        metrics.ROLLUP_LAG.set_function(lambda: time.monotonic() - self._folded_at)

    async def fold_periodically(self) -> None:
        """Fold deltas for ever."""
        await _repeat(self._fold, _FOLD_SECONDS)

    async def clean_periodically(self) -> None:
        """Backfill the roll-ups; then remove old rows for ever."""
        await _repeat(self._clean, _RETENTION_SECONDS)

    async def _fold(self) -> None:
        deltas_max = _DELTAS_MAX[self._dialect]
        while True:
            started = time.monotonic()
            folded = await self._rollups.fold(deltas_max)
            if folded is None:
                return  # Another replica folds.
            if folded < deltas_max:
                self._folded_at = started
                return

    async def _clean(self) -> None:
        progress = await self._rollups.progress()
        metrics.ROLLUP_BACKFILL.set(progress.share)
        if not progress.is_complete:
            await self._backfill()
            await asyncio.sleep(_READ_SECONDS)
        if self._retention_days:
            await self._remove_rows()
        await self._remove_hours()

    async def _backfill(self) -> None:
        logged_at = time.monotonic()
        _log_progress(await self._rollups.progress())
        async for _ in _paced(_BACKFILL_SHARE):
            rows_max = BACKFILL_ROWS[self._dialect]
            is_done = await self._rollups.backfill(rows_max, first_hour=first_hour(await self._clock.now()))
            if is_done or time.monotonic() - logged_at > _LOG_SECONDS:
                logged_at = time.monotonic()
                _log_progress(await self._rollups.progress())
            if is_done:
                return

    async def _remove_rows(self) -> None:
        now = await self._clock.now()
        removed = 0
        for span in spans(now, self._retention_days):
            async for _ in _paced(_RETENTION_SHARE[self._dialect]):
                page = await self._retention.remove(
                    span, first_day=first_day(now, self._retention_days), rows_max=_REMOVED_ROWS[self._dialect]
                )
                removed += page.removed
                metrics.LEDGER_ROWS_REMOVED.inc(page.removed)
                if page.last is None:
                    break
                span = span._replace(after=page.last)
        if removed:
            _log.info("Removed old ledger rows.", extra={"rows": removed, "days": self._retention_days})

    async def _remove_hours(self) -> None:
        rows_max = _REMOVED_ROWS[self._dialect]
        now = await self._clock.now()
        async for _ in _paced(_RETENTION_SHARE[self._dialect]):
            if await self._retention.remove_hours(now, rows_max=rows_max) < rows_max:
                return


async def _repeat(work: Callable[[], Awaitable[None]], seconds: float) -> None:
    while True:
        try:
            await work()
        except Unavailable as exc:
            _log.warning("The ledger's database is unavailable. Retrying.", extra={"error": str(exc.__cause__)})
            await asyncio.sleep(_RETRY_SECONDS)
            continue
        await asyncio.sleep(seconds)


async def _paced(share: float) -> AsyncIterator[None]:
    """Yield for ever, and pause between the steps so that they take a share of the time."""
    while True:
        started = time.monotonic()
        yield
        await asyncio.sleep(min((time.monotonic() - started) * (1 / share - 1), _PAUSE_SECONDS_MAX))


def _log_progress(progress: Progress) -> None:
    metrics.ROLLUP_BACKFILL.set(progress.share)
    message = "The roll-ups are complete." if progress.is_complete else "Adding older ledger rows to the roll-ups."
    _log.info(message, extra={"rows": progress.rows, "rows_estimated": progress.rows_max})


@asynccontextmanager
async def maintained(
    engine: AsyncEngine, url: str, *, retention_days: int, clock: Clock | None = None
) -> AsyncIterator[None]:
    """Do the background work on the ledger of `engine` during the block.

    On SQLite, folds and retention have their own connections and threads. Folds make the checkpoints, so that rows and
    steps of retention rarely wait for one.
    """
    async with AsyncExitStack() as stack:
        folding = stack.enter_context(database.open_writer(url, checkpoint_pages=_CHECKPOINT_PAGES))
        cleaning = stack.enter_context(database.open_writer(url))
        maintenance = Maintenance(
            RollUps(Transactions(engine, unavailable=unavailable), folding),
            Retention(Transactions(engine, unavailable=unavailable), cleaning),
            clock or SystemClock(),
            dialect=engine.dialect.name,
            retention_days=retention_days,
        )
        await stack.enter_async_context(running(restarting(maintenance.fold_periodically)))
        await stack.enter_async_context(running(restarting(maintenance.clean_periodically)))
        yield
