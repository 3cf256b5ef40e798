"""SQLite and Postgres databases: connections and migrations."""

import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator
from sqlalchemy import AdaptedConnection, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.common.db import schema
from services.common.db.pool_checks import check_connections
from services.common.db.sqlite_writer import SQLiteWriter, sqlite_writer
from services.common.db.transactions import wait_for_cancelled
from services.common.errors import StartError
from services.common.runtime.file_lock import lock_file, try_lock
from services.common.runtime.private_files import open_private, restrict
from services.common.url_credentials import with_encoded_credentials

_log = logging.getLogger(__name__)
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg"}
_EXAMPLES = "sqlite:///path or postgresql://user:password@host:5432/name"
_CHECKPOINT_PAGES = 8_000
"""32 MB."""
_DRAIN_SECONDS = 3.0
"""Longer than a cancelled query takes to close its connection to a frozen Postgres."""


@asynccontextmanager
async def open_database(
    url: str, *, migrations: Path, version_table: str, reuse_port: bool = False, connections: int = 10
) -> AsyncIterator[AsyncEngine]:
    """Open a database with an up-to-date schema, and close it at the end of the block.

    An SQLite database is migrated here and locked, since only one process may own it. For Postgres, wait until the
    migration (`python -m services.<name> migrate`) has run, so that no replica serves with an outdated schema. The
    schema of a later version is accepted unchanged: migrations expand it first and contract it one version later.

    Args:
        url: `sqlite:///path` or `postgresql://user:password@host/name`. The password need not be percent-encoded.
        migrations: Folder of the Alembic environment.
        version_table: Alembic's version table. Each service has one, so that services can share a database.
        reuse_port: Whether other processes that also set `reuse_port` may use the SQLite file.
        connections: Maximum connections to Postgres.

    Raises:
        StartError: The URL is invalid, or the SQLite file cannot be used or is locked by another process.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        file = Path(parsed.database or "")
        lock = file.with_name(file.name + ".lock")
        remedy = "stop it, or use Postgres to run several replicas"
        with try_lock(lock, thing=str(file), remedy=remedy, shared=reuse_port):
            _make_private(file)
            _use_wal(file)
            engine = _sqlite_engine(parsed)
            try:
                await schema.upgrade(engine, migrations, version_table)
                yield engine
            finally:
                await _close(engine)
        return
    engine = _postgres_engine(parsed, connections, behind_pooler=True)
    try:
        await schema.wait_for(engine, migrations, version_table)
        if await _is_behind_pooler(engine):
            _log.info("connected through a pooler; prepared statements are off")
        else:
            await engine.dispose()
            engine = _postgres_engine(parsed, connections, behind_pooler=False)
        yield engine
    finally:
        await _close(engine)


@asynccontextmanager
async def open_second_engine(engine: AsyncEngine, *, connections: int) -> AsyncIterator[AsyncEngine]:
    """Open a second connection pool to an open database, and close it at the end of the block.

    Work that exhausts this pool never delays work on the first one.
    """
    if engine.url.get_backend_name() == "sqlite":
        second = _sqlite_engine(engine.url, connections)
    else:
        second = _postgres_engine(engine.url, connections, behind_pooler=await _is_behind_pooler(engine))
    try:
        yield second
    finally:
        await _close(second)


@contextmanager
def open_writer(url: str, *, checkpoint_pages: int = _CHECKPOINT_PAGES) -> Iterator[SQLiteWriter | None]:
    """Yield a writer thread for an open SQLite database, or None for Postgres, which needs none.

    Args:
        url: URL of the database.
        checkpoint_pages: Pages in the write-ahead log from which on a commit of this writer makes a checkpoint, which
            takes as long as many commits. SQLite's default is 1,000, which a busy ledger writes within a second.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() != "sqlite":
        yield None
        return
    with sqlite_writer(partial(_connect, parsed.database or ""), checkpoint_pages=checkpoint_pages) as writer:
        yield writer


