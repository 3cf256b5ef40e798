"""The SQL stores keep the contract on both databases."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from services.auth.records import SQLAuditLog, unavailable
from services.auth.server import MIGRATIONS, VERSION_TABLE
from services.auth.store import SQLKeyStore
from services.auth.store_accounts import SQLAccountStore
from services.auth.store_plans import SQLPlanStore
from services.auth.store_sessions import SQLSessionStore, SQLThrottleStore
from services.auth.store_tokens import SQLOneTimeTokenStore
from services.auth.tables import metadata
from services.common import database
from services.common.transactions import Transactions
from tests.contracts.key_store import KeyStoreContract, Stores
from tests.contracts.people_store import HandClock, PeopleStoreContract, World


class TestStoresOnSQLite(KeyStoreContract):
    @pytest.fixture
    async def stores(self, tmp_path: Path) -> AsyncIterator[Stores]:
        async with _stores(f"sqlite:///{tmp_path}/auth.db") as stores:
            yield stores


class TestStoresOnPostgres(KeyStoreContract):
    @pytest.fixture
    async def stores(self, postgres_url: str) -> AsyncIterator[Stores]:
        async with _stores(postgres_url) as stores:
            yield stores


class TestPeopleOnSQLite(PeopleStoreContract):
    @pytest.fixture
    async def world(self, tmp_path: Path) -> AsyncIterator[World]:
        async with _world(f"sqlite:///{tmp_path}/auth.db") as world:
            yield world


class TestPeopleOnPostgres(PeopleStoreContract):
    @pytest.fixture
    async def world(self, postgres_url: str) -> AsyncIterator[World]:
        async with _world(postgres_url) as world:
            yield world


async def test_the_migrations_make_the_tables_that_the_code_expects_on_sqlite(tmp_path: Path) -> None:
    assert await _differences(f"sqlite:///{tmp_path}/auth.db") == []


async def test_the_migrations_make_the_tables_that_the_code_expects_on_postgres(postgres_url: str) -> None:
    assert await _differences(postgres_url) == []


@asynccontextmanager
async def _stores(url: str) -> AsyncIterator[Stores]:
    await database.migrate(url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
    async with database.open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE) as engine:
        transactions = Transactions(engine, unavailable=unavailable)
        keys = SQLKeyStore(transactions)
        yield Stores(SQLAccountStore(transactions), keys, keys)


@asynccontextmanager
async def _world(url: str) -> AsyncIterator[World]:
    await database.migrate(url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
    async with database.open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE) as engine:
        transactions = Transactions(engine, unavailable=unavailable)
        yield World(
            SQLAccountStore(transactions),
            SQLKeyStore(transactions),
            SQLSessionStore(transactions),
            SQLOneTimeTokenStore(transactions),
            (SQLThrottleStore(engine, transactions), SQLThrottleStore(engine, transactions)),
            SQLPlanStore(transactions),
            SQLAuditLog(transactions),
            HandClock(),
        )


async def _differences(url: str) -> list[object]:
    def compare(connection: Connection) -> list[object]:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    await database.migrate(url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
    async with (
        database.open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE) as engine,
        engine.connect() as connection,
    ):
        return await connection.run_sync(compare)
