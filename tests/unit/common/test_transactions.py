"""Deadlines of the store's methods hold even when the operation they call does not return."""

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
    """Work that does not end, and takes time to close when cancelled."""

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


async def test_a_caller_is_answered_at_the_deadline_while_the_connection_still_closes() -> None:
    stuck = Stuck()

    with pytest.raises(Unavailable):
        await stuck.read_briefly()

    assert not stuck.closed.is_set()
    stuck.may_close.set()
    await asyncio.wait_for(stuck.closed.wait(), 5)


async def test_cancelling_the_caller_cancels_the_work() -> None:
    stuck = Stuck()
    stuck.may_close.set()
    caller = asyncio.create_task(stuck.read_patiently())
    await asyncio.sleep(0)

    caller.cancel()

    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.wait_for(stuck.closed.wait(), 5)


@pytest.mark.parametrize("failure", [Unavailable("away"), KeyError("defect")])
async def test_exceptions_of_the_work_reach_the_caller(failure: Exception) -> None:
    @deadline(60, unavailable=_unavailable)
    async def work() -> None:
        raise failure

    with pytest.raises(type(failure)) as raised:
        await work()
    assert raised.value is failure


async def test_a_database_closes_only_after_abandoned_queries_have_returned_their_connections(tmp_path: Path) -> None:
    """SQLite's driver would wait for ever for a thread that has ended, and block the process's exit.

    The query would take minutes, but is interrupted.
    """
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
                        "LIMIT 3000000000) SELECT max(i) FROM n"
                    )
                )

        with pytest.raises(Unavailable):
            await read()

    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_no_log_contains_the_parameters_of_a_failed_statement(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They include password hashes and e-mail addresses."""
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


async def test_processes_sharing_one_sqlite_file_serialise_read_then_write(tmp_path: Path) -> None:
    """If the lock were taken with the first change, earlier reads could be stale by then."""
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