async def migrate(url: str, *, migrations: Path, version_table: str) -> None:
    """Migrate a database to the current schema. Does nothing if the schema is current or of a later version.

    Raises:
        StartError: The URL is invalid, Postgres cannot be reached, or another process has locked the SQLite file.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        async with open_database(url, migrations=migrations, version_table=version_table):
            return
    from asyncpg import PostgresError  # The engine loads it; processes without Postgres do not.

    engine = _postgres_engine(parsed, 1, behind_pooler=True)
    try:
        await schema.upgrade(engine, migrations, version_table)
    except (PostgresError, OSError) as exc:
        raise StartError(f"Cannot connect to the database: {exc}. Check its URL and that it is running.") from exc
    finally:
        await engine.dispose()


def is_sqlite(url: str) -> bool:
    """Return whether a database URL refers to an SQLite file."""
    return _parse(url).get_backend_name() == "sqlite"


async def _close(engine: AsyncEngine) -> None:
    await wait_for_cancelled(_DRAIN_SECONDS)
    await engine.dispose()


def _check_url(url: str) -> str:
    """Return a valid database URL. Error messages never contain the URL, which may include a password."""
    try:
        parsed = make_url(with_encoded_credentials(url)) if url else None
    except (ArgumentError, ValueError):
        raise ValueError(f"expected {_EXAMPLES}") from None
    if parsed is not None and parsed.drivername not in _DRIVERS:
        raise ValueError(f"expected {_EXAMPLES}; other databases are not supported")
    if parsed is not None and parsed.get_backend_name() == "sqlite" and not _is_file(parsed.database or ""):
        raise ValueError(f"expected {_EXAMPLES}; SQLite needs a file")
    return url


def _is_file(name: str) -> bool:
    """Return whether the path in an SQLite URL is a file: not a folder, `:memory:` or a `file:` URI."""
    return bool(Path(name).name) and not name.endswith("/") and not name.startswith((":", "file:"))


DatabaseURL = Annotated[str, AfterValidator(_check_url)]
"""A setting that is a database URL. Empty means not set."""


def _parse(url: str) -> URL:
    try:
        return _with_driver(make_url(with_encoded_credentials(_check_url(url))))
    except ValueError as exc:
        raise StartError(f"Invalid database URL: {exc}.") from exc


def _with_driver(url: URL) -> URL:
    """Return the URL for the async driver. libpq's `sslmode`, which hosted Postgres uses, is named `ssl` in asyncpg."""
    query = {"ssl" if name == "sslmode" else name: value for name, value in url.query.items()}
    return url.set(drivername=_DRIVERS[url.get_backend_name()], query=query)


def _make_private(file: Path) -> None:
    """Create the file with mode 0600, or restrict an existing one. SQLite gives its companion files the same mode."""
    try:
        os.close(open_private(file, os.O_RDWR | os.O_CREAT))
    except OSError as exc:
        raise StartError(f"Cannot use {file}: {exc.strerror}. Choose another DATA_DIR.") from exc
    for suffix in ("-wal", "-shm", "-journal"):
        restrict(file.with_name(file.name + suffix))


def _use_wal(file: Path) -> None:
    """Switch the file to WAL mode, which lets readers continue during a write. The file keeps this mode.

    Guarded by a file lock because SQLite ignores `busy_timeout` when it changes the mode: when four processes created a
    database together, one failed with "database is locked" in a tenth of the trials.
    """
    try:
        with lock_file(file.with_name(file.name + ".mode.lock")), closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.Error as exc:
        raise StartError(f"Cannot use {file}: {exc}. Restore it from a backup, or choose another DATA_DIR.") from exc


def _postgres_engine(url: URL, connections: int, *, behind_pooler: bool) -> AsyncEngine:
    """Return an engine. Behind a pooler it prepares no statements, since each transaction may use another session."""
    options: dict[str, Any] = {}
    if behind_pooler:
        # asyncpg sends an unnamed statement with each execution. A named one would stay in a session of another client.
        no_name = {"prepared_statement_name_func": lambda: ""}
        options["connect_args"] = {"statement_cache_size": 0, "prepared_statement_cache_size": 0, **no_name}
    engine = create_async_engine(
        url, hide_parameters=True, pool_size=connections, max_overflow=0, pool_timeout=2, **options
    )
    check_connections(engine)
    return engine


async def _is_behind_pooler(engine: AsyncEngine) -> bool:
    """Return whether the connection goes through a pooler such as PgBouncer, which reports a made-up process id."""
    async with engine.connect() as connection:
        driver_connection = (await connection.get_raw_connection()).driver_connection
        assert driver_connection is not None
        return bool(driver_connection.get_server_pid() != await connection.scalar(text("SELECT pg_backend_pid()")))


def _sqlite_engine(url: URL, connections: int = 5) -> AsyncEngine:
    engine = create_async_engine(url, hide_parameters=True, pool_size=connections)
    event.listen(engine.sync_engine, "connect", _set_pragmas)
    event.listen(engine.sync_engine, "invalidate", _interrupt)
    return engine


def _interrupt(connection: AdaptedConnection, *_: object) -> None:
    """End the query of a connection that is closed because its query was cancelled.

    Otherwise the query would run to its end. If the event loop stopped before that, SQLite's driver would wait for ever
    for its thread, which would have ended.
    """
    connection.run_async(lambda driver: driver.interrupt())


def _connect(file: str) -> sqlite3.Connection:
    # Used by the writer thread, and closed by the thread that ends it.
    connection = sqlite3.connect(file, check_same_thread=False)
    _set_pragmas(connection, None)
    return connection


def _set_pragmas(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    # With FULL, a commit survives a power failure.
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
