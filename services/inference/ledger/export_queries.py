"""SQL queries that list many rows, each in a bounded time."""

from dataclasses import replace
from typing import Any

from sqlalchemy import Select, literal_column, select

from services.inference.ledger import queries
from services.inference.ledger.tables import usage_ledger
from services.inference.ledger.writer import RequestsPage


def scan_end(page: RequestsPage, *, scan_max: int) -> Select[Any]:
    """Select the id of the last of the `scan_max` rows that are read for a page; none if there are fewer."""
    everything = replace(
        page, outcome=None, surface=None, model="", from_day="", to_day="", ended_from=None, rows_max=1
    )
    return queries.requests(everything).offset(scan_max - 1).with_only_columns(usage_ledger.c.request_id)


def day_requests(day: str, *, after: str, rows_max: int) -> Select[Any]:
    """Select a page of a day's rows in the order of their request ids, with a range scan of one index."""
    table = usage_ledger.c
    # The first condition is that of the index.
    rows = (table.request_id >= literal_column("''")) & (table.day == day) & (table.request_id > after)
    query = select(usage_ledger).where(rows)
    return query.order_by(table.day, table.request_id).limit(rows_max)
