"""SQL queries of the ledger's rows, for SQLite and Postgres.

Sums are read from rows only until the roll-ups are complete (rollup_queries.py, charge_queries.py).
"""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    String,
    case,
    column,
    false,
    func,
    null,
    select,
    true,
    tuple_,
    values,
)

from services.common.ids import Kind, first_id_prefix
from services.common.limits import Unit
from services.common.runtime.clock import UNIX_SECONDS_MAX
from services.common.surface import Surface
from services.inference.chat import Outcome
from services.inference.ledger.tables import usage_ledger
from services.inference.ledger.writer import RequestsPage

COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")
"""Columns of token counts."""


CHARGED_TOKENS = func.coalesce(usage_ledger.c.charged_tokens, usage_ledger.c.total_tokens)
CHARGED_COST = func.coalesce(usage_ledger.c.charged_cost, usage_ledger.c.cost, 0)
_SUMS = {Unit.REQUESTS: func.count(), Unit.TOKENS: func.sum(CHARGED_TOKENS), Unit.COST: func.sum(CHARGED_COST)}

_ID_SECONDS_MAX = 3_600.0
"""More than the gateway's clock, when it creates a request's id, differs from Redis' at the reserve."""
SUMMARIES_MAX = 20_000
"""Maximum number of summaries in a response, since callers choose the model names."""


def summary(
    key_id: str,
    account_id: str,
    from_day: str,
    to_day: str,
    *,
    by_surface: bool = False,
    outcome: Outcome | None = None,
    surface: Surface | None = None,
) -> Select[Any]:
    """Select (day, model, surface, cost, sums), newest day first; empty arguments do not filter.

    The surface is null unless `by_surface` is set. The cost is null if no row has one.
    """
    table = usage_ledger.c
    query = select(
        table.day,
        table.model,
        table.surface if by_surface else null(),
        func.sum(table.cost),
        func.sum(case((table.charged, 1), else_=0)),
        func.sum(case((table.charged, 0), else_=1)),
        *(func.sum(table[name]) for name in COUNTS),
    )
    if key_id:
        query = query.where(table.key_id == key_id)
    if account_id:
        query = query.where(table.account_id == account_id)
    if outcome is not None:
        query = query.where(table.outcome == outcome.value)
    if surface is not None:
        query = query.where(table.surface == surface.value)
    query = _in_day_range(query, from_day, to_day)
    query = query.group_by(table.day, table.model).order_by(table.day.desc(), table.model).limit(SUMMARIES_MAX)
    return query.group_by(table.surface).order_by(table.surface.nulls_last()) if by_surface else query


def requests(page: RequestsPage, *, first_id: str = "") -> Select[Any]:
    """Select a page of an account's rows from `first_id` on, newest first, with a range scan of one index.

    The owner is compared with `>=` and `<=` instead of `=`. With `=`, Postgres may scan the primary key in order, and
    for an account without recent requests it would read the rows of all other accounts first.
    """
    table = usage_ledger.c
    owner = (table.account_id, table.key_id) if page.key_id else (table.account_id,)
    is_owner = (page.account_id, page.key_id) if page.key_id else (page.account_id,)
    first_id = max(first_id, _first_id(page.start, -_ID_SECONDS_MAX))
    end_id = min(filter(None, (page.before, _first_id(page.end, _ID_SECONDS_MAX))), default="")
    if first_id:
        query = select(usage_ledger).where(tuple_(*owner, table.request_id) >= (*is_owner, first_id))
    else:
        query = select(usage_ledger).where(tuple_(*owner) >= is_owner)
    if end_id:
        query = query.where(tuple_(*owner, table.request_id) < (*is_owner, end_id))
    else:
        query = query.where(tuple_(*owner) <= is_owner)
    query = query.where(*_conditions(page))
    return query.order_by(*(column.desc() for column in (*owner, table.request_id))).limit(page.rows_max)


def _conditions(page: RequestsPage) -> Iterator[ColumnElement[bool]]:
    """Return the conditions of a page's filters, except its owner."""
    table = usage_ledger.c
    if page.model:
        yield table.model == page.model
    if page.outcome is not None:
        yield table.outcome == page.outcome.value
    if page.surface is not None:
        yield table.surface == page.surface.value
    # Where ids bound the rows, no index may be used for the days: Postgres would read and sort all of their rows.
    day = table.day if page.start is None else table.day.concat("")
    if page.from_day:
        yield day >= page.from_day
    if page.to_day:
        yield day <= page.to_day
    if page.start is not None:
        yield table.reserved_at >= page.start
    if page.end is not None:
        yield table.reserved_at < page.end
    if page.ended_from is not None:
        yield table.reserved_at + table.duration_ms / 1000.0 >= page.ended_from


def _first_id(at: float | None, seconds: float) -> str:
    """Return the beginning of the request ids from some seconds after a time on; empty without a time."""
    if at is None:
        return ""
    moment = datetime.fromtimestamp(min(max(at + seconds, 0.0), UNIX_SECONDS_MAX), UTC)
    return first_id_prefix(Kind.REQUEST, moment)


def last_uses(key_ids: Collection[str]) -> Select[Any]:
    """Select (key id, last charged use, last uncharged use) of each key, both on the key's last day with a row.

    Each key takes three descents of the index over key, day, charge and time, and reads no other rows.
    """
    asked = values(column("key_id", String), name="asked").data([(key_id,) for key_id in key_ids]).cte()
    row = usage_ledger.alias("last_row").c
    own_days = select(row.day).where(row.key_id == asked.c.key_id).correlate(asked)
    last_day = own_days.order_by(row.day.desc()).limit(1).scalar_subquery()

    def last(is_charged: Any) -> Any:
        row = usage_ledger.c
        rows = (row.key_id == asked.c.key_id) & (row.day == last_day) & (row.charged == is_charged)
        times = select(row.reserved_at).where(rows).correlate(asked)
        return times.order_by(row.reserved_at.desc()).limit(1).scalar_subquery()

    return select(asked.c.key_id, last(true()), last(false()))


def _in_day_range(query: Select[Any], from_day: str, to_day: str) -> Select[Any]:
    if from_day:
        query = query.where(usage_ledger.c.day >= from_day)
    if to_day:
        query = query.where(usage_ledger.c.day <= to_day)
    return query
