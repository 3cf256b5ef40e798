"""Background work on the ledger: old rows go and their sums stay, whatever the ids of the rows and the database."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from ulid import ULID

from services.common.db import database
from services.common.db.transactions import Transactions
from services.inference import metrics
from services.inference.chat import Outcome, Usage
from services.inference.ledger.maintenance import maintained
from services.inference.ledger.rollup_tables import usage_days, usage_users
from services.inference.ledger.rollups import (
    MODELS_OF_A_DAY_MAX,
    OTHER_MODELS,
    OTHER_USERS,
    USERS_OF_A_DAY_MAX,
    RollUps,
    unavailable,
)
from services.inference.ledger.store import SQLLedgerStore, _values
from services.inference.ledger.tables import usage_ledger
from services.inference.ledger.writer import LedgerRow
from services.inference.server import MIGRATIONS, VERSION_TABLE
from services.inference.settings import InferenceSettings
from tests.contracts.ledger_store import ROW, rows
from tests.integration.migrating import migrate_ledger

WAIT_SECONDS_MAX = 20
NOW = datetime.now(UTC)


class Ledger:
    """An open ledger."""

    def __init__(self, url: str, engine: AsyncEngine, store: SQLLedgerStore) -> None:
        self.url = url
        self.engine = engine
        self.store = store

    async def ids(self) -> set[str]:
        """Return the request ids of the rows."""
        async with self.engine.connect() as connection:
            return set(await connection.scalars(select(usage_ledger.c.request_id)))

    async def wait_for_ids(self, expected: set[str]) -> None:
        """Wait until exactly these rows are left."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while await self.ids() != expected:
                await asyncio.sleep(0.05)

    async def count(self, query: str) -> int:
        """Return the result of a query."""
        async with self.engine.connect() as connection:
            return int(await connection.scalar(text(query)) or 0)


