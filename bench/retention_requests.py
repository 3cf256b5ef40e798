"""`python -m bench.retention_requests`: how long requests take while old rows are removed beside them.

Turns with and without retention alternate, each with a stack of one process that has been started for it. The run exits
with 1 if retention makes the 99th percentile of a request more than 10 % longer. Other work on the machine, or on its
host, makes the percentile of a turn up to ten times longer and never shorter. So the lower quartiles of the turns are
compared.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path
from statistics import median

from sqlalchemy import text

from bench import open_loop
from bench.contenders.stack import ALL_LIMITS, stack_alone
from bench.percentiles import percentile
from bench.progress import say
from bench.retention import ledger_row, opened
from bench.tables import number, table
from services.common.db import database
from services.inference.ledger.store import SQLLedgerStore
from tests.backends import fresh_database, running_postgres

_RATIO_MAX = 1.1
_FILL = 500
_WARM_UP_SECONDS = 2
_HEADS = ("database, retention", "requests", "p50 ms", "p99 ms", "p99 of turns: lowest, median, highest")


def main() -> None:
    """Measure both databases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="old rows")
    parser.add_argument("--turns", type=int, default=12, help="turns with retention, and as many without")
    parser.add_argument("--seconds", type=int, default=10, help="length of a turn")
    parser.add_argument("--rate", type=int, default=100, help="requests per second")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retention-")))
        server = stack.enter_context(running_postgres())
        urls = {"SQLite": f"sqlite:///{folder}/inference.db", "Postgres": stack.enter_context(fresh_database(server))}
        found = {name: _measure(name, url, options) for name, url in urls.items()}
    rows = [row for turns in found.values() for row in turns.rows()]
    print("\n".join(table(_HEADS, rows)))
    if slow := [f"{turns.name} {turns.ratio:.2f}" for turns in found.values() if turns.ratio > _RATIO_MAX]:
        sys.exit(f"Retention makes the p99 of a request longer, times: {', '.join(slow)}.")


class _Turns:
    """Durations of requests in milliseconds, of the turns without and with retention."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._took: dict[bool, list[tuple[float, ...]]] = {False: [], True: []}

    def add(self, took: tuple[float, ...], *, is_on: bool) -> None:
        """Add a turn."""
        self._took[is_on].append(took)

    @property
    def ratio(self) -> float:
        """Lower quartile of the p99 of turns with retention divided by that of turns without."""
        return percentile(self._p99s(is_on=True), 0.25) / percentile(self._p99s(is_on=False), 0.25)

    def rows(self) -> list[list[str]]:
        """Return the rows of the table."""
        return [self._row(is_on=is_on) for is_on in self._took]

    def _row(self, *, is_on: bool) -> list[str]:
        turns, p99s = self._took[is_on], self._p99s(is_on=is_on)
        p50 = median(percentile(turn, 0.5) for turn in turns)
        count = sum(map(len, turns))
        spread = ", ".join(map(number, (min(p99s), median(p99s), max(p99s))))
        p99 = number(percentile(p99s, 0.25))
        return [f"{self.name}, {'on' if is_on else 'off'}", f"{count:,}", number(p50), p99, spread]

    def _p99s(self, *, is_on: bool) -> list[float]:
        return [percentile(turn, 0.99) for turn in self._took[is_on]]


def _measure(name: str, url: str, options: argparse.Namespace) -> _Turns:
    asyncio.run(_fill(url, options.rows))
    turns = _Turns(name)
    for turn in range(2 * options.turns):
        is_on = bool(turn % 2)
        days = "90" if is_on else "0"
        running = stack_alone(limits=ALL_LIMITS, INFERENCE_DATABASE_URL=url, INFERENCE_LEDGER_RETENTION_DAYS=days)
        with running as (stack, _):
            open_loop.run(stack, rate=options.rate, requests=options.rate * _WARM_UP_SECONDS)
            took = open_loop.run(stack, rate=options.rate, requests=options.rate * options.seconds)
        turns.add(took.latencies_ms, is_on=is_on)
        say(f"{name}, {'with' if is_on else 'without'} retention: p99 {percentile(took.latencies_ms, 0.99):.2f} ms")
    left = asyncio.run(_old_rows(url))
    say(f"{name}: {options.rows - left:,} rows were removed" + ("" if left else ", all of them: give more --rows"))
    return turns


async def _fill(url: str, count: int) -> None:
    """Create a ledger with old rows."""
    async with opened(url) as engine:
        with database.open_writer(url) as writer:
            store = SQLLedgerStore(engine, writer)
            for _ in range(0, count, _FILL):
                await store.insert([ledger_row(timedelta(days=random.randint(100, 400))) for _ in range(_FILL)])


async def _old_rows(url: str) -> int:
    """Return the number of rows that retention may still remove."""
    first_day = (date.today() - timedelta(days=90)).isoformat()
    query = text("SELECT count(*) FROM usage_ledger WHERE day < :first_day")
    async with opened(url) as engine, engine.connect() as connection:
        return int(await connection.scalar(query, {"first_day": first_day}) or 0)


if __name__ == "__main__":
    main()
