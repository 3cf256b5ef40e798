"""The ledger's maintenance under faults: old rows, the migration that adds roll-ups, and what roll-ups must equal."""

import asyncio
import contextlib
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from alembic import command
from sqlalchemy.ext.asyncio import create_async_engine
from ulid import ULID

from services.inference.ledger.rollup_tables import MEASURES
from tests.integration.migrating import migrate_ledger

if TYPE_CHECKING:
    from tests.faults.world import World

OLD_KEY = "key_old"
_OLD_ROWS = 40
_OLD_AGE = timedelta(days=100)
_COMPLETE_SECONDS_MAX = 15.0

_KEY = "account_id, key_id, day, model, surface, outcome"
_ROLLED_UP = f"SELECT {_KEY}, {', '.join(MEASURES)} FROM"
_ROWS = (
    "SELECT account_id, key_id, day, model, coalesce(surface, ''), outcome,"
    " -1, CASE WHEN charged THEN -1 ELSE 0 END, CASE WHEN cost IS NULL THEN 0 ELSE -1 END,"
    " -prompt_tokens, -completion_tokens, -total_tokens, -cached_tokens, -reasoning_tokens, -coalesce(cost, 0),"
    " CASE WHEN charged THEN -coalesce(charged_tokens, total_tokens) ELSE 0 END,"
    " CASE WHEN charged THEN -coalesce(charged_cost, cost, 0) ELSE 0 END FROM usage_ledger"
)
_SUMS = ", ".join(f"sum({name}) AS {name}" for name in MEASURES)
_DIFFERENCES = (
    f"SELECT {_KEY}, {_SUMS} FROM ({_ROLLED_UP} usage_days UNION ALL {_ROLLED_UP} usage_deltas UNION ALL {_ROWS})"
    f" AS everything WHERE key_id <> '{OLD_KEY}' GROUP BY {_KEY}"
    f" HAVING {' OR '.join(f'sum({name}) <> 0' for name in MEASURES)}"
)
_OLD_SUM = (
    "SELECT coalesce(sum(requests), 0) FROM (SELECT key_id, requests FROM usage_days UNION ALL"
    f" SELECT key_id, requests FROM usage_deltas) AS rolled_up WHERE key_id = '{OLD_KEY}'"
)
_OLD_PRESENT = f"SELECT count(*) FROM usage_ledger WHERE key_id = '{OLD_KEY}'"


async def add_old_rows(world: "World") -> None:
    """Add rows that retention removes when inference starts, and once a minute."""
    at = datetime.now(UTC) - _OLD_AGE
    row = {
        "account_id": "acc_old",
        "key_id": OLD_KEY,
        "day": at.date().isoformat(),
        "reserved_at": at.timestamp(),
        "model": "a",
        "upstream_model": "a",
        "outcome": "answered",
        "refund_reason": "",
        "usage_source": "reported",
        **dict.fromkeys(("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens"), 1),
        "total_tokens": 2,
        "upstream_id": "",
        "attempts": 1,
        "time_to_first_token_ms": 1,
        "duration_ms": 1,
    }
    columns = ", ".join(["request_id", "stream", "charged", *row])
    fixed = ", ".join(repr(value) for value in row.values())
    values = ", ".join(f"('req_{ULID.from_datetime(at)}', false, true, {fixed})" for _ in range(_OLD_ROWS))
    await _execute(world, f"INSERT INTO usage_ledger ({columns}) VALUES {values}")
    world.old_rows += _OLD_ROWS


async def migrate_again(world: "World") -> None:
    """Undo the migration that added roll-ups and run it again, as if all rows were from before. Inference is down."""
    world.old_rows = int((await _query(world, _OLD_PRESENT))[0][0])
    url = world.postgres.url("ledger").replace("postgresql:", "postgresql+asyncpg:")
    engine = create_async_engine(url)
    await migrate_ledger(engine, "0008", command.downgrade)
    await migrate_ledger(engine, "head")
    await engine.dispose()


async def differences(world: "World") -> list[str]:
    """Return where roll-ups and rows differ, once the roll-ups are complete."""
    async with asyncio.timeout(_COMPLETE_SECONDS_MAX):
        while not (await _query(world, "SELECT is_complete FROM rollup_state"))[0][0]:
            await asyncio.sleep(0.1)
    found = [f"roll-ups differ from rows by {tuple(row)}" for row in await _query(world, _DIFFERENCES)]
    rolled_up = int((await _query(world, _OLD_SUM))[0][0])
    if rolled_up != world.old_rows:
        found.append(f"roll-ups have {rolled_up} old requests of {world.old_rows}, some of whose rows were removed")
    return found


async def _query(world: "World", query: str) -> list[Any]:
    if world.has_postgres:
        return await world.postgres.fetch("ledger", query)
    return await asyncio.to_thread(_on_sqlite, world, query)


async def _execute(world: "World", statement: str) -> None:
    await _query(world, statement)


def _on_sqlite(world: "World", statement: str) -> list[Any]:
    file = world.stack.settings.data_dir / "inference.db"
    with contextlib.closing(sqlite3.connect(file, timeout=10)) as database, database:
        return database.execute(statement).fetchall()
