"""Migrates a ledger to a revision."""

from collections.abc import Callable

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from services.inference.server import MIGRATIONS, VERSION_TABLE


async def migrate_ledger(
    engine: AsyncEngine, revision: str, move: Callable[[Config, str], None] = command.upgrade
) -> None:
    """Migrate the ledger of an engine up to a revision, or down to one."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["version_table"] = VERSION_TABLE

    def run(connection: Connection) -> None:
        config.attributes["connection"] = connection
        move(config, revision)

    async with engine.begin() as connection:
        await connection.run_sync(run)
