"""The SQL ledger keeps the contract on both databases; so do its migrations and its rule of one process per file."""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, Select, inspect, update
from sqlalchemy.ext.asyncio import AsyncEngine

from services.common.db import database
from services.common.errors import InternalError, StartError, Unavailable
from services.common.limits import Scope, Slot, Unit
from services.common.surface import Surface
from services.inference.chat import Outcome, UsageSource
from services.inference.ledger import export_queries, queries, report_queries, rollup_queries
from services.inference.ledger import store as store_module
from services.inference.ledger.charge_queries import Charges, charged
from services.inference.ledger.reports import DAY, HOUR, Breakdown, ReportQuery
from services.inference.ledger.store import SQLLedgerStore
from services.inference.ledger.tables import metadata, usage_ledger
from services.inference.ledger.writer import RequestsPage
from tests.backends import fresh_database, run_apart
from tests.contracts.ledger_reports import START, ReportsContract
from tests.contracts.ledger_store import ROW, DayRowsContract, LedgerStoreContract

MIGRATIONS = Path(store_module.__file__).parent.parent / "migrations"
VERSION_TABLE = "inference_alembic_version"
ROOT = Path(__file__).parents[2]


class TestLedgerStoreOnSQLite(LedgerStoreContract, DayRowsContract, ReportsContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SQLLedgerStore]:
        url = f"sqlite:///{tmp_path}/ledger.db"
        async with _opened(url) as engine, _store(engine, url) as store:
            yield store


@pytest.fixture(scope="session")
def migrated_database(postgres_server: str) -> Iterator[str]:
    """Yield the URL of a database with the schema, as a template to copy."""
    with fresh_database(postgres_server) as url:
        run_apart(database.migrate(url, migrations=MIGRATIONS, version_table=VERSION_TABLE))
        yield url


class TestLedgerStoreOnPostgres(LedgerStoreContract, DayRowsContract, ReportsContract):
    @pytest.fixture
    async def store(self, postgres_server: str, migrated_database: str) -> AsyncIterator[SQLLedgerStore]:
        with fresh_database(postgres_server, like=migrated_database) as url:
            async with database.open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE) as engine:
                yield SQLLedgerStore(engine)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return str(request.getfixturevalue("postgres_url"))


async def test_a_row_of_a_later_version_makes_no_page_fail(url: str) -> None:
    """After a rollback, one such row would make every list and export with it fail."""
    async with _opened(url) as engine:
        store = SQLLedgerStore(engine)
        await store.insert([replace(ROW, slot=Slot(1, 2, Scope.KEY))])
        later = {"outcome": "later", "usage_source": "later", "slot_scope": "later", "surface": "later"}
        async with engine.begin() as connection:
            await connection.execute(update(usage_ledger).values(later))

        (row,) = await store.list_day_requests(ROW.day, after="", rows_max=10)

        usage = replace(ROW.usage, source=UsageSource.ESTIMATED)
        assert row == replace(ROW, outcome=Outcome.UNKNOWN, surface=None, slot=None, usage=usage)


async def test_the_migrations_create_the_tables_that_the_code_expects(url: str) -> None:
    def differs(context: object, inspected: object, column: Column[Any], *_: object) -> bool | None:
        # Only Postgres has a default for rows of the previous version; on SQLite, existing rows would get it too.
        return False if column.name == "is_rolled_up" else None

    def compare(connection: Connection) -> list[object]:
        options = {"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": differs}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    async with _opened(url) as engine, engine.connect() as connection:
        assert await connection.run_sync(compare) == []


async def test_migrations_go_down_and_up_again_and_keep_the_rows_while_their_table_exists(url: str) -> None:
    def indexes(connection: Connection) -> set[str | None]:
        return {index["name"] for index in inspect(connection).get_indexes("usage_ledger")}

    pages = {"ix_usage_ledger_account_request", "ix_usage_ledger_account_key_request"}
    async with _opened(url) as engine:
        await SQLLedgerStore(engine).insert([ROW])
        await _migrated(engine, command.downgrade, "0001")
        async with engine.connect() as connection:
            assert not pages & await connection.run_sync(indexes)
        await _migrated(engine, command.upgrade, "head")
        async with engine.connect() as connection:
            assert pages <= await connection.run_sync(indexes)
        assert await SQLLedgerStore(engine).find(ROW.request_id) == replace(ROW, surface=None, cost=None)
        await _migrated(engine, command.downgrade, "base")
        await _migrated(engine, command.upgrade, "head")
        assert await SQLLedgerStore(engine).find(ROW.request_id) is None


