"""`make bench-growth`: how long commits take while old rows are removed beside them, and while none are.

Turns with and without retention alternate, so that other work on the machine affects both. On SQLite the run exits with
1 if retention delays a commit by more than 5 ms at the 99th percentile.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine
from ulid import ULID

from services.common.db import database
from services.inference import metrics
from services.inference.chat import Outcome, Usage
from services.inference.ledger.maintenance import maintained
from services.inference.ledger.store import SQLLedgerStore
from services.inference.ledger.writer import LedgerRow
from services.inference.server import MIGRATIONS, VERSION_TABLE
from tests.backends import fresh_database, running_postgres

_ACCOUNTS = 1_000
_FILL = 500
_GROUP = 4
_DELAY_MS_MAX = 5.0
_NOW = datetime.now(UTC)


def main() -> None:
    """Measure both databases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="old rows")
    parser.add_argument("--turns", type=int, default=6, help="turns with retention, and as many without")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a turn")
    parser.add_argument("--rate", type=float, default=100.0, help=f"commits of {_GROUP} rows per second")
    options = parser.parse_args()
    print(
        "| database | retention | commits | p50 ms | p99 ms | rows removed per second |\n|---|---|---:|---:|---:|---:|"
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retention-")))
        server = stack.enter_context(running_postgres())
        delay = asyncio.run(_measure("SQLite", f"sqlite:///{folder}/inference.db", options))
        asyncio.run(_measure("Postgres", stack.enter_context(fresh_database(server)), options))
    if delay > _DELAY_MS_MAX:
        sys.exit(f"Retention delays a commit on SQLite by {delay:.1f} ms at the 99th percentile.")


async def _measure(name: str, url: str, options: argparse.Namespace) -> float:
    """Print the timings of a database, and return the delay at the 99th percentile in milliseconds."""
    async with opened(url) as engine:
        with database.open_writer(url) as writer:
            store = SQLLedgerStore(engine, writer)
            for _ in range(0, options.rows, _FILL):
                await store.insert([ledger_row(timedelta(days=random.randint(100, 400))) for _ in range(_FILL)])
            took: dict[bool, list[float]] = {False: [], True: []}
            removed = metrics.LEDGER_ROWS_REMOVED._value.get()
            for number in range(2 * options.turns):
                is_on = bool(number % 2)
                # Roll-ups are maintained in all turns.
                async with maintained(engine, url, retention_days=90 if is_on else 0):
                    took[is_on] += await _commit(store, options.seconds, options.rate)
            removed = metrics.LEDGER_ROWS_REMOVED._value.get() - removed
    for is_on, times in took.items():
        rate = removed / (options.turns * options.seconds) if is_on else 0
        cells = (name, "on" if is_on else "off", f"{len(times):,}", *(f"{_at(times, one):.2f}" for one in (0.5, 0.99)))
        print("| " + " | ".join([*cells, f"{rate:,.0f}"]) + " |")
    return _at(took[True], 0.99) - _at(took[False], 0.99)


async def _commit(store: SQLLedgerStore, seconds: float, rate: float) -> list[float]:
    """Commit groups of rows at a rate, and return how long each took in milliseconds."""
    took = []
    start = time.perf_counter()
    for number in range(int(seconds * rate)):
        await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
        rows = [ledger_row(timedelta()) for _ in range(_GROUP)]
        began = time.perf_counter()
        await store.insert(rows)
        took.append((time.perf_counter() - began) * 1000)
    return took


def _at(times: list[float], share: float) -> float:
    return sorted(times)[int(len(times) * share)]


def ledger_row(age: timedelta) -> LedgerRow:
    """Return the row of a request of this age."""
    at = _NOW - age
    account = random.randrange(_ACCOUNTS)
    return replace(
        _TEMPLATE,
        request_id=f"req_{ULID.from_datetime(at)}",
        account_id=f"acc_{account:026d}",
        key_id=f"key_{account:026d}",
        day=at.date().isoformat(),
        reserved_at=at.timestamp(),
    )


_TEMPLATE = LedgerRow(
    request_id="",
    account_id="",
    key_id="",
    day="",
    reserved_at=0.0,
    model="llama-3.1-8b-instant",
    upstream_model="openai/gpt-oss-20b",
    stream=False,
    outcome=Outcome.ANSWERED,
    charged=True,
    refund_reason="",
    usage=Usage(42, 128, 170),
    upstream_id="chatcmpl-1",
    attempts=1,
    time_to_first_token_ms=90,
    duration_ms=400,
    surface=None,
    cost=7,
)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[AsyncEngine]:
    """Open a migrated ledger for the block."""
    if not database.is_sqlite(url):
        await database.migrate(url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
    async with database.open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE) as engine:
        yield engine


if __name__ == "__main__":
    main()
