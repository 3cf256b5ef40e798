"""Statements that differ between SQLite and Postgres."""

from typing import Any

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


def insert_into(connection: AsyncConnection, table: Table) -> Any:
    """Return an insert that has `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return insert_of(connection)(table)


def insert_of(engine: AsyncEngine | AsyncConnection) -> Any:
    """Return the `insert` of a database, which has `on_conflict_do_nothing` and `on_conflict_do_update`."""
    if engine.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as postgres_insert

        return postgres_insert
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert
