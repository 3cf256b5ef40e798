"""SQL queries of the ledger, for SQLite and Postgres."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    Column,
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

from services.common.limits import Unit
from services.common.surface import Surface
from services.inference.chat import Outcome
from services.inference.ledger.tables import usage_ledger
from services.inference.ledger.writer import RequestsPage

COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")
"""Columns of token counts."""


CHARGED_TOKENS = func.coalesce(usage_ledger.c.charged_tokens, usage_ledger.c.total_tokens)
CHARGED_COST = func.coalesce(usage_ledger.c.charged_cost, usage_ledger.c.cost, 0)
_SUMS = {Unit.REQUESTS: func.count(), Unit.TOKENS: func.sum(CHARGED_TOKENS), Unit.COST: func.sum(CHARGED_COST)}

SUMMARIES_MAX = 20_000
"""Maximum number of summaries in a response, since callers choose the model names."""


def count_charged(
    owner: Column[str],
    day: str,
    owner_ids: Collection[str],
    reserved_before: float | None,
    excluded: Collection[str] = (),
) -> Select[Any]:
    """Select (owner id, number of charged rows) for a day; owners without charged rows are omitted.

    Args:
        owner: The column of the owners' ids: `key_id` or `account_id`.
        day: UTC date, `YYYY-MM-DD`.
        owner_ids: Owners whose rows to count.
        reserved_before: Count only rows reserved before this time, in Unix seconds; None counts all.
        excluded: Request ids whose rows are not counted.
    """
    table = usage_ledger.c
    rows = (table.day == day) & owner.in_(owner_ids) & table.charged
    if reserved_before is not None:
        rows &= table.reserved_at < reserved_before
    if excluded:
        rows &= table.request_id.not_in(excluded)
    return select(owner, func.count()).where(rows).group_by(owner)


def charged_rows(
    days: tuple[str, str], reserved_before: float | None, excluded: Collection[str]
) -> ColumnElement[bool]:
    """Return the condition of charged rows from the first to the last of `days`; see `count_charged`."""
    table = usage_ledger.c
    rows = table.day.between(*days) & table.charged
    if reserved_before is not None:
        rows &= table.reserved_at < reserved_before
    if excluded:
        rows &= table.request_id.not_in(excluded)
    return rows


def sums(owner: Column[str], unit: Unit, rows: ColumnElement[bool]) -> Select[Any]:
    """Select (owner id, sum over rows)."""
    return select(owner, _SUMS[unit]).where(rows).group_by(owner)


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


def requests(page: RequestsPage) -> Select[Any]:
    """Select a page of an account's rows, newest first, with a range scan of one index.

    The owner is compared with `>=` and `<=` instead of `=`. With `=`, Postgres may scan the primary key in order, and
    for an account without recent requests it would read the rows of all other accounts first.
    """
    table = usage_ledger.c
    owner = (table.account_id, table.key_id) if page.key_id else (table.account_id,)
    is_owner = (page.account_id, page.key_id) if page.key_id else (page.account_id,)
    query = select(usage_ledger).where(tuple_(*owner) >= is_owner)
    if page.before:
        query = query.where(tuple_(*owner, table.request_id) < (*is_owner, page.before))
    else:
        query = query.where(tuple_(*owner) <= is_owner)
    if page.outcome is not None:
        query = query.where(table.outcome == page.outcome.value)
    if page.surface is not None:
        query = query.where(table.surface == page.surface.value)
    query = _in_day_range(query, page.from_day, page.to_day)
    return query.order_by(*(column.desc() for column in (*owner, table.request_id))).limit(page.rows_max)


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
