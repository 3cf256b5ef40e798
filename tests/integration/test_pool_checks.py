"""Pooled Postgres connections are checked before use, without a round trip for those used a moment ago."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.common.db import database, pool_checks
from services.common.db.transactions import Transactions
from services.common.errors import Unavailable
from services.inference.server import MIGRATIONS, VERSION_TABLE
from tests.backends import execute


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on a migrated database."""
    await database.migrate(postgres_url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
    async with database.open_database(postgres_url, migrations=MIGRATIONS, version_table=VERSION_TABLE) as engine:
        yield engine


def _transactions(engine: AsyncEngine) -> Transactions:
    return Transactions(engine, unavailable=lambda: Unavailable("away"))


async def _read_at_once(transactions: Transactions, count: int) -> set[int]:
    """Read through `count` connections at the same time, and return the ids of their sessions."""
    everyone_reads = asyncio.Barrier(count)

    async def read() -> int:
        async with transactions.reading() as connection:
            await everyone_reads.wait()
            return int(await connection.scalar(text("SELECT pg_backend_pid()")) or 0)

    return set(await asyncio.gather(*(read() for _ in range(count))))


async def test_connections_that_the_server_closed_are_replaced(
    engine: AsyncEngine, postgres_server: str, postgres_url: str
) -> None:
    """Such as after a restart of Postgres, a failover or a limit on the age of sessions."""
    transactions = _transactions(engine)
    before = await _read_at_once(transactions, 4)
    name = make_url(postgres_url).database

    execute(postgres_server, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    await asyncio.sleep(0.1)

    after = await _read_at_once(transactions, 4)
    assert len(before | after) == 8


async def test_only_a_connection_that_was_idle_is_asked(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    ping = Mock(side_effect=engine.dialect.do_ping)
    monkeypatch.setattr(engine.dialect, "do_ping", ping)
    transactions = _transactions(engine)
    sessions = await _read_at_once(transactions, 1)

    for _ in range(3):
        assert await _read_at_once(transactions, 1) == sessions
    ping.assert_not_called()

    monkeypatch.setattr(pool_checks, "IDLE_SECONDS_MAX", 0.0)
    assert await _read_at_once(transactions, 1) == sessions
    ping.assert_called_once()


async def test_a_connection_that_does_not_answer_is_replaced(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions = _transactions(engine)
    before = await _read_at_once(transactions, 2)

    dialect: Any = engine.dialect
    monkeypatch.setattr(dialect, "do_ping", Mock(side_effect=[dialect.loaded_dbapi.OperationalError("lost"), True]))
    monkeypatch.setattr(pool_checks, "IDLE_SECONDS_MAX", 0.0)

    assert not await _read_at_once(transactions, 1) & before
