"""Folds deltas into the roll-ups, and adds the rows from before the roll-ups to them."""

import sqlite3
from typing import NamedTuple

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.sqlite_writer import SQLiteWriter
from services.common.db.transactions import Transactions, deadline
from services.common.errors import Unavailable
from services.inference.ledger.rollup_tables import MEASURES, usage_days, usage_hours, usage_users

_SECONDS_MAX = 20.0
_FOLD_LOCK = 7_301_936_222
"""Postgres advisory lock of the one transaction that changes roll-ups. Two would wait for each other's rows."""
_BACKFILL_LOCK = 7_301_936_221
"""Postgres advisory lock that a step holds against changes of the rows it reads (revision 0009)."""
USERS_OF_A_DAY_MAX = 1_000
"""Users of an account that have sums of their own in a day, besides those of one fold. All later ones are `other`,
since clients choose the names."""
OTHER_USERS = "other"
MODELS_OF_A_DAY_MAX = 1_000
"""Sums of an API key in a day from which on further models are `(other models)`, besides those of one fold. Clients
choose the names, also of models that do not exist, and sums by day stay for ever. Sums by hour do not."""
OTHER_MODELS = "(other models)"

_SUMS = ", ".join(f"CAST(sum({name}) AS BIGINT) AS {name}" for name in MEASURES)
_MEASURES = ", ".join(MEASURES)


def unavailable() -> Unavailable:
    """Return the error of a database that does not answer."""
    return Unavailable("The usage ledger is unavailable. Try again in a moment.", reason="ledger_unavailable")


def _add(table: Table, source: str) -> str:
    key = ", ".join(table.primary_key.columns.keys())
    sums = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in MEASURES)
    return (
        f"INSERT INTO {table.name} ({key}, {_MEASURES}) SELECT {key}, {_SUMS} FROM {source} GROUP BY {key}"
        f" ON CONFLICT ({key}) DO UPDATE SET {sums}"
    )


def _limited(table: Table, owner: tuple[str, ...], column: str, source: str, *, count_max: int, others: str) -> str:
    """Return a source of sums in which further values of a column are one, once their owner has many sums.

    Args:
        table: The roll-up to which the sums are added.
        owner: Columns of the owner of sums, the first ones of the roll-up's key.
        column: The next one, whose values clients choose.
        source: What is summed.
        count_max: Number of the owner's sums from which on further values are `others`.
        others: Replaces these values. While the owner has such a sum, its sums need not be counted.
    """
    others = f"'{others}'"
    known = f"FROM {table.name} AS known WHERE " + " AND ".join(f"known.{name} = sums.{name}" for name in owner)
    is_known, is_full = (f"EXISTS (SELECT 1 {known} AND known.{column} = {one})" for one in (f"sums.{column}", others))
    has_room = f"(SELECT count(*) {known}) < {count_max}"
    limited = f"CASE WHEN {is_known} OR (NOT {is_full} AND {has_room}) THEN {column} ELSE {others} END AS {column}"
    columns = ", ".join(limited if name == column else name for name in table.primary_key.columns.keys())  # noqa: SIM118 - no dict
    return f"(SELECT {columns}, {_MEASURES} FROM (SELECT * FROM {source}) AS sums) AS limited"


def _additions(source: str, *, hours: str = "") -> tuple[str, ...]:
    """Return the statements that add a source to the roll-ups; `hours` limits the sums by hour."""
    models = _limited(
        usage_days, ("account_id", "day", "key_id"), "model", source, count_max=MODELS_OF_A_DAY_MAX, others=OTHER_MODELS
    )
    users = _limited(
        *(usage_users, ("account_id", "day"), "user_digest", f"{source} WHERE user_digest <> ''"),
        count_max=USERS_OF_A_DAY_MAX,
        others=OTHER_USERS,
    )
    return _add(usage_days, models), _add(usage_hours, source + hours), _add(usage_users, users)


_LAST_DELTA = "SELECT max(id), count(*) FROM (SELECT id FROM usage_deltas ORDER BY id LIMIT :deltas_max) AS deltas"
_FOLD_ON_SQLITE = (
    *_additions("(SELECT * FROM usage_deltas WHERE id <= :last) AS taken"),
    "DELETE FROM usage_deltas WHERE id <= :last",
)
# One statement, hence one snapshot: a delta that is committed meanwhile is neither added nor deleted.
_FOLD_ON_POSTGRES = (
    "WITH taken AS (DELETE FROM usage_deltas WHERE id = ANY (ARRAY("
    "SELECT id FROM usage_deltas ORDER BY id LIMIT :deltas_max)) RETURNING *), "
    + ", ".join(f"added_{number} AS ({addition})" for number, addition in enumerate(_additions("taken")))
    + " SELECT count(*) FROM taken"
)

