"""`make bench-growth`: look-up times with a growing number of keys and ledger rows, on SQLite and Postgres.

Fills the product's tables and queries them through the product's stores. The data of one account does not grow, so an
indexed look-up takes as long among a million rows of other accounts as among ten thousand. (Smaller tables fit in a few
pages and do not test the index.) Rows are written like those of the version before the roll-ups, which the product's
backfill then adds to them. Each query is timed in turn on a database of ten thousand rows and on the one that grows, so
that a change of the machine's speed affects both. Exits with 1 if a look-up or a commit takes more than 1.5 times as
long at the last size as on the small database.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from bench.rows import Filler
from services.auth import server as auth
from services.auth.db.records import unavailable
from services.auth.keys.store import SQLKeyStore
from services.common.db import database
from services.common.db.transactions import Transactions
from services.common.limits import Unit
from services.inference import server as inference
from services.inference.ledger.maintenance import BACKFILL_ROWS
from services.inference.ledger.retention import first_hour
from services.inference.ledger.rollups import RollUps
from services.inference.ledger.store import SQLLedgerStore
from services.inference.ledger.writer import ChargedSum, RequestsPage
from tests.backends import fresh_database, running_postgres

_RATIO_MAX = 1.5
_ROUNDS = 5
"""The best of them counts, since other work on the machine affects some."""
_SHARED_BUFFERS = "1GB"
"""A quarter of a small database server's memory, as Postgres' documentation recommends."""
_ASKED = 100
_WARM_UP = 20
_BYTES_PER_ROW = 1_500
"""Measured upper bound of disk space per ledger row, with its share of keys and indices, on both databases together."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Duration of a query in milliseconds."""

    p50: float
    p99: float


Timings = dict[str, Timing]
"""Timings by query."""


def main() -> None:
    """Measure each database and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="ledger rows at the last size")
    parser.add_argument("--keys", type=int, default=1_000_000, help="keys at the last size")
    parser.add_argument("--only", choices=("SQLite", "Postgres"), help="measure only this database (default: both)")
    options = parser.parse_args()
    needed = options.rows * _BYTES_PER_ROW
    if shutil.disk_usage(tempfile.gettempdir()).free < needed:
        sys.exit(
            f"Not enough disk space in {tempfile.gettempdir()}: {options.rows:,} rows need {needed / 1e9:.0f} GB. "
            "Free some space or lower --rows."
        )
    sizes = _sizes(options.keys, options.rows)
    if len(sizes) == 1:
        sys.exit("There is nothing to compare: give more than 10,000 --rows or --keys.")
    slow = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="growth-")))
        server = stack.enter_context(running_postgres(shared_buffers=_SHARED_BUFFERS))
        for name, urls in (
            ("SQLite", tuple(f"sqlite:///{folder}/{number}.db" for number in range(4))),
            ("Postgres", tuple(stack.enter_context(fresh_database(server)) for _ in range(4))),
        ):
            if options.only in (None, name):
                slow += asyncio.run(_measure(name, urls, sizes))
    if slow:
        sys.exit("Look-ups became slower with size: " + ", ".join(slow))


async def _measure(name: str, urls: Sequence[str], sizes: Sequence[tuple[int, int]]) -> list[str]:
    """Measure one database at all sizes, print the table, and return the queries that became slower.

    `urls` are those of the keys and the ledger that grow, and of the small ones.
    """
    rows_max = BACKFILL_ROWS["sqlite" if name == "SQLite" else "postgresql"]
    async with _opened_stores(urls[:2], rows_max) as large, _opened_stores(urls[2:], rows_max) as small:
        await small.fill(*sizes[0])
        found = []
        for size in sizes[1:]:
            await large.fill(*size)
            found.append(await _compare(small, large))
            _say(f"{name}: {size[0]:,} keys, {size[1]:,} rows measured")
    return _report(name, sizes, [found[-1][0], *(timings for _, timings in found)])


class _Stores:
    """The stores of a database of keys and one of rows."""

    def __init__(self, filler: Filler, keys: SQLKeyStore, ledger: SQLLedgerStore, rollups: RollUps, rows_max: int):
        self._filler = filler
        self._rollups = rollups
        self._rows_max = rows_max
        self.questions = _questions(filler, keys, ledger)

    async def fill(self, keys: int, rows: int) -> None:
        """Add keys and rows up to these totals, and add the rows to the roll-ups."""
        started = time.perf_counter()
        await self._filler.fill_as_before(keys, rows)
        _say(f"{rows:,} rows filled: {time.perf_counter() - started:.1f} s")
        started = time.perf_counter()
        while not await self._rollups.backfill(self._rows_max, first_hour=first_hour(datetime.now(UTC))):
            pass
        _say(f"backfill without pauses: {time.perf_counter() - started:.1f} s")
        await self._filler.settle()

    async def fold(self) -> None:
        """Fold the deltas of measured commits."""
        while await self._rollups.fold(self._rows_max):
            pass


async def _compare(*stores: _Stores) -> list[Timings]:
    """Time each query on each of the databases in turn; return the timings by database."""
    found: list[Timings] = [{} for _ in stores]
    for question in stores[0].questions:
        rounds = [[await _time(one.questions[question]) for one in stores] for _ in range(_ROUNDS)]
        for timings, own in zip(found, zip(*rounds, strict=True), strict=True):
            timings[question] = min(own, key=lambda timing: timing.p50)
    for one in stores:
        await one.fold()
    return found


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def _questions(filler: Filler, keys: SQLKeyStore, ledger: SQLLedgerStore) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return the queries, each for a random account or key."""
    return {
        "key by digest": lambda: keys.find(filler.some_digest()),
        "unknown digest": lambda: keys.find("f" * 64),
        "keys of an account": lambda: keys.of_account(filler.some_owner()),
        "changes since the present": lambda: keys.changes_after(filler.revision),
        "charged today of an account": lambda: ledger.count_charged_of_accounts(
            [(filler.some_account(), filler.last_day)]
        ),
        "cost of a month of an account": lambda: ledger.sum_charged(
            [ChargedSum("", filler.some_account(), Unit.COST, filler.first_day, filler.last_day)]
        ),
        "charged today of a key": lambda: ledger.count_charged([(filler.some_key(), filler.last_day)]),
        "30 days of an account": lambda: ledger.summarize(
            "", account_id=filler.some_account(), from_day=filler.first_day, to_day=filler.last_day
        ),
        "latest requests of an account": lambda: ledger.list_requests(
            RequestsPage(account_id=filler.some_account(), rows_max=50)
        ),
        "last uses of five keys": lambda: ledger.last_uses(filler.some_keys(5)),
        "commit of eight rows": lambda: ledger.insert(filler.new_rows(8)),
    }


