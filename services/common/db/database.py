"""SQL databases: SQLite on one machine, Postgres in a cluster, the same SQLAlchemy code over both."""

import asyncio
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from asyncpg import PostgresError
from pydantic import AfterValidator
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.common.db.sqlite_writer import SQLiteWriter, sqlite_writer
from services.common.db.transactions import DATABASE_ERRORS, wait_for_leavers
from services.common.errors import StartError
from services.common.runtime.file_lock import lock_file, try_lock
from services.common.runtime.private_files import open_private, restrict
from services.common.url_credentials import with_encoded_credentials

_log = logging.getLogger(__name__)
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg"}
_EXAMPLES = "sqlite:///path or postgresql://user:password@host:5432/name"
_MIGRATION_LOCK = 7_301_936_220
"""Postgres advisory lock that migrations hold, so that replicas starting together migrate once."""
_LEAVE_SECONDS = 3.0
"""Longer than a cancelled query takes to close its connection to a Postgres that is frozen."""


@asynccontextmanager
async def open_database(
    url: str, *, migrations: Path, version_table: str, reuse_port: bool = False, connections: int = 10
) -> AsyncIterator[AsyncEngine]:
    """Open a database whose schema is up to date, and close it at the end of the block.

    SQLite is migrated here, since one process owns it; a second process is refused. Postgres is waited for until the
    migration (`python -m services.<name> migrate`) is done, so that no replica serves with a schema too old for it.
    A later version's schema is left as it is, and serves: migrations expand first and contract a version later.

    Args:
        url: `sqlite:///path` or `postgresql://user:password@host/name`; a password may stand there as it is.
        migrations: Folder of the Alembic environment.
        version_table: Alembic's table, one for each service, so that services may share a database.
        reuse_port: Whether other processes that say the same may use the SQLite file too.
        connections: Most connections to Postgres at the same time.

    Raises:
        StartError: The URL cannot be used, or another process has the SQLite file.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        file = Path(parsed.database or "")
        lock = file.with_name(file.name + ".lock")
        remedy = "stop it, or use Postgres for several replicas"
        with try_lock(lock, thing=str(file), remedy=remedy, shared=reuse_port):
            _make_private(file)
            _use_wal(file)
            engine = _sqlite_engine(parsed)
            try:
                await _upgrade(engine, migrations, version_table)
                yield engine
            finally:
                await _close(engine)
        return
    engine = _postgres_engine(parsed, connections, behind_pooler=True)
    try:
        await _wait_for_schema(engine, migrations, version_table)
        if await _is_behind_pooler(engine):
            _log.info("the database is behind a pooler; statements are not prepared")
        else:
            await engine.dispose()
            engine = _postgres_engine(parsed, connections, behind_pooler=False)
        yield engine
    finally:
        await _close(engine)


@asynccontextmanager
async def open_beside(engine: AsyncEngine, *, connections: int) -> AsyncIterator[AsyncEngine]:
    """Open further connections to an open database for the block.

    They are a pool of their own: work that takes all of them never makes work on the first ones wait for a connection.
    """
    if engine.url.get_backend_name() == "sqlite":
        beside = _sqlite_engine(engine.url, connections)
    else:
        beside = _postgres_engine(engine.url, connections, behind_pooler=await _is_behind_pooler(engine))
    try:
        yield beside
    finally:
        await _close(beside)


@contextmanager
def open_writer(url: str) -> Iterator[SQLiteWriter | None]:
    """Give a thread that writes to an open SQLite database for the block; None for Postgres, which needs none."""
    parsed = _parse(url)
    if parsed.get_backend_name() != "sqlite":
        yield None
        return
    with sqlite_writer(partial(_connect, parsed.database or "")) as writer:
        yield writer


async def migrate(url: str, *, migrations: Path, version_table: str) -> None:
    """Bring a database's schema up to date; does nothing when it is, or when it is a later version's.

    Raises:
        StartError: The URL cannot be used, or another process has the SQLite file.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        async with open_database(url, migrations=migrations, version_table=version_table):
            return
    engine = _postgres_engine(parsed, 1, behind_pooler=True)
    try:
        await _upgrade(engine, migrations, version_table)
    except (PostgresError, OSError) as exc:
        raise StartError(f"the database cannot be reached: {exc}; check its URL and that it runs") from exc
    finally:
        await engine.dispose()


def is_sqlite(url: str) -> bool:
    """Whether a database URL means a file on this machine."""
    return _parse(url).get_backend_name() == "sqlite"


async def _close(engine: AsyncEngine) -> None:
    await wait_for_leavers(_LEAVE_SECONDS)
    await engine.dispose()


def _check_url(url: str) -> str:
    """Return a database URL that can be used; the message of a failure does not repeat it."""
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
    """Whether SQLite's part of a URL names a file, and neither a folder, memory nor a URI of SQLite's own."""
    return bool(Path(name).name) and not name.endswith("/") and not name.startswith((":", "file:"))


DatabaseURL = Annotated[str, AfterValidator(_check_url)]
"""A setting that is a database URL; empty is none."""


