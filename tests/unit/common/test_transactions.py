"""Deadlines of the store's methods hold even when what they call does not let go."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import text

import services.auth
from services.common.db import database
from services.common.db.transactions import Transactions, deadline
from services.common.errors import Unavailable


def _unavailable() -> Unavailable:
    return Unavailable("away")


class Stuck:
    """Work that does not end, and when it is cancelled takes its time to close."""

    def __init__(self) -> None:
        self.may_close = asyncio.Event()
        self.closed = asyncio.Event()

    @deadline(0.01, unavailable=_unavailable)
    async def read_briefly(self) -> None:
        await self._work()

    @deadline(60, unavailable=_unavailable)
    async def read_patiently(self) -> None:
        await self._work()

    async def _work(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await self.may_close.wait()
            self.closed.set()


async def test_a_caller_is_answered_at_the_deadline_though_the_connection_still_closes() -> None:
    stuck = Stuck()

    with pytest.raises(Unavailable):
        await stuck.read_briefly()

    assert not stuck.closed.is_set()
    stuck.may_close.set()
    await asyncio.wait_for(stuck.closed.wait(), 5)


async def test_a_caller_that_is_cancelled_cancels_the_work() -> None:
    stuck = Stuck()
    stuck.may_close.set()
    caller = asyncio.create_task(stuck.read_patiently())
    await asyncio.sleep(0)

    caller.cancel()

    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.wait_for(stuck.closed.wait(), 5)


@pytest.mark.parametrize("failure", [Unavailable("away"), KeyError("defect")])
async def test_what_the_work_raises_reaches_the_caller(failure: Exception) -> None:
    @deadline(60, unavailable=_unavailable)
    async def work() -> None:
        raise failure

    with pytest.raises(type(failure)) as raised:
        await work()
    assert raised.value is failure


async def test_a_database_closes_only_when_abandoned_queries_have_given_their_connections_back(tmp_path: Path) -> None:
    """SQLite's driver would wait for ever for a thread that has ended, and the process with it."""
    migrations = Path(services.auth.__file__).parent / "migrations"
    async with database.open_database(
        f"sqlite:///{tmp_path}/auth.db", migrations=migrations, version_table="version"
    ) as engine:
        transactions = Transactions(engine, unavailable=_unavailable)

        @deadline(0.05, unavailable=_unavailable)
        async def read() -> None:
            async with transactions.reading() as connection:
                await connection.execute(
                    text(
                        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
                        "LIMIT 3000000) SELECT max(i) FROM n"
                    )
                )

        with pytest.raises(Unavailable):
            await read()

    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_no_log_tells_what_a_failed_statement_was_to_write(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Among it are hashes of passwords and e-mail addresses."""
    caplog.set_level("DEBUG", logger="services")
    values = {"hash": "$argon2id$v=19$x"}
    migrations = Path(services.auth.__file__).parent / "migrations"
    async with database.open_database(
        f"sqlite:///{tmp_path}/auth.db", migrations=migrations, version_table="version"
    ) as engine:
        with pytest.raises(Unavailable):
            async with Transactions(engine, unavailable=_unavailable).writing() as connection:
                await connection.execute(text("INSERT INTO nowhere VALUES (:hash)"), values)

    assert "no such table: nowhere" in caplog.text
    assert "$argon2id" not in caplog.text


async def test_siblings_on_one_sqlite_file_write_from_what_they_read_one_after_the_other(tmp_path: Path) -> None:
    """Were the lock taken with the first change, what was read before it could be untrue by then."""
    migrations = Path(services.auth.__file__).parent / "migrations"
    url = f"sqlite:///{tmp_path}/auth.db"
    async with AsyncExitStack() as stack:
        siblings = [
            Transactions(
                await stack.enter_async_context(
                    database.open_database(url, migrations=migrations, version_table="version", reuse_port=True)
                ),
                unavailable=_unavailable,
            )
            for _ in range(2)
        ]
        async with siblings[0].writing() as connection:
            await connection.execute(text("CREATE TABLE counted AS SELECT 0 AS n"))
        async with asyncio.TaskGroup() as group:
            for sibling in siblings * 20:
                group.create_task(_count_one(sibling))
        async with siblings[0].reading() as connection:
            assert (await connection.execute(text("SELECT n FROM counted"))).scalar_one() == 40


async def _count_one(transactions: Transactions) -> None:
    async with transactions.writing() as connection:
        found = (await connection.execute(text("SELECT n FROM counted"))).scalar_one()
        await connection.execute(text("UPDATE counted SET n = :n"), {"n": found + 1})