@pytest.fixture(params=["sqlite", "postgres"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    """An open, empty ledger on each kind of database."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    if request.param == "postgres":
        url = str(request.getfixturevalue("postgres_url"))
        await database.migrate(url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            database.open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
        )
        yield Ledger(url, engine, SQLLedgerStore(engine, stack.enter_context(database.open_writer(url))))


def aged(days: int, request_id: str = "") -> LedgerRow:
    """Return a row of some days ago."""
    at = NOW - timedelta(days=days)
    known = request_id or f"req_{ULID.from_datetime(at)}"
    return replace(ROW, request_id=known, day=at.date().isoformat(), reserved_at=at.timestamp())


async def test_old_rows_are_removed_and_their_sums_stay(ledger: Ledger) -> None:
    old = [aged(days) for days in (91, 92, 120, 400)] + [aged(100, "a-callers-own-id"), aged(100, "zz-own")]
    old[0] = replace(old[0], key_id="key_old")
    kept = [aged(days) for days in (0, 1, 30, 60, 89)] + [aged(5, "b-callers-own-id"), aged(5, "zz-newer")]
    await ledger.store.insert([*old, *kept])
    before = await ledger.store.summarize("", account_id=ROW.account_id, from_day="", to_day="")
    removed_before = metrics.LEDGER_ROWS_REMOVED._value.get()

    async with maintained(ledger.engine, ledger.url, retention_days=90):
        await ledger.wait_for_ids({row.request_id for row in kept})

    assert await ledger.store.summarize("", account_id=ROW.account_id, from_day="", to_day="") == before
    midnight = datetime.fromisoformat(aged(91).day).replace(tzinfo=UTC).timestamp()
    assert await ledger.store.last_uses(["key_old", "key_none"]) == [midnight, None]
    assert sum(one.charged_requests for one in before) == len(old) + len(kept)
    assert metrics.LEDGER_ROWS_REMOVED._value.get() == removed_before + len(old)


async def test_many_old_rows_are_removed_in_several_steps(ledger: Ledger) -> None:
    count = 1_200 if ledger.engine.dialect.name == "postgresql" else 60
    old, new = [aged(91 + number % 7) for number in range(count)], aged(0)
    await ledger.store.insert([*old, new])

    async with maintained(ledger.engine, ledger.url, retention_days=90):
        await ledger.wait_for_ids({new.request_id})

    summaries = await ledger.store.summarize(ROW.key_id, account_id="", from_day="", to_day="")
    assert sum(one.charged_requests for one in summaries) == len(old) + 1


async def test_checkpoints_are_made_in_the_background_and_not_by_commits(tmp_path: Path) -> None:
    """By default, the commit that fills the write-ahead log makes the checkpoint, and rows wait for it."""
    file = tmp_path / "ledger.db"
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            database.open_database(f"sqlite:///{file}", migrations=MIGRATIONS, version_table=VERSION_TABLE)
        )
        store = SQLLedgerStore(engine, stack.enter_context(database.open_writer(f"sqlite:///{file}")))
        for start in range(0, 4_000, 200):
            await store.insert(rows(200, start=start))
        assert _rows_without_log(file) == 0

        async with maintained(engine, f"sqlite:///{file}", retention_days=0), asyncio.timeout(WAIT_SECONDS_MAX):
            while _rows_without_log(file) < 4_000:
                await asyncio.sleep(0.05)


def _rows_without_log(file: Path) -> int:
    """Return the number of rows in a database file, without those that only its write-ahead log contains."""
    with closing(sqlite3.connect(f"file:{file}?immutable=1", uri=True)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM usage_ledger NOT INDEXED").fetchone()[0])
        except sqlite3.DatabaseError:  # A page is being written.
            return 0


@dataclass
class SteppingClock:
    """The machine's clock, which is ahead."""

    ahead_seconds: float = 0.0
    steady_seconds: float = 0.0

    def now(self) -> float:
        return time.time() + self.ahead_seconds + self.steady_seconds

    def monotonic(self) -> float:
        return time.monotonic() + self.steady_seconds


async def test_a_clock_that_is_a_year_ahead_removes_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.inference.ledger.maintenance._RETENTION_SECONDS", 0.05)
    kept = [aged(days) for days in (0, 30, 89)]
    await ledger.store.insert([*kept, aged(92)])
    clock = SteppingClock(ahead_seconds=365 * 86_400)

    async with maintained(ledger.engine, ledger.url, retention_days=90, clock=clock):
        await ledger.wait_for_ids({row.request_id for row in kept})
        await _wait_for_folds(ledger)
        clock.steady_seconds = 86_500
        clock.ahead_seconds *= 2  # Another step.
        await asyncio.sleep(0.5)
        assert await ledger.ids() == {row.request_id for row in kept}
        assert await ledger.count("SELECT count(*) FROM usage_hours") == 2
        clock.steady_seconds += 86_500
        await ledger.wait_for_ids(set())


async def test_an_idle_ledger_is_cleaned_after_a_day_of_a_steady_clock(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.inference.ledger.maintenance._RETENTION_SECONDS", 0.05)
    await ledger.store.insert([aged(91), aged(95)])
    clock = SteppingClock()

    async with maintained(ledger.engine, ledger.url, retention_days=90, clock=clock):
        await _wait_for_folds(ledger)
        assert len(await ledger.ids()) == 2
        clock.steady_seconds = 86_500
        await ledger.wait_for_ids(set())


async def test_no_row_is_removed_if_all_are_kept(ledger: Ledger) -> None:
    await ledger.store.insert([aged(4_000)])

    async with maintained(ledger.engine, ledger.url, retention_days=0):
        await _wait_for_folds(ledger)

    assert len(await ledger.ids()) == 1


async def test_sums_by_hour_are_kept_for_five_weeks(ledger: Ledger) -> None:
    await ledger.store.insert([aged(days) for days in (1, 30, 40, 50)])

    async with maintained(ledger.engine, ledger.url, retention_days=0):
        await _wait_for_folds(ledger)
    async with maintained(ledger.engine, ledger.url, retention_days=0), asyncio.timeout(WAIT_SECONDS_MAX):
        while await ledger.count("SELECT count(*) FROM usage_hours") != 2:
            await asyncio.sleep(0.05)

    assert await ledger.count("SELECT count(*) FROM usage_days") == 4


async def test_folding_continues_after_an_outage_of_the_database(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.inference.ledger.maintenance._RETRY_SECONDS", 0.1)
    await ledger.store.insert(rows(3))
    async with ledger.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE usage_users RENAME TO usage_users_away"))

    async with maintained(ledger.engine, ledger.url, retention_days=0), asyncio.timeout(WAIT_SECONDS_MAX):
        while "The ledger's database is unavailable" not in caplog.text:
            await asyncio.sleep(0.05)
        assert await ledger.count("SELECT count(*) FROM usage_deltas") == 3, "a fold adds all or nothing"
        assert await ledger.count("SELECT count(*) FROM usage_days") == 0
        async with ledger.engine.begin() as connection:
            await connection.execute(text("ALTER TABLE usage_users_away RENAME TO usage_users"))
        while await ledger.count("SELECT count(*) FROM usage_deltas"):
            await asyncio.sleep(0.05)

    assert await ledger.count("SELECT sum(requests) FROM usage_days") == 3


async def test_rows_and_changes_of_the_previous_version_are_in_the_sums(ledger: Ledger) -> None:
    """It knows neither the roll-ups nor the mark of rows that they contain."""
    new_columns = ("user_digest", "is_rolled_up")
    values = [{name: value for name, value in _values(row).items() if name not in new_columns} for row in rows(3)]
    async with ledger.engine.begin() as connection:
        await connection.execute(insert(usage_ledger), values)
        await connection.execute(text("UPDATE usage_ledger SET outcome = 'client_left' WHERE request_id = 'req_1'"))

    assert await ledger.count("SELECT count(*) FROM usage_ledger WHERE is_rolled_up") == 3
    (summary,) = await ledger.store.summarize(ROW.key_id, account_id="", from_day="", to_day="")
    assert (summary.charged_requests, summary.total_tokens) == (3, 90)
    async with maintained(ledger.engine, ledger.url, retention_days=0):
        await _wait_for_folds(ledger)
    outcomes = "SELECT requests FROM usage_days WHERE outcome = '{}'"
    assert await ledger.count(outcomes.format("client_left")) == 1
    assert await ledger.count(outcomes.format("answered")) == 2


async def test_a_restored_dump_of_an_older_version_is_migrated_again(ledger: Ledger) -> None:
    """The restore leaves the tables and functions that the dump does not have."""
    await ledger.store.insert(rows(3))
    async with ledger.engine.begin() as connection:
        kind = "ON usage_ledger" if ledger.engine.dialect.name == "postgresql" else ""
        for trigger in ("inserted", "updated") if kind else ("inserted", "marked", "updated"):
            await connection.execute(text(f"DROP TRIGGER usage_ledger_{trigger} {kind}"))
        for column in ("user_digest", "is_rolled_up"):
            await connection.execute(text(f"ALTER TABLE usage_ledger DROP COLUMN {column}"))
        await connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0008'"))

    await migrate_ledger(ledger.engine, "head")
    async with maintained(ledger.engine, ledger.url, retention_days=0):
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while not await ledger.count("SELECT count(*) FROM rollup_state WHERE is_complete"):
                await asyncio.sleep(0.05)

    assert await ledger.count("SELECT sum(requests) FROM usage_days") == 3


async def test_a_step_of_the_backfill_waits_for_a_change_of_a_row_that_it_adds(postgres_url: str) -> None:
    """Otherwise the step would add the old row, and the change, which found the row not yet added, nothing."""
    await database.migrate(postgres_url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
    async with database.open_database(postgres_url, migrations=MIGRATIONS, version_table=VERSION_TABLE) as engine:
        ledger = Ledger(postgres_url, engine, SQLLedgerStore(engine))
        rollups = RollUps(Transactions(engine, unavailable=unavailable), None)
        await ledger.store.insert([ROW])
        async with engine.begin() as connection:
            for statement in (
                "UPDATE usage_ledger SET is_rolled_up = NULL",
                "DELETE FROM usage_deltas",
                "UPDATE rollup_state SET is_complete = false",
            ):
                await connection.execute(text(statement))

        async with engine.connect() as change:
            await change.execute(text("UPDATE usage_ledger SET outcome = 'client_left'"))
            step = asyncio.create_task(rollups.backfill(10, first_hour=0))
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                while not await ledger.count(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                ):
                    await asyncio.sleep(0.02)
            await change.commit()
        assert await step, "it was the last one"
        while await rollups.fold(10):
            pass

        assert await ledger.count("SELECT sum(requests) FROM usage_days WHERE outcome = 'client_left'") == 1
        assert await ledger.count("SELECT sum(requests) FROM usage_days") == 1


async def _wait_for_folds(ledger: Ledger) -> None:
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while await ledger.count("SELECT count(*) FROM usage_deltas"):
            await asyncio.sleep(0.05)


async def test_users_beyond_the_maximum_of_a_day_are_summed_together(ledger: Ledger) -> None:
    """Clients choose the names: without a maximum, a client could add a sum for ever with each request."""
    with database.open_writer(ledger.url) as writer:
        rollups = RollUps(Transactions(ledger.engine, unavailable=unavailable), writer)

        async def request(first: int, last: int) -> None:
            await ledger.store.insert(
                [
                    replace(ROW, request_id=f"req_{ULID()}", user_digest=f"{number:032x}", usage=Usage(total_tokens=1))
                    for number in range(first, last)
                ]
            )
            while await rollups.fold(500):
                pass

        await request(0, USERS_OF_A_DAY_MAX)
        await request(USERS_OF_A_DAY_MAX, USERS_OF_A_DAY_MAX + 5)
        await request(0, 3)

    async with ledger.engine.connect() as connection:
        query = select(usage_users.c.user_digest, usage_users.c.requests)
        sums = dict((await connection.execute(query)).tuples().all())
    assert len(sums) == USERS_OF_A_DAY_MAX + 1
    assert sums[OTHER_USERS] == 5
    assert sums[f"{2:032x}"] == 2


async def test_models_beyond_the_maximum_of_a_key_and_day_are_summed_together(ledger: Ledger) -> None:
    """Requests for models that do not exist are not charged, so that nothing else limits their names."""
    with database.open_writer(ledger.url) as writer:
        rollups = RollUps(Transactions(ledger.engine, unavailable=unavailable), writer)

        async def request(first: int, last: int, **changes: object) -> list[LedgerRow]:
            made = [
                replace(ROW, request_id=f"req_{ULID()}", model=f"made up {number}", usage=Usage(total_tokens=1))
                for number in range(first, last)
            ]
            made = [replace(row, **changes) for row in made]  # type: ignore[arg-type]
            await ledger.store.insert(made)
            while await rollups.fold(500):
                pass
            return made

        await request(0, MODELS_OF_A_DAY_MAX)
        unknown = await request(MODELS_OF_A_DAY_MAX, MODELS_OF_A_DAY_MAX + 5, outcome=Outcome.UNKNOWN, charged=False)
        await request(0, 3)
        await request(MODELS_OF_A_DAY_MAX, MODELS_OF_A_DAY_MAX + 2, key_id="key_2")
        # Rows that become known leave the sum to which they were added.
        await ledger.store.insert([replace(row, outcome=Outcome.ANSWERED) for row in unknown])
        while await rollups.fold(500):
            pass

    row = usage_days.c
    query = select(row.key_id, row.model, func.sum(row.requests)).group_by(row.key_id, row.model)
    async with ledger.engine.connect() as connection:
        sums = {(key_id, model): int(requests) for key_id, model, requests in await connection.execute(query)}
        is_negative = await connection.scalar(select(func.count()).where(row.requests < 0))
    assert len(sums) == MODELS_OF_A_DAY_MAX + 1 + 2
    assert sums[ROW.key_id, OTHER_MODELS] == 5
    assert sums[ROW.key_id, "made up 2"] == 2
    assert sums["key_2", f"made up {MODELS_OF_A_DAY_MAX}"] == 1
    assert not is_negative
    summaries = await ledger.store.summarize(ROW.key_id, account_id="", from_day="", to_day="", outcome=Outcome.UNKNOWN)
    assert summaries == []


@pytest.mark.parametrize("days", ["-1", "1", "34"])
def test_rows_that_limits_of_a_month_need_cannot_be_removed(days: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_LEDGER_RETENTION_DAYS", days)
    with pytest.raises(ValidationError, match="ledger_retention_days"):
        InferenceSettings()


@pytest.mark.parametrize("days", ["0", "35", "90"])
def test_retention_of_a_month_or_longer_is_accepted(days: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_LEDGER_RETENTION_DAYS", days)
    assert InferenceSettings().ledger_retention_days == int(days)
