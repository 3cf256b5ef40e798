"""Reads and writes of a database, each with a deadline; a database that fails raises `Unavailable`."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from asyncpg import InterfaceError, PostgresError
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.common.concurrency.priority_lock import PriorityLock
from services.common.db.sqlite_writer import SQLiteWriter
from services.common.errors import InternalError, Unavailable

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Work = Callable[Parameters, Coroutine[Any, Any, Result]]

DATABASE_ERRORS = (SQLAlchemyError, PostgresError, InterfaceError, sqlite3.Error, OSError)
"""What a database raises. SQLAlchemy passes asyncpg's own errors on as they are when no connection can be made, and a
`SQLiteWriter` asks its driver directly."""

_POSTGRES_WRITERS = 0.6
"""Part of a pool's connections that writers use at the same time, so that reads go on while writes wait for locks. On
SQLite it is one: several would hold connections only to wait for its one lock, while reads find none left."""

_REFUSED_VALUES = (DataError, IntegrityError, sqlite3.DataError, sqlite3.IntegrityError, OverflowError)
_BINDING_ERRORS = (sqlite3.InterfaceError, sqlite3.ProgrammingError)
"""What SQLite's driver raises for a parameter of a type that it cannot store."""
_REFUSED_VALUE_STATES = ("22", "23")
"""Classes of SQLSTATE for data exceptions and constraint violations (SQL standard, PostgreSQL appendix A)."""

_log = logging.getLogger(__name__)
_leaving: set["asyncio.Task[Any]"] = set()


def deadline(
    seconds_max: float, *, unavailable: Callable[[], Unavailable]
) -> Callable[[Work[Parameters, Result]], Work[Parameters, Result]]:
    """Make a method of a store answer within `seconds_max`, or raise what `unavailable` returns.

    The work is a task of its own because a mere timeout does not keep its word: a cancelled query first closes its
    connection, and with a Postgres that is frozen that takes two seconds more (measured). The caller does not wait for
    that.
    """

    def decorate(work: Work[Parameters, Result]) -> Work[Parameters, Result]:
        @wraps(work)
        async def limited(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            task = asyncio.create_task(work(*args, **kwargs))
            try:
                await asyncio.wait({task}, timeout=seconds_max)
                if task.done():
                    return task.result()
                raise unavailable()
            finally:
                _leave(task)

        return limited

    return decorate


async def wait_for_leavers(seconds_max: float) -> None:
    """Return when the work that nobody waits for any more has given its connections back, or after `seconds_max`.

    A database that is closed before that leaves SQLite's driver waiting for ever for a thread that has ended.
    """
    if _leaving:
        await asyncio.wait(set(_leaving), timeout=seconds_max)


class Transactions:
    """Hands out connections of one database. Safe to use concurrently."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        unavailable: Callable[[], Unavailable],
        turns: PriorityLock | None = None,
        is_urgent: bool = True,
    ) -> None:
        """Use `engine`; what goes wrong in the database is raised as what `unavailable` returns.

        Args:
            engine: The database.
            unavailable: Makes the error.
            turns: Whose turn it is to write to an SQLite database that other `Transactions` write to with connections
                of their own, which share this lock; unused on Postgres.
            is_urgent: Whether its writes go before those of the others.
        """
        self._engine = engine
        self._unavailable = unavailable
        # A read is one statement, hence one snapshot; without a transaction around it Postgres is asked once and not
        # thrice. SQLite's driver begins none for reads anyway.
        is_postgres = engine.dialect.name == "postgresql"
        self._reader = engine.execution_options(isolation_level="AUTOCOMMIT") if is_postgres else engine
        self._is_sqlite = not is_postgres
        pool: Any = engine.sync_engine.pool
        self._writers = asyncio.Semaphore(max(1, int(pool.size() * _POSTGRES_WRITERS)) if is_postgres else 1)
        self._turns = turns or PriorityLock()
        self._is_urgent = is_urgent

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection for reads; each statement sees a moment of its own.

        Raises:
            Unavailable: The database cannot be read.
        """
        with self._failures():
            async with self._reader.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection in a transaction, committed at the end of the block and undone when it raises.

        Raises:
            Unavailable: The database cannot be written; after a broken commit it is unknown whether it was.
            InternalError: The database refused a value of the statement.
        """
        with self._failures():
            # The connection comes before the turn, which writers that have theirs need; the commit before its end.
            async with self._writers, self._engine.connect() as connection, self._turn(), connection.begin():
                if self._is_sqlite:
                    # Its driver would begin at the first change: what was read before could be untrue by then.
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection

    async def write(self, writer: SQLiteWriter, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Return what `work` returns, done in one transaction by the thread of an SQLite database.

        Raises:
            Unavailable: As `writing`.
        """
        with self._failures():
            async with self._writers, self._turn():
                return await writer.write(work)

    def _turn(self) -> AbstractAsyncContextManager[None]:
        return self._turns.hold(is_urgent=self._is_urgent) if self._is_sqlite else nullcontext()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (*DATABASE_ERRORS, OverflowError) as exc:
            _log.debug("the database failed", exc_info=exc)
            if _refuses_a_value(exc):
                raise InternalError("The database refused a value.") from exc
            raise self._unavailable() from exc


def _refuses_a_value(exc: Exception) -> bool:
    """Return whether the statement's values are at fault; trying again cannot help then."""
    cause = getattr(exc, "orig", None) or exc
    state = str(getattr(cause, "sqlstate", None) or "")
    return isinstance(exc, _REFUSED_VALUES) or isinstance(cause, _BINDING_ERRORS) or state[:2] in _REFUSED_VALUE_STATES


def _leave(task: "asyncio.Task[Any]") -> None:
    """Cancel what is still running and keep it until it has ended, for the loop itself does not."""
    if not task.done():
        task.cancel()
        _leaving.add(task)
        task.add_done_callback(_forget)


def _forget(task: "asyncio.Task[Any]") -> None:
    _leaving.discard(task)
    if not task.cancelled():
        task.exception()  # Nobody waits for it any more; unread, it would be logged as lost.