async def _migrated(engine: AsyncEngine, move: Callable[[Config, str], None], revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["version_table"] = VERSION_TABLE

    def run(connection: Connection) -> None:
        config.attributes["connection"] = connection
        move(config, revision)

    async with engine.begin() as connection:
        await connection.run_sync(run)


async def _plan(url: str, query: Select[Any]) -> str:
    """Return the query plan. With few rows Postgres would scan all, so scans are disabled."""
    async with _opened(url) as engine, engine.connect() as connection:
        text = str(query.compile(engine.sync_engine, compile_kwargs={"literal_binds": True}))
        explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
        if engine.dialect.name == "postgresql":
            for way in ("seqscan", "bitmapscan", "sort", "incremental_sort"):
                await connection.exec_driver_sql(f"SET enable_{way} = off")
        return "\n".join(str(row) for row in await connection.exec_driver_sql(explain + text))


_PAGE = RequestsPage(account_id="acc_1", rows_max=10, before="req_9")


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(queries.requests(_PAGE), id="an account's page"),
        pytest.param(queries.requests(replace(_PAGE, key_id="key_1")), id="a key's page"),
        pytest.param(queries.requests(replace(_PAGE, surface=Surface.MESSAGES)), id="a surface's page"),
        pytest.param(queries.last_uses(["key_1"]), id="a last use"),
        pytest.param(queries.requests(_PAGE, first_id="req_5"), id="a scanned page"),
        pytest.param(export_queries.scan_end(replace(_PAGE, key_id="key_1"), scan_max=9), id="the end of a scan"),
        pytest.param(export_queries.day_requests("2026-08-02", after="req_1", rows_max=10), id="a day's page"),
    ],
)
async def test_pages_and_last_uses_are_read_from_an_index_without_scan_or_sort(url: str, query: Select[Any]) -> None:
    plan = await _plan(url, query)
    assert "ix_usage_ledger" in plan or "sqlite_autoindex" in plan
    for slow in ("SCAN usage_ledger", "SCAN last_row", "TEMP B-TREE", "Seq Scan", "Sort"):
        assert slow not in plan, plan


@pytest.mark.parametrize("key_id", ["", "key_1"], ids=["an account", "a key"])
async def test_daily_sums_are_computed_from_an_index_alone(url: str, key_id: str) -> None:
    """With ten million rows, thirty days took 35 ms when each of 500 rows was fetched, and 1.1 ms from the index."""
    plan = await _plan(url, queries.summary(key_id, "acc_1", "2026-07-01", "2026-07-30"))
    assert re.search(r"(COVERING INDEX|Index Only Scan( Backward)? using) ix_usage_ledger_account_sums", plan), plan


@pytest.mark.parametrize("key_id", ["", "key_1"], ids=["an account", "a key"])
async def test_rolled_up_sums_are_read_by_an_index(url: str, key_id: str) -> None:
    owner = {"key_id": key_id} if key_id else {"account_id": "acc_1"}
    filters = owner | {"from_day": "2026-07-01", "to_day": "2026-07-30"}
    plan = await _plan(url, rollup_queries.summary(frozenset(filters)).params(filters))
    assert re.search(r"SEARCH usage_days USING|using (usage_days_pkey|ix_usage_days_key) on usage_days", plan), plan


_REPORT = ReportQuery(account_id="acc_1", start=START, end=START + 3_000, model="m", breakdown=Breakdown.MODEL)


@pytest.mark.parametrize(
    ("query", "index"),
    [
        pytest.param(report_queries.sums(replace(_REPORT, end=START + DAY)), "usage_days", id="days"),
        pytest.param(report_queries.sums(replace(_REPORT, end=START + HOUR)), "usage_hours", id="hours"),
        pytest.param(report_queries.sums(_REPORT), "usage_ledger_account_request", id="rows"),
        pytest.param(report_queries.latency(_REPORT, by_value=True), "usage_ledger_account_request", id="latency"),
        pytest.param(report_queries.has_more_rows(_REPORT, 9), "usage_ledger_account_request", id="more rows"),
        pytest.param(
            report_queries.latency(replace(_REPORT, key_id="key_1"), by_value=False),
            "usage_ledger_account_key_request",
            id="latency of a key",
        ),
    ],
)
async def test_reports_are_read_by_an_index(url: str, query: Select[Any], index: str) -> None:
    plan = await _plan(url, query)
    assert re.search(rf"(SEARCH|USING INDEX|using) .*{index}", plan), plan
    for slow in ("SCAN usage_ledger", "SCAN usage_days", "SCAN usage_hours", "Seq Scan on usage_ledger"):
        assert slow not in plan, plan


