"""Removes old rows of the ledger, whose sums stay in the roll-ups, in small transactions."""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import text

from services.common.db.sqlite_writer import SQLiteWriter
from services.common.db.transactions import Transactions, deadline
from services.common.ids import Kind, first_id_prefix
from services.inference.ledger.rollups import unavailable

DAYS_MIN = 35
"""Quota corrects counters by rows of up to a month, and an idempotency key refers to one for thirty days."""
HOURLY_DAYS = 35
"""How long sums by hour are kept."""

_SECONDS_MAX = 20.0
_PAGE = (
    "SELECT max(request_id), count(*) FROM (SELECT request_id FROM usage_ledger"
    " WHERE request_id > :after{and_before} ORDER BY request_id LIMIT :rows_max) AS page"
)
_REMOVE = "DELETE FROM usage_ledger WHERE request_id > :after AND request_id <= :last AND day < :first_day"
_NEWEST_DAY = "SELECT max(day) FROM usage_ledger WHERE request_id >= ''"
"""The condition is that of an index."""
_HOUR_KEY = "account_id, hour, key_id, model, surface, outcome"
_REMOVE_HOURS = (
    f"DELETE FROM usage_hours WHERE ({_HOUR_KEY}) IN"
    f" (SELECT {_HOUR_KEY} FROM usage_hours WHERE hour < :hour ORDER BY hour LIMIT :rows_max)"
)


class Span(NamedTuple):
    """Request ids between two ids, neither of which is included."""

    after: str
    before: str | None
    """None for all ids after the first."""

    @property
    def page(self) -> str:
        """Query of the last request id and the number of the first rows."""
        return _PAGE.format(and_before="" if self.before is None else " AND request_id < :before")

    def values(self, rows_max: int) -> dict[str, Any]:
        """Return the parameters of `page`."""
        before = {} if self.before is None else {"before": self.before}
        return {"after": self.after, "rows_max": rows_max, **before}


class Page(NamedTuple):
    """The result of a step."""

    removed: int
    last: str | None
    """The last request id that was examined; None at the end of the span."""


def spans(now: datetime, days: int) -> Iterator[Span]:
    """Yield the spans of request ids in which old rows are: by their time, and ids that have none.

    The first 10 characters of an id after `req_` are its time. Ids of other forms, which internal callers may choose,
    are before or after those, except for ids that look like a recent time.
    """
    yield Span("", _request_id(now - timedelta(days=days - 1)))
    yield Span(_request_id(now + timedelta(days=1)), None)


def first_day(now: datetime, days: int) -> str:
    """Return the first day whose rows stay."""
    return (now.astimezone(UTC) - timedelta(days=days)).date().isoformat()


def first_hour(now: datetime) -> int:
    """Return the first hour since 1970 whose sums by hour stay."""
    return int((now - timedelta(days=HOURLY_DAYS)).timestamp() // 3600)


def _request_id(at: datetime) -> str:
    return first_id_prefix(Kind.REQUEST, at)


class Retention:
    """Removes rows step by step. The caller checks first that the roll-ups are complete."""

    def __init__(self, transactions: Transactions, writer: SQLiteWriter | None) -> None:
        """Create it; see `RollUps`."""
        self._transactions = transactions
        self._writer = writer

    @deadline(_SECONDS_MAX, unavailable=unavailable)
    async def remove(self, span: Span, *, first_day: str, rows_max: int) -> Page:
        """Examine the first `rows_max` rows of a span and remove those from before `first_day`."""
        if self._writer is not None:
            return await self._transactions.write(self._writer, lambda found: _remove(found, span, first_day, rows_max))
        async with self._transactions.writing() as connection:
            last, rows = (await connection.execute(text(span.page), span.values(rows_max))).one()
            if last is None:
                return Page(0, None)
            old = {"after": span.after, "last": last, "first_day": first_day}
            removed = (await connection.execute(text(_REMOVE), old)).rowcount
        return Page(removed, last if rows == rows_max else None)

    @deadline(_SECONDS_MAX, unavailable=unavailable)
    async def newest_day(self) -> str | None:
        """Return the last day with a row; None if there is no row."""
        async with self._transactions.reading() as connection:
            day: str | None = await connection.scalar(text(_NEWEST_DAY))
        return day

    @deadline(_SECONDS_MAX, unavailable=unavailable)
    async def remove_hours(self, now: datetime, *, rows_max: int) -> int:
        """Remove at most `rows_max` old sums by hour, and return their number."""
        values = {"hour": first_hour(now), "rows_max": rows_max}
        if self._writer is not None:
            return await self._transactions.write(
                self._writer, lambda connection: connection.execute(_REMOVE_HOURS, values).rowcount
            )
        async with self._transactions.writing() as connection:
            return (await connection.execute(text(_REMOVE_HOURS), values)).rowcount


def _remove(connection: sqlite3.Connection, span: Span, first_day: str, rows_max: int) -> Page:
    last, rows = connection.execute(span.page, span.values(rows_max)).fetchone()
    if last is None:
        return Page(0, None)
    removed = connection.execute(_REMOVE, {"after": span.after, "last": last, "first_day": first_day}).rowcount
    return Page(removed, last if rows == rows_max else None)