def _parse(url: str) -> URL:
    try:
        return _with_driver(make_url(with_encoded_credentials(_check_url(url))))
    except ValueError as exc:
        raise StartError(f"the database URL cannot be used: {exc}") from exc


def _with_driver(url: URL) -> URL:
    """Return the URL for our driver, which calls libpq's `sslmode` by another name; hosted Postgres' URLs bear it."""
    query = {"ssl" if name == "sslmode" else name: value for name, value in url.query.items()}
    return url.set(drivername=_DRIVERS[url.get_backend_name()], query=query)


def _make_private(file: Path) -> None:
    """Create the file for its owner alone, or restrict it; SQLite gives its mode to the files that it puts beside."""
    try:
        os.close(open_private(file, os.O_RDWR | os.O_CREAT))
    except OSError as exc:
        raise StartError(f"cannot use {file}: {exc.strerror}; choose another DATA_DIR") from exc
    for suffix in ("-wal", "-shm", "-journal"):
        restrict(file.with_name(file.name + suffix))


def _use_wal(file: Path) -> None:
    """Have readers go on while one writes; the file keeps this mode.

    SQLite waits for nobody when it changes the mode: of four siblings that began a new file together, one met "database
    is locked" in a tenth of the trials, whatever its `busy_timeout`.
    """
    try:
        with lock_file(file.with_name(file.name + ".mode.lock")), closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.Error as exc:
        raise StartError(f"cannot use {file}: {exc}; restore it from a backup, or choose another DATA_DIR") from exc


def _postgres_engine(url: URL, connections: int, *, behind_pooler: bool) -> AsyncEngine:
    """Return an engine; behind a pooler it prepares no statements, since each transaction may have another session."""
    options: dict[str, Any] = {}
    if behind_pooler:
        # An unnamed statement is sent again with its execution; a named one would stay in a session of somebody else's.
        no_name = {"prepared_statement_name_func": lambda: ""}
        options["connect_args"] = {"statement_cache_size": 0, "prepared_statement_cache_size": 0, **no_name}
    return create_async_engine(
        url, hide_parameters=True, pool_size=connections, max_overflow=0, pool_timeout=2, pool_pre_ping=True, **options
    )


async def _is_behind_pooler(engine: AsyncEngine) -> bool:
    """Whether a pooler such as PgBouncer answers in place of Postgres: it makes up the process id that clients get."""
    async with engine.connect() as connection:
        shown = (await connection.get_raw_connection()).driver_connection
        assert shown is not None
        return bool(shown.get_server_pid() != await connection.scalar(text("SELECT pg_backend_pid()")))


def _sqlite_engine(url: URL, connections: int = 5) -> AsyncEngine:
    engine = create_async_engine(url, hide_parameters=True, pool_size=connections)
    event.listen(engine.sync_engine, "connect", _set_pragmas)
    return engine


def _connect(file: str) -> sqlite3.Connection:
    # Used by the writer's thread, and closed by whoever ends it.
    connection = sqlite3.connect(file, check_same_thread=False)
    _set_pragmas(connection, None)
    return connection


def _set_pragmas(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    # FULL makes a commit survive a power cut.
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


async def _upgrade(engine: AsyncEngine, migrations: Path, version_table: str) -> None:
    config = _alembic(migrations, version_table)
    known = _known_revisions(ScriptDirectory.from_config(config))

    def upgrade(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        else:
            connection.execute(text("BEGIN IMMEDIATE"))  # Siblings that start together migrate one after the other.
        found = _current_revision(connection, version_table)
        if found not in known:
            # Who goes back a version meets the schema of the one that he left; Alembic would know nothing of it.
            _log.warning("the schema is a later version's", extra={"found": found})
            return
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    async with engine.begin() as connection:
        await connection.run_sync(upgrade)


async def _wait_for_schema(engine: AsyncEngine, migrations: Path, version_table: str) -> None:
    """Return once the schema has what this version needs.

    A revision that this version does not know is a later version's. Migrations expand first and contract a version
    later, so a later schema serves too: replicas of this version may start while the next one is rolled out.
    """
    scripts = ScriptDirectory.from_config(_alembic(migrations, version_table))
    head, known = scripts.get_current_head(), _known_revisions(scripts)
    told = False
    while (found := await _revision(engine, version_table)) != head and found in known:
        if not told:
            _log.warning("waiting for the migration", extra={"found": found, "wanted": head})
            told = True
        await asyncio.sleep(0.5)


async def _revision(engine: AsyncEngine, version_table: str) -> str | None:
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_current_revision, version_table)
    except DATABASE_ERRORS as exc:
        _log.warning("the database cannot be reached", extra={"error": str(exc)})
        return None


def _current_revision(connection: Connection, version_table: str) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": version_table}).get_current_revision()


def _known_revisions(scripts: ScriptDirectory) -> set[str | None]:
    """Return this version's revisions, and None for a database that is empty or not reached."""
    return {None, *(script.revision for script in scripts.walk_revisions())}


def _alembic(migrations: Path, version_table: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["version_table"] = version_table
    return config