_STEP_ROWS = (
    "(SELECT account_id, key_id, coalesce(quota_account_id, '') AS quota_account_id, model,"
    " coalesce(surface, '') AS surface, outcome, day, coalesce(user_digest, '') AS user_digest, {hour} AS hour,"
    " 1 AS requests, CASE WHEN charged THEN 1 ELSE 0 END AS charged_requests,"
    " CASE WHEN cost IS NULL THEN 0 ELSE 1 END AS priced_requests,"
    " prompt_tokens, completion_tokens, total_tokens, cached_tokens, reasoning_tokens, coalesce(cost, 0) AS cost,"
    " CASE WHEN charged THEN coalesce(charged_tokens, total_tokens) ELSE 0 END AS charged_tokens,"
    " CASE WHEN charged THEN coalesce(charged_cost, cost, 0) ELSE 0 END AS charged_cost"
    " FROM usage_ledger WHERE request_id > :after AND request_id <= :last AND is_rolled_up IS NULL) AS step"
)
_POSITION = "SELECT is_complete, backfilled_to FROM rollup_state"
_STEP_END = (
    "SELECT max(request_id), count(*) FROM (SELECT request_id FROM usage_ledger WHERE request_id > :after"
    " ORDER BY request_id LIMIT :rows_max) AS step"
)
# A step that found fewer rows than it asked for was the last: rows that were added since have deltas.
_ADVANCE = (
    "UPDATE rollup_state SET backfilled_to = :last,"
    " backfilled_rows = backfilled_rows + :rows, is_complete = :is_complete"
)
_RECENT_HOURS = " WHERE hour >= :first_hour"
_ROWS_ON_SQLITE = _STEP_ROWS.format(hour="CAST(reserved_at / 3600 AS INTEGER)")
_ROWS_ON_POSTGRES = _STEP_ROWS.format(hour="CAST(floor(reserved_at / 3600) AS BIGINT)")
_STEP_ON_SQLITE = (*_additions(_ROWS_ON_SQLITE, hours=_RECENT_HOURS), _ADVANCE)
_STEP_ON_POSTGRES = (*_additions(_ROWS_ON_POSTGRES, hours=_RECENT_HOURS), _ADVANCE)


class Progress(NamedTuple):
    """How much of the rows from before the roll-ups the roll-ups contain."""

    is_complete: bool
    rows: int
    rows_max: int
    """An estimate."""

    @property
    def share(self) -> float:
        """An estimate of the share of these rows, from 0 to 1."""
        return 1.0 if self.is_complete else min(self.rows / max(self.rows_max, 1), 0.99)


class RollUps:
    """Changes the roll-ups, each time in one transaction. An interrupted one changes nothing."""

    def __init__(self, transactions: Transactions, writer: SQLiteWriter | None) -> None:
        """Create it.

        Args:
            transactions: Transactions on the ledger's database.
            writer: Its writer thread if it is SQLite; None for Postgres.
        """
        self._transactions = transactions
        self._writer = writer

    @deadline(_SECONDS_MAX, unavailable=unavailable)
    async def fold(self, deltas_max: int) -> int | None:
        """Add at most `deltas_max` deltas to the roll-ups, oldest first, and return their number.

        Returns None if another replica is changing the roll-ups.
        """
        if self._writer is not None:
            return await self._transactions.write(self._writer, lambda connection: _fold(connection, deltas_max))
        async with self._transactions.writing() as connection:
            if not await _has_lock(connection):
                return None
            return int(await connection.scalar(text(_FOLD_ON_POSTGRES), {"deltas_max": deltas_max}) or 0)

    @deadline(_SECONDS_MAX, unavailable=unavailable)
    async def backfill(self, rows_max: int, *, first_hour: int) -> bool:
        """Add the next rows from before the roll-ups, and return whether they were the last.

        Does nothing if another replica is changing the roll-ups.

        Args:
            rows_max: Maximum number of rows.
            first_hour: First hour since 1970 that gets sums by hour.
        """
        if self._writer is not None:
            return await self._transactions.write(
                self._writer, lambda connection: _step(connection, rows_max, first_hour)
            )
        async with self._transactions.writing() as connection:
            if not await _has_lock(connection):
                return False
            return await _step_on_postgres(connection, rows_max, first_hour)

    @deadline(_SECONDS_MAX, unavailable=unavailable)
    async def progress(self) -> Progress:
        """Return the progress of the backfill."""
        async with self._transactions.reading() as connection:
            query = "SELECT is_complete, backfilled_rows, rows_max FROM rollup_state"
            is_complete, rows, rows_max = (await connection.execute(text(query))).one()
        return Progress(bool(is_complete), rows, rows_max)


def _fold(connection: sqlite3.Connection, deltas_max: int) -> int:
    last, count = connection.execute(_LAST_DELTA, {"deltas_max": deltas_max}).fetchone()
    if count:
        for statement in _FOLD_ON_SQLITE:
            connection.execute(statement, {"last": last})
    return int(count)


def _step(connection: sqlite3.Connection, rows_max: int, first_hour: int) -> bool:
    is_complete, after = connection.execute(_POSITION).fetchone()
    if is_complete:
        return True
    last, rows = connection.execute(_STEP_END, {"after": after, "rows_max": rows_max}).fetchone()
    values = {
        "after": after,
        "last": last or after,
        "first_hour": first_hour,
        "rows": rows,
        "is_complete": rows < rows_max,
    }
    for statement in _STEP_ON_SQLITE:
        connection.execute(statement, values)
    return bool(rows < rows_max)


async def _has_lock(connection: AsyncConnection) -> bool:
    return bool(await connection.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _FOLD_LOCK}))


async def _step_on_postgres(connection: AsyncConnection, rows_max: int, first_hour: int) -> bool:
    is_complete, after = (await connection.execute(text(_POSITION))).one()
    if is_complete:
        return True
    await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _BACKFILL_LOCK})
    last, rows = (await connection.execute(text(_STEP_END), {"after": after, "rows_max": rows_max})).one()
    values = {
        "after": after,
        "last": last or after,
        "first_hour": first_hour,
        "rows": rows,
        "is_complete": rows < rows_max,
    }
    for statement in _STEP_ON_POSTGRES:
        await connection.execute(text(statement), values)
    return bool(rows < rows_max)
