"""`python -m bench.capacity`: what one replica of each service and one database carry.

Prints the CPU time per request of each process with a process for each service, at 32 connections,
and the rows per second that one inference commits to SQLite and to Postgres in groups.
"""

import asyncio
import tempfile
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from bench import closed_loop, measure
from bench.contenders.stack import stack_alone
from bench.retention import ledger_row, opened
from bench.tables import table
from services.common.db import database
from services.inference.ledger.maintenance import maintained
from services.inference.ledger.store import SQLLedgerStore
from tests.backends import fresh_database, running_postgres

_REQUESTS = 12_000
_CONNECTIONS = 32
_ROWS = 40_000
_GROUP = 200
"""The most rows that inference commits together."""


def main() -> None:
    """Measure and print two tables."""
    print("\n".join(table(["process", "CPU ms per request", "requests per second of one core"], _per_process())))
    print()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="capacity-"))
        server = stack.enter_context(running_postgres())
        urls = {
            "SQLite": f"sqlite:///{Path(folder)}/inference.db",
            "Postgres": stack.enter_context(fresh_database(server)),
        }
        rows = [[name, f"{asyncio.run(_rows_per_second(url)):,.0f}"] for name, url in urls.items()]
    print("\n".join(table(["ledger", "rows per second"], rows)))


def _per_process() -> list[list[str]]:
    with stack_alone(workers=0) as (stack, _):
        measure.warm_up(stack, requests=1_500)
        meter = measure.Meter(stack)
        answers = closed_loop.run(stack, requests=_REQUESTS, connections=_CONNECTIONS)
        found = meter.cpu_ms(answers=answers.count)
    return [[name, f"{ms:.3f}", f"{1_000 / ms:,.0f}"] for name, ms in found.items() if name and ms > 0.001]


async def _rows_per_second(url: str) -> float:
    async with opened(url) as engine, maintained(engine, url, retention_days=0):
        with database.open_writer(url) as writer:
            store = SQLLedgerStore(engine, writer)
            began = time.perf_counter()
            for _ in range(0, _ROWS, _GROUP):
                await store.insert([ledger_row(timedelta()) for _ in range(_GROUP)])
            return _ROWS / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
