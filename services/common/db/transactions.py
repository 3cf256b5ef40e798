"""Database transactions with deadlines."""

import asyncio
import logging
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.common.concurrency.priority_lock import PriorityLock
from services.common.db.sqlite_writer import SQLiteWriter
from services.common.errors import InternalError, Unavailable

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Work = Callable[Parameters, Coroutine[Any, Any, Result]]

_ERRORS = (SQLAlchemyError, sqlite3.Error, OSError)
"""Exceptions that databases raise. `SQLiteWriter` uses its driver directly."""

_POSTGRES_WRITERS = 0.6
"""Maximum fraction of a pool's connections used by writers, so that reads continue while writes wait for locks. SQLite
has one writer: more would only hold connections while they wait for its single lock, and leave none for reads."""

_REJECTED_VALUES = (DataError, IntegrityError, sqlite3.DataError, sqlite3.IntegrityError, OverflowError)
_BINDING_ERRORS = (sqlite3.InterfaceError, sqlite3.ProgrammingError)
"""Raised by SQLite's driver for parameters of types that it cannot store."""
_REJECTED_VALUE_STATES = ("22", "23")
"""SQLSTATE classes of data exceptions and constraint violations (SQL standard; PostgreSQL, appendix A)."""

_log = logging.getLogger(__name__)
_cancelled: set["asyncio.Task[Any]"] = set()
"""Tasks that are cancelled and still running. The event loop keeps only weak references to tasks."""


def deadline(
    seconds_max: float, *, unavailable: Callable[[], Unavailable]
) -> Callable[[Work[Parameters, Result]], Work[Parameters, Result]]:
    """Decorate a method so that it returns within `seconds_max`, or raises the exception that `unavailable` returns.

    The method runs in a separate task, since `asyncio.timeout` can overrun: a cancelled query first closes its
    connection, which takes two more seconds if Postgres is frozen (measured). The caller does not wait for that.
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
                _cancel(task)

        return limited

    return decorate


def database_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that databases raise in this process, for `except`."""
    # SQLAlchemy loads it with the first Postgres engine, and does not wrap its errors when it cannot connect.
    asyncpg = sys.modules.get("asyncpg")
    return (*_ERRORS, asyncpg.PostgresError, asyncpg.InterfaceError) if asyncpg else _ERRORS


async def wait_for_cancelled(seconds_max: float) -> None:
    """Wait until cancelled work has returned its connections, for at most `seconds_max`.

    If the database is closed earlier, SQLite's driver waits forever for a thread that has ended.
    """
    if _cancelled:
        await asyncio.wait(set(_cancelled), timeout=seconds_max)


class Transactions:
    """Provides connections to one database for reads and writes. Safe for concurrent use."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        unavailable: Callable[[], Unavailable],
        turns: PriorityLock | None = None,
        is_urgent: bool = True,
    ) -> None:
        """Create transactions on `engine`.

        Args:
            engine: The database.
            unavailable: Returns the exception to raise when the database fails.
            turns: Write lock of an SQLite database, shared by all `Transactions` that write to it through different
                engines. Not used on Postgres.
            is_urgent: Whether these writes go before those of other `Transactions` that share the lock.
        """
        self._engine = engine
        self._unavailable = unavailable
        # A read is a single statement, hence a single snapshot. Without a transaction it takes one round trip to
        # Postgres instead of three. SQLite's driver never begins a transaction for a read.
        is_postgres = engine.dialect.name == "postgresql"
        self._reader = engine.execution_options(isolation_level="AUTOCOMMIT") if is_postgres else engine
        self._is_sqlite = not is_postgres
        pool: Any = engine.sync_engine.pool
        self._writers = asyncio.Semaphore(max(1, int(pool.size() * _POSTGRES_WRITERS)) if is_postgres else 1)
        self._turns = turns or PriorityLock()
        self._is_urgent = is_urgent

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection for reads. Each statement has its own snapshot.

        Raises:
            Unavailable: The database cannot be read.
            InternalError: The database rejected a value of the statement.
        """
        with self._failures():
            async with self._reader.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction, which is committed at the end of the block or rolled back if it raises.

        Raises:
            Unavailable: The database cannot be written. If the commit failed, it may have taken effect.
            InternalError: The database rejected a value of the statement.
        """
        with self._failures():
            # The order matters: a writer that holds the lock never waits for a connection, and commits before it
            # releases the lock.
            async with self._writers, self._engine.connect() as connection, self._turn(), connection.begin():
                if self._is_sqlite:
                    # SQLite's driver begins at the first change, when earlier reads may already be outdated.
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection

    async def write(self, writer: SQLiteWriter, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run `work` in a transaction in the writer thread of an SQLite database, and return its result.

        Raises:
            Unavailable: The database cannot be written. If the commit failed, it may have taken effect.
            InternalError: The database rejected a value of the statement.
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
        except _statement_errors() as exc:
            _log.debug("database error", exc_info=exc)
            if _is_rejected_value(exc):
                raise InternalError("The database rejected a value.") from exc
            raise self._unavailable() from exc


def _statement_errors() -> tuple[type[Exception], ...]:
    return (*database_errors(), OverflowError)


def _is_rejected_value(exc: Exception) -> bool:
    """Return whether a value in the statement caused the error, so that a retry cannot succeed."""
    cause = getattr(exc, "orig", None) or exc
    state = str(getattr(cause, "sqlstate", None) or "")
    return (
        isinstance(exc, _REJECTED_VALUES) or isinstance(cause, _BINDING_ERRORS) or state[:2] in _REJECTED_VALUE_STATES
    )


def _cancel(task: "asyncio.Task[Any]") -> None:
    """Cancel a task that is still running, and keep a reference to it until it ends."""
    if not task.done():
        task.cancel()
        _cancelled.add(task)
        task.add_done_callback(_forget)


def _forget(task: "asyncio.Task[Any]") -> None:
    _cancelled.discard(task)
    if not task.cancelled():
        task.exception()  # Retrieved so that asyncio does not log it as never retrieved.