async def test_rolled_up_charges_under_another_account_are_read_by_an_index(url: str) -> None:
    charges = Charges(Unit.COST, "2026-07-01", "2026-07-30", account_ids=["acc_1"])
    query, parameters = charged(charges, from_rollups=True)
    plan = await _plan(url, query.params(parameters))
    assert "ix_usage_days_quota_account" in plan, plan


def test_charged_rows_after_a_time_are_searched_from_its_day_on() -> None:
    """SQLite would search from any of two lower bounds, such as the first day of the month."""
    charges = Charges(Unit.COST, "2026-07-01", "2026-07-30", account_ids=["acc_1"], reserved_before=START)
    query, parameters = charged(charges, from_rollups=True)
    later = [part for part in str(query).split("UNION ALL") if "reserved_at >=" in part]
    assert len(later) == 2
    assert all("day >= :reserved_day" in part and ":from_day" not in part for part in later)
    assert parameters["reserved_day"] >= "2026-07-01"


async def test_a_database_migrated_twice_keeps_its_rows(url: str) -> None:
    async with _opened(url) as engine:
        await SQLLedgerStore(engine).insert([ROW])

    async with _opened(url) as engine:
        assert await SQLLedgerStore(engine).find(ROW.request_id) == ROW


async def test_a_second_process_on_the_same_sqlite_file_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/inference.db"
    async with _opened(url):
        with pytest.raises(StartError, match=r"Another process is using .*/inference\.db;"):
            async with _opened(url):
                pass
        program = [sys.executable, "-m", "services.inference", "migrate"]
        environment = {"DATA_DIR": str(tmp_path), "PATH": ""}
        second = await asyncio.to_thread(
            subprocess.run, program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
        )
    assert second.returncode == 1
    assert second.stderr.startswith(f"inference: Another process is using {tmp_path}/inference.db")
    assert "Traceback" not in second.stderr
    async with _opened(url):
        pass


async def test_an_unreachable_database_is_unavailable(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    async with _opened(url) as engine, _store(engine, url) as store:
        async with engine.begin() as connection:
            for table in ("usage_ledger", "usage_days"):
                await connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO {table}_away")

        for attempt in (store.insert([ROW]), store.find("x"), store.count_charged([("k", "2026-08-02")])):
            with pytest.raises(Unavailable) as raised:
                await attempt
            assert raised.value.reason == "ledger_unavailable"
            assert "usage_ledger" not in raised.value.message


async def test_a_group_is_committed_completely_or_not_at_all(url: str) -> None:
    broken = replace(ROW, request_id="req_broken", account_id=None)  # type: ignore[arg-type]
    async with _opened(url) as engine, _store(engine, url) as store:
        with pytest.raises(InternalError):
            await store.insert([ROW, broken])

        assert await store.find(ROW.request_id) is None


@asynccontextmanager
async def _store(engine: AsyncEngine, url: str) -> AsyncIterator[SQLLedgerStore]:
    with database.open_writer(url) as writer:
        yield SQLLedgerStore(engine, writer)


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[AsyncEngine]:
    if not database.is_sqlite(url):
        await database.migrate(url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
    async with database.open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE) as engine:
        yield engine


async def test_a_migration_that_waits_for_a_backup_stops_no_request(
    postgres_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that waits for a long transaction stops all that come after it."""
    monkeypatch.setattr("services.common.db.schema._LOCK_RETRY_SECONDS", 0.5)
    async with _opened(postgres_url) as engine:
        await _migrated(engine, command.downgrade, "0007")
        async with engine.connect() as backup, engine.connect() as reader:
            await backup.exec_driver_sql("LOCK TABLE usage_ledger IN ACCESS SHARE MODE")
            migration = asyncio.create_task(
                database.migrate(postgres_url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
            )
            async with asyncio.timeout(20):
                while "The migration waits for a long transaction" not in caplog.text:
                    started = time.monotonic()
                    await reader.exec_driver_sql("SELECT request_id FROM usage_ledger")
                    await reader.rollback()
                    assert time.monotonic() - started < 2, "longer than the deadline of a read"
                    await asyncio.sleep(0.1)
            assert not migration.done()
        await migration
        store = SQLLedgerStore(engine)
        await store.insert([ROW])
        assert await store.find(ROW.request_id) == ROW