async def _time(ask: Callable[[], Awaitable[object]]) -> Timing:
    for _ in range(_WARM_UP):
        await ask()
    took = []
    for _ in range(_ASKED):
        started = time.perf_counter()
        await ask()
        took.append((time.perf_counter() - started) * 1000)
    took.sort()
    return Timing(took[len(took) // 2], took[int(len(took) * 0.99)])


def _report(name: str, sizes: Sequence[tuple[int, int]], found: Sequence[Timings]) -> list[str]:
    heads = [f"{keys:,} / {rows:,}" for keys, rows in sizes]
    print(f"\n{name}: milliseconds p50 (p99), by keys / ledger rows\n")
    print("| question | " + " | ".join(heads) + " | last ÷ first |")
    print("|---|" + "---:|" * (len(heads) + 1))
    slow = []
    for question in found[0]:
        timings = [timings[question] for timings in found]
        ratio = timings[-1].p50 / timings[0].p50
        cells = " | ".join(f"{timing.p50:.2f} ({timing.p99:.2f})" for timing in timings)
        print(f"| {question} | {cells} | {ratio:.2f} |")
        if ratio > _RATIO_MAX:
            slow.append(f"{question} on {name} ({ratio:.1f} times)")
    return slow


def _sizes(keys: int, rows: int) -> list[tuple[int, int]]:
    steps = [10_000, 100_000, 1_000_000, 10_000_000]
    sizes = [(min(step, keys), min(step, rows)) for step in steps if step < max(keys, rows)]
    return [*sizes, (keys, rows)]


@asynccontextmanager
async def _opened_stores(urls: Sequence[str], rows_max: int) -> AsyncIterator[_Stores]:
    async with (
        _opened(urls[0], migrations=auth.MIGRATIONS, version_table=auth.VERSION_TABLE) as keys_engine,
        _opened(urls[1], migrations=inference.MIGRATIONS, version_table=inference.VERSION_TABLE) as ledger_engine,
    ):
        with database.open_writer(urls[1]) as writer, database.open_writer(urls[1]) as second:
            filler = Filler(keys_engine, ledger_engine)
            keys = SQLKeyStore(Transactions(keys_engine, unavailable=unavailable))
            ledger = SQLLedgerStore(ledger_engine, writer)
            yield _Stores(
                filler, keys, ledger, RollUps(Transactions(ledger_engine, unavailable=unavailable), second), rows_max
            )


@asynccontextmanager
async def _opened(url: str, *, migrations: Path, version_table: str) -> AsyncIterator[AsyncEngine]:
    await database.migrate(url, migrations=migrations, version_table=version_table)
    async with database.open_database(url, migrations=migrations, version_table=version_table) as engine:
        yield engine


if __name__ == "__main__":
    main()
