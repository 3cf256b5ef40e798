"""Roll-ups and deltas together equal all rows ever written, at any time, on both databases.

Random steps: rows, late changes, folds and backfill steps that are interrupted or run twice at once, and retention.
After each step, what the store's readers return is compared with sums over a dictionary of all rows ever written.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from ulid import ULID

from services.common.db import database
from services.common.db.sqlite_writer import SQLiteWriter
from services.common.db.transactions import Transactions
from services.common.errors import Unavailable
from services.common.limits import Unit
from services.common.surface import Surface
from services.inference.chat import ABANDONED_OUTCOMES, CallContext, Outcome, Usage
from services.inference.ledger.retention import Retention, first_day, first_hour, spans
from services.inference.ledger.rollup_tables import usage_deltas, usage_hours, usage_users
from services.inference.ledger.rollups import RollUps, unavailable
from services.inference.ledger.store import SQLLedgerStore, _unknown, _values
from services.inference.ledger.tables import usage_ledger
from services.inference.ledger.writer import ChargedSum, LedgerRow
from services.inference.server import MIGRATIONS, VERSION_TABLE
from tests.contracts.ledger_store import ROW
from tests.integration.migrating import migrate_ledger

NOW = datetime(2026, 8, 2, 12, tzinfo=UTC)
AGES = (0, 1, 2, 30, 95, 120)
RETENTION_DAYS = 90
FIRST_HOUR = first_hour(NOW)
ACCOUNTS = ("acc_1", "acc_2", "acc_former")
KEYS = ("key_1", "key_2", "key_3")
USERS = ("", "a" * 32, "b" * 32)
STEPS = 40
EARLIER_ROWS = 40
_REPLACEABLE = (Outcome.ANSWERED, Outcome.CLIENT_LEFT)
_SQL_TYPES = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


class World:
    """A ledger, all rows that were ever written to it, and two processes that maintain it."""

    def __init__(self, engines: list[AsyncEngine], writers: list[SQLiteWriter | None], seed: int) -> None:
        transactions = [Transactions(engine, unavailable=unavailable) for engine in engines]
        self.engine = engines[0]
        self.store = SQLLedgerStore(engines[0], writers[0])
        self.rollups = [RollUps(*one) for one in zip(transactions, writers, strict=True)]
        self.retention = Retention(transactions[0], writers[0])
        self.random = random.Random(seed)
        self.rows: dict[str, LedgerRow] = {}
        self.removed: set[str] = set()
        self._writers = writers
        self._number = 0

    # Rows, and what a dictionary makes of them.

    def new_row(self) -> LedgerRow:
        """Return a row with random dimensions and amounts."""
        pick = self.random.choice
        at = NOW - timedelta(days=pick(AGES), seconds=self.random.randrange(36_000))
        charged, tokens = self.random.random() < 0.7, self.random.randrange(50)
        self._number += 1
        return replace(
            ROW,
            request_id=f"req_{_time_of(at)}{self._number:06d}",
            account_id=pick(ACCOUNTS[:2]),
            key_id=pick(KEYS),
            day=at.date().isoformat(),
            reserved_at=at.timestamp(),
            model=pick(["a", "b"]),
            outcome=pick([Outcome.ANSWERED, Outcome.CLIENT_LEFT, Outcome.CUT, Outcome.REFUSED]),
            charged=charged,
            usage=Usage(tokens, 2, tokens + 2, cached_tokens=1, reasoning_tokens=1),
            surface=pick([*Surface, None]),
            cost=pick([None, 0, 7]),
            charged_tokens=pick([None, 5]),
            charged_cost=pick([None, 3]),
            quota_account_id=pick([None, None, "acc_former"]),
            user_digest=pick(USERS) or None,
        )

    def some_row(self) -> LedgerRow | None:
        """Return a final row that is still in the ledger."""
        final = [row for row in self.rows.values() if row.outcome is not Outcome.UNKNOWN]
        present = [row for row in final if row.request_id not in self.removed]
        return self.random.choice(present) if present else None

    def note(self, row: LedgerRow) -> None:
        """Record a row that was inserted."""
        known = self.rows.get(row.request_id)
        if known is None:
            self.rows[row.request_id] = row
        elif known.outcome is Outcome.UNKNOWN:
            kept = {name: getattr(known, name) for name in ("key_id", "day", "reserved_at", "charged", "refund_reason")}
            self.rows[row.request_id] = replace(row, **kept)

    # Steps.

    async def insert(self) -> None:
        """Insert new rows and repeat some old ones with other values."""
        rows = [self.new_row() for _ in range(self.random.randrange(1, 6))]
        if known := self.some_row():
            rows.append(replace(self.new_row(), request_id=known.request_id, charged=False))
        await self.store.insert(rows)
        for row in rows:
            self.note(row)

    async def close(self) -> None:
        """Close a request that has no row, and one that may have one."""
        rows = [self.new_row(), self.some_row() or self.new_row()]
        contexts = [CallContext(row.request_id, "acc_former", row.key_id, row.day, row.reserved_at) for row in rows]
        await self.store.close_unknown(contexts)
        for context in contexts:
            self.rows.setdefault(context.request_id, _unknown(context))

    async def fill_in(self) -> None:
        """Write the row of a request that was closed."""
        unknown = [one for one in self.rows.values() if one.outcome is Outcome.UNKNOWN]
        present = [one for one in unknown if one.request_id not in self.removed]
        if present:
            closed = self.random.choice(present)
            late = replace(self.new_row(), request_id=closed.request_id)
            await self.store.insert([late])
            self.note(late)

    async def abandon(self) -> None:
        """Record why a request was abandoned."""
        why = self.random.choice(sorted(ABANDONED_OUTCOMES))
        if (row := self.some_row()) is not None:
            await self.store.resolve_abandoned([(row.request_id, why)])
            if row.outcome in _REPLACEABLE:
                self.rows[row.request_id] = replace(row, outcome=why)

    async def fold(self) -> None:
        """Fold some deltas."""
        await self.random.choice(self.rollups).fold(self.random.randrange(1, 40))

    async def backfill(self) -> None:
        """Add some rows from before the roll-ups."""
        await self.random.choice(self.rollups).backfill(self.random.randrange(1, 12), first_hour=FIRST_HOUR)

    async def interrupted(self) -> None:
        """Interrupt a fold, a step of the backfill or retention at any point."""
        process = self.random.randrange(2)
        maintain = (
            self.rollups[process].fold(50),
            self.rollups[process].backfill(10, first_hour=FIRST_HOUR),
            self.remove(),
        )
        chosen = self.random.randrange(3)
        for number, work in enumerate(maintain):
            if number != chosen:
                work.close()
        task = asyncio.ensure_future(maintain[chosen])
        await asyncio.sleep(self.random.random() * 0.004)
        self._interrupt(process, task)
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled() or task.exception() is None or isinstance(task.exception(), Unavailable)
        await self._note_removed()

    def _interrupt(self, process: int, task: "asyncio.Future[Any]") -> None:
        writer = self._writers[process]
        if writer is None:
            task.cancel()
        else:
            writer._connection.interrupt()  # SQLite's statement fails; the thread itself cannot be stopped.

    async def at_once(self) -> None:
        """Do everything at once, in two processes."""
        folds = [one.fold(50) for one in self.rollups]
        steps = [one.backfill(50, first_hour=FIRST_HOUR) for one in self.rollups]
        await asyncio.gather(*folds, *steps, self.insert(), self.abandon(), self.fill_in())

    async def remove(self) -> None:
        """Remove old rows, once that is safe."""
        if not (await self.rollups[0].progress()).is_complete:
            return
        for span in spans(NOW, RETENTION_DAYS):
            last: str | None = span.after
            while last is not None:
                start = span._replace(after=last)
                _, last = await self.retention.remove(start, first_day=first_day(NOW, RETENTION_DAYS), rows_max=7)
        await self._note_removed()

    async def _note_removed(self) -> None:
        async with self.engine.connect() as connection:
            present = set(await connection.scalars(select(usage_ledger.c.request_id)))
        self.removed |= set(self.rows) - present

    # Comparison.

    async def check(self) -> None:
        """Compare all readers with the dictionary."""
        for account_id in ("", *ACCOUNTS):
            for key_id in ("", self.random.choice(KEYS)):
                await self._check_summaries(account_id, key_id)
        await self._check_counts()

    async def _check_summaries(self, account_id: str, key_id: str) -> None:
        first, last = sorted(self.random.choices([_day(age) for age in AGES], k=2))
        for by_surface in (False, True):
            for from_day, to_day in (("", ""), (first, last)):
                wanted = [
                    row
                    for row in self.rows.values()
                    if account_id in ("", row.account_id)
                    and key_id in ("", row.key_id)
                    and from_day <= row.day <= (to_day or "9")
                ]
                found = await self.store.summarize(
                    key_id, account_id=account_id, from_day=from_day, to_day=to_day, by_surface=by_surface
                )
                assert {
                    (one.day, one.model, one.surface): (
                        *(one.charged_requests, one.released_requests, one.cost),
                        *(one.prompt_tokens, one.completion_tokens, one.total_tokens),
                        *(one.cached_tokens, one.reasoning_tokens),
                    )
                    for one in found
                } == _summed(wanted, by_surface=by_surface)

    async def _check_counts(self) -> None:
        day = _day(self.random.choice(AGES[:4]))
        times = [row.reserved_at for row in self.rows.values()]
        before = self.random.choice([None, *times])
        excluded = self.random.sample(sorted(self.rows), k=min(len(self.rows), 5))

        def counted(row: LedgerRow) -> bool:
            is_wanted = row.charged and row.request_id not in excluded
            return is_wanted and (before is None or row.reserved_at < before)

        rows = [row for row in self.rows.values() if counted(row)]
        options: dict[str, Any] = {"reserved_before": before, "excluded": excluded}
        assert await self.store.count_charged([(key, day) for key in KEYS], **options) == [
            sum(row.day == day and row.key_id == key for row in rows) for key in KEYS
        ]
        assert await self.store.count_charged_of_accounts([(one, day) for one in ACCOUNTS], **options) == [
            sum(row.day == day and one in (row.account_id, row.quota_account_id) for row in rows) for one in ACCOUNTS
        ]
        sums = [
            ChargedSum(key, account, unit, _day(30), day)
            for account, key in (("acc_1", ""), ("acc_2", "key_1"), ("acc_former", ""), ("acc_former", "key_2"))
            for unit in (Unit.REQUESTS, Unit.TOKENS, Unit.COST)
        ]
        for one in sums:
            assert await self.store.sum_charged([one], **options) == [_amount(one, rows)]

    async def check_folded(self) -> None:
        """Compare hours and users with the dictionary, once all is folded."""
        while await self.rollups[0].fold(1_000):
            pass
        while not await self.rollups[0].backfill(1_000, first_hour=FIRST_HOUR):
            pass
        recent = [row for row in self.rows.values() if row.reserved_at >= FIRST_HOUR * 3600]
        hours = Counter((row.account_id, int(row.reserved_at // 3600)) for row in recent)
        users = Counter((row.account_id, row.day, row.user_digest) for row in self.rows.values() if row.user_digest)
        found = await self._totals(usage_hours, "account_id", "hour")
        assert {key: count for key, count in found.items() if key[1] >= FIRST_HOUR} == hours
        assert await self._totals(usage_users, "account_id", "day", "user_digest") == users
        async with self.engine.connect() as connection:
            assert await connection.scalar(select(func.count()).select_from(usage_deltas)) == 0

    async def _totals(self, table: Any, *names: str) -> dict[Any, int]:
        key = [table.c[name] for name in names]
        async with self.engine.connect() as connection:
            rows = await connection.execute(select(*key, func.sum(table.c.requests)).group_by(*key))
            return {tuple(row[:-1]): int(row[-1]) for row in rows if row[-1]}


def _summed(rows: Iterable[LedgerRow], *, by_surface: bool) -> dict[Any, Any]:
    groups: dict[Any, list[LedgerRow]] = {}
    for row in rows:
        groups.setdefault((row.day, row.model, row.surface if by_surface else None), []).append(row)
    return {group: _sums(members) for group, members in groups.items()}


def _sums(rows: list[LedgerRow]) -> tuple[int | None, ...]:
    charged = sum(row.charged for row in rows)
    costs = [row.cost for row in rows if row.cost is not None]
    tokens = [
        (one.prompt_tokens, one.completion_tokens, one.total_tokens, one.cached_tokens, one.reasoning_tokens)
        for one in (row.usage for row in rows)
    ]
    return charged, len(rows) - charged, sum(costs) if costs else None, *map(sum, zip(*tokens, strict=True))


def _amount(one: ChargedSum, rows: Iterable[LedgerRow]) -> int:
    amounts: dict[Unit, Callable[[LedgerRow], int]] = {
        Unit.REQUESTS: lambda _: 1,
        Unit.TOKENS: lambda row: row.amounts.tokens,
        Unit.COST: lambda row: row.amounts.cost,
    }
    return sum(
        amounts[one.unit](row)
        for row in rows
        if one.from_day <= row.day <= one.to_day
        and one.key_id in ("", row.key_id)
        and one.account_id in (row.account_id, row.quota_account_id)
    )


def _day(age: int) -> str:
    return (NOW - timedelta(days=age)).date().isoformat()


def _time_of(at: datetime) -> str:
    return str(ULID.from_datetime(at))[:10]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 12))
async def test_readers_agree_with_all_rows_ever_written_whatever_maintenance_does(url: str, seed: int) -> None:
    async with _opened(url, seed) as world:
        steps: list[Callable[[], Awaitable[None]]] = [
            *[world.insert] * 4,
            *(world.close, world.fill_in, world.abandon, world.abandon),
            *(world.fold, world.backfill, world.interrupted, world.interrupted, world.at_once, world.remove),
        ]
        await world.check()
        for _ in range(STEPS):
            await world.random.choice(steps)()
            await world.check()
        await world.check_folded()
        await world.remove()
        await world.check()
        assert world.removed == {one.request_id for one in world.rows.values() if one.day < _day(RETENTION_DAYS)}


@asynccontextmanager
async def _opened(url: str, seed: int) -> AsyncIterator[World]:
    """Open a ledger that has rows from before the roll-ups."""
    async with AsyncExitStack() as stack:
        earlier = World([await _at_previous_revision(url)] * 2, [None, None], seed)
        rows = [replace(earlier.new_row(), user_digest=None) for _ in range(EARLIER_ROWS)]
        rows += [
            _unknown(CallContext(one.request_id + "u", "acc_1", "key_1", one.day, one.reserved_at)) for one in rows
        ]
        added = ("user_digest", "is_rolled_up")
        async with earlier.engine.begin() as connection:
            values = [{name: value for name, value in _values(row).items() if name not in added} for row in rows]
            await connection.execute(insert(usage_ledger), values)
        await earlier.engine.dispose()
        if not database.is_sqlite(url):
            await database.migrate(url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
        engine = await stack.enter_async_context(
            database.open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
        )
        second = await stack.enter_async_context(database.open_second_engine(engine, connections=3))
        writers = [stack.enter_context(database.open_writer(url)) for _ in range(2)]
        world = World([engine, second], writers, seed)
        world.rows = {row.request_id: row for row in rows}
        world._number = EARLIER_ROWS
        yield world


async def _at_previous_revision(url: str) -> AsyncEngine:
    kind, _, rest = url.partition(":")
    engine = create_async_engine(f"{_SQL_TYPES[kind]}:{rest}")
    await migrate_ledger(engine, "0008")
    return engine
