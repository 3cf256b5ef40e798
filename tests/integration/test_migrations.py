"""Migrations go up, down and up again on both databases, and lose no row of the remaining tables."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, DateTime, MetaData, bindparam, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.rows import Filler
from services.auth import server as auth
from services.auth.db import tables as auth_tables
from services.common.db import database
from services.common.db import schema as schemas
from services.inference import server as inference
from services.inference.ledger import tables as inference_tables
from tests.backends import fresh_database


@dataclass(frozen=True)
class Schema:
    """A service's tables and the folder of its migrations."""

    migrations: Path
    version_table: str
    metadata: MetaData

    def config(self, connection: Connection) -> Config:
        """Return Alembic's configuration."""
        config = Config()
        config.set_main_option("script_location", str(self.migrations))
        config.set_main_option("path_separator", "os")
        config.attributes.update(connection=connection, version_table=self.version_table)
        return config

    def differences(self, connection: Connection) -> list[object]:
        """Return the differences between the database and what the code expects."""
        options = {"version_table": self.version_table, "compare_type": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), self.metadata))


AUTH = Schema(auth.MIGRATIONS, auth.VERSION_TABLE, auth_tables.metadata)
LEDGER = Schema(inference.MIGRATIONS, inference.VERSION_TABLE, inference_tables.usage_ledger.metadata)


