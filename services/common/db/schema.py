"""Migration of a database's schema, and the wait for it.

A revision is the number at the start of its file's name. Alembic, which takes a tenth of a second to load, is only used
if there is something to migrate.
"""

import asyncio
import logging
from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.common.db.transactions import database_errors

_log = logging.getLogger(__name__)
_LOCK = 7_301_936_220
"""Postgres advisory lock held during migrations, so that replicas that start together migrate once."""
_LOCK_SECONDS_MAX = 1
"""How long a migration waits for a table's lock: less than the deadline of reads, since everything that uses the table
waits behind it. Without a maximum it would wait until a backup ends."""
_LOCK_RETRY_SECONDS = 5.0
_LOCK_NOT_AVAILABLE = "55P03"
_POLL_SECONDS = 0.5


async def upgrade(engine: AsyncEngine, migrations: Path, version_table: str) -> None:
    """Migrate to the latest revision. Does nothing if the schema has it, or one of a later version of the service.

    Args:
        engine: The database.
        migrations: Folder of the Alembic environment.
        version_table: Alembic's version table.
    """
    while True:
        try:
            async with engine.begin() as connection:
                await connection.run_sync(_upgrade, migrations, version_table)
            return
        except DBAPIError as exc:
            if getattr(exc.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            _log.warning("The migration waits for a long transaction, such as a backup. Retrying.")
        await asyncio.sleep(_LOCK_RETRY_SECONDS)


async def wait_for(engine: AsyncEngine, migrations: Path, version_table: str) -> None:
    """Return when the schema has everything that this version needs.

    An unknown revision is from a later version. Migrations expand the schema first and contract it one version later,
    so it is accepted: replicas of this version may start while the next version is rolled out. The arguments are those
    of `upgrade`.
    """
    *earlier, latest = revisions(migrations)
    is_logged = False
    while (revision := await _revision(engine, version_table)) is None or revision in earlier:
        if not is_logged:
            _log.warning("Waiting for the database migration", extra={"found": revision, "wanted": latest})
            is_logged = True
        await asyncio.sleep(_POLL_SECONDS)


def revisions(migrations: Path) -> list[str]:
    """Return the revisions of this version, in order."""
    return sorted(file.name.partition("_")[0] for file in (migrations / "versions").glob("[0-9]*_*.py"))


def current_revision(connection: Connection, version_table: str) -> str | None:
    """Return the revision of a database; None if it is empty."""
    if not inspect(connection).has_table(version_table):
        return None
    revision: str | None = connection.scalar(text(f"SELECT version_num FROM {version_table}"))
    return revision


def _upgrade(connection: Connection, migrations: Path, version_table: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS_MAX}s'"))
    else:
        connection.execute(text("BEGIN IMMEDIATE"))  # Processes that start together migrate in turn.
    revision, known = current_revision(connection, version_table), revisions(migrations)
    if revision == known[-1]:
        return
    if revision is not None and revision not in known:
        # After a downgrade of the service, Alembic does not know the schema's revision and would fail.
        _log.warning("The database schema is from a later version", extra={"found": revision})
        return
    _migrate(connection, migrations, version_table)


def _migrate(connection: Connection, migrations: Path, version_table: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["version_table"] = version_table
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def _revision(engine: AsyncEngine, version_table: str) -> str | None:
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(current_revision, version_table)
    except database_errors() as exc:
        _log.warning("Cannot connect to the database", extra={"error": str(exc)})
        return None
