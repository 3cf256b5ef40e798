"""SQL queries that list the rows of all accounts."""

from typing import Any

from sqlalchemy import Select, literal_column, select

from services.inference.ledger.tables import usage_ledger


def day_requests(day: str, *, after: str, rows_max: int) -> Select[Any]:
    """Select a page of a day's rows in the order of their request ids, with a range scan of one index."""
    table = usage_ledger.c
    # The first condition is that of the index.
    rows = (table.request_id >= literal_column("''")) & (table.day == day) & (table.request_id > after)
    query = select(usage_ledger).where(rows)
    return query.order_by(table.day, table.request_id).limit(rows_max)