@pytest.fixture(params=["sqlite", "postgres"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """Yield the URLs of two empty databases."""
    if request.param == "sqlite":
        yield [f"sqlite:///{tmp_path}/{name}.db" for name in ("auth", "ledger")]
        return
    server = request.getfixturevalue("postgres_server")
    with fresh_database(server) as first, fresh_database(server) as second:
        yield [first, second]


async def _rows(engine: AsyncEngine, schema: Schema, table: str, columns: list[str]) -> list[tuple[object, ...]]:
    found = schema.metadata.tables[table]
    async with engine.connect() as connection:
        rows = await connection.execute(select(*(found.c[name] for name in columns)).order_by(found.c[columns[0]]))
        return [tuple(row) for row in rows]


async def _move(engine: AsyncEngine, schema: Schema, target: str) -> None:
    def move(connection: Connection) -> None:
        config = schema.config(connection)
        command.downgrade(config, target) if target != "head" else command.upgrade(config, target)

    async with engine.begin() as connection:
        await connection.run_sync(move)


async def _differences(engine: AsyncEngine, schema: Schema) -> list[object]:
    async with engine.connect() as connection:
        return await connection.run_sync(schema.differences)


@pytest.mark.parametrize("tables", [AUTH, LEDGER])
def test_the_revisions_by_file_name_are_those_of_alembic(tables: Schema) -> None:
    """A start reads them without Alembic."""
    config = Config()
    config.set_main_option("script_location", str(tables.migrations))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    assert [script.revision for script in scripts.walk_revisions()] == schemas.revisions(tables.migrations)[::-1]


async def test_a_current_schema_is_not_migrated_and_one_of_a_later_version_is_left_alone(
    urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"migrations": AUTH.migrations, "version_table": AUTH.version_table}
    await database.migrate(urls[0], **options)  # type: ignore[arg-type]
    monkeypatch.setattr(command, "upgrade", None)
    await database.migrate(urls[0], **options)  # type: ignore[arg-type]
    async with database.open_database(urls[0], **options) as engine:  # type: ignore[arg-type]
        async with engine.begin() as connection:
            await connection.execute(text(f"UPDATE {AUTH.version_table} SET version_num = '9999'"))
        await schemas.upgrade(engine, AUTH.migrations, AUTH.version_table)
        async with engine.connect() as connection:
            assert await connection.run_sync(schemas.current_revision, AUTH.version_table) == "9999"


async def test_down_and_up_again_restores_the_schema_and_keeps_every_account_key_and_request(
    urls: list[str],
) -> None:
    for url, schema in zip(urls, (AUTH, LEDGER), strict=True):
        await database.migrate(url, migrations=schema.migrations, version_table=schema.version_table)
    options = [{"migrations": one.migrations, "version_table": one.version_table} for one in (AUTH, LEDGER)]
    async with (
        database.open_database(urls[0], **options[0]) as keys,  # type: ignore[arg-type]
        database.open_database(urls[1], **options[1]) as ledger,  # type: ignore[arg-type]
    ):
        await Filler(keys, ledger).fill(50, 500)
        kept = [
            (keys, AUTH, "accounts", ["id", "email", "plan", "created_at"]),
            (keys, AUTH, "api_keys", ["id", "account_id", "digest", "revision"]),
            (ledger, LEDGER, "usage_ledger", ["request_id", "key_id", "day", "total_tokens", "charged"]),
        ]
        before = [await _rows(*one) for one in kept]
        assert [len(rows) for rows in before[1:]] == [50, 500]

        for engine, schema in ((keys, AUTH), (ledger, LEDGER)):
            await _move(engine, schema, "0001")
            assert await _differences(engine, schema), "the downgrade did nothing"
            await _move(engine, schema, "head")
            assert await _differences(engine, schema) == []
        assert [await _rows(*one) for one in kept] == before

        for engine, schema in ((keys, AUTH), (ledger, LEDGER)):
            await _move(engine, schema, "base")
            await _move(engine, schema, "head")
            assert await _differences(engine, schema) == []


async def test_user_data_does_not_prevent_a_downgrade(urls: list[str]) -> None:
    await database.migrate(urls[0], migrations=AUTH.migrations, version_table=AUTH.version_table)
    async with database.open_database(urls[0], migrations=AUTH.migrations, version_table=AUTH.version_table) as engine:
        async with engine.begin() as connection:
            values = {"name": "team", "daily_limit": 5000, "active_keys_max": 50, "new_keys_per_day_max": 100}
            await connection.execute(insert(auth_tables.plans).values(values))
        await _move(engine, AUTH, "0001")
        await _move(engine, AUTH, "head")
        columns = ["name", "daily_limit", "active_keys_max"]
        rows = await _rows(engine, AUTH, "plans", columns)
    assert ("team", 5000, None) in rows


async def test_an_operators_plan_pro_stays_as_it_is(urls: list[str]) -> None:
    await database.migrate(urls[0], migrations=AUTH.migrations, version_table=AUTH.version_table)
    async with database.open_database(urls[0], migrations=AUTH.migrations, version_table=AUTH.version_table) as engine:
        plans = auth_tables.plans
        columns = ["name", "daily_limit", "account_daily_limit", "weight"]
        assert ("pro", 10_000, 50_000, 4) in await _rows(engine, AUTH, "plans", columns)
        await _move(engine, AUTH, "0004")
        async with engine.begin() as connection:
            own = update(plans).where(plans.c.name == "pro").values(daily_limit=7, account_daily_limit=None)
            await connection.execute(own)
        await _move(engine, AUTH, "head")
        assert ("pro", 7, None, None) in await _rows(engine, AUTH, "plans", columns)


async def test_addresses_of_existing_accounts_are_normalised_like_new_ones(urls: list[str]) -> None:
    """The new form for comparing addresses locks no user out."""
    await database.migrate(urls[0], migrations=AUTH.migrations, version_table=AUTH.version_table)
    async with database.open_database(urls[0], migrations=AUTH.migrations, version_table=AUTH.version_table) as engine:
        await _move(engine, AUTH, "0002")
        emails = [
            "ada+1@example.com",
            "жанна@пример.рф",
            "deleted:acc_3",
            "bob@bücher.example",
            "bob@xn--bcher-kva.example",
        ]
        now = datetime(2026, 8, 1, tzinfo=UTC)
        async with engine.begin() as connection:
            for number, email in enumerate(emails):
                await connection.execute(
                    text(
                        "INSERT INTO accounts (id, email, plan, created_at, deleted_at) "
                        "VALUES (:id, :email, 'free', :created_at, :deleted_at)"
                    ).bindparams(
                        bindparam("created_at", type_=DateTime(timezone=True)),
                        bindparam("deleted_at", type_=DateTime(timezone=True)),
                    ),
                    {
                        "id": f"acc_{number + 1}",
                        "email": email,
                        "created_at": now,
                        "deleted_at": now if email.startswith("deleted:") else None,
                    },
                )
        await _move(engine, AUTH, "head")
        rows = await _rows(engine, AUTH, "accounts", ["id", "email", "identity"])
    assert rows == [
        ("acc_1", "ada+1@example.com", "ada@example.com"),
        ("acc_2", "жанна@xn--e1afmkfd.xn--p1ai", "жанна@xn--e1afmkfd.xn--p1ai"),
        ("acc_3", "deleted:acc_3", None),
        ("acc_4", "bob@bücher.example", "bob@xn--bcher-kva.example"),
        ("acc_5", "bob@xn--bcher-kva.example", "bob@xn--bcher-kva.example"),
    ]


@pytest.mark.long
@pytest.mark.parametrize("schema", [AUTH, LEDGER], ids=["auth", "ledger"])
async def test_processes_that_start_together_on_a_new_sqlite_file_create_its_schema_once(
    tmp_path: Path, schema: Schema
) -> None:
    async def start(url: str) -> list[object]:
        async with (
            database.open_database(
                url, migrations=schema.migrations, version_table=schema.version_table, reuse_port=True
            ) as engine,
            engine.connect() as connection,
        ):
            return await connection.run_sync(schema.differences)

    for file in range(6):  # One file was too few to meet another process just when the file changes its mode.
        url = f"sqlite:///{tmp_path}/new{file}.db"
        assert await asyncio.gather(*(start(url) for _ in range(8))) == [[]] * 8
