"""SQL queries that read roll-ups and the deltas that wait to be folded into them, in one statement: one snapshot."""

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    String,
    Subquery,
    Table,
    bindparam,
    case,
    cast,
    func,
    null,
    select,
    union_all,
)

from services.common.limits import Unit
from services.inference.ledger.queries import COUNTS, SUMMARIES_MAX
from services.inference.ledger.rollup_tables import usage_days, usage_deltas, usage_hours, usage_users

_SUMMED = ("requests", "charged_requests", "priced_requests", "cost", *COUNTS)
_NO_SURFACE = null()


@cache  # Building it takes as long as running it.
def summary(filters: frozenset[str], *, by_surface: bool = False) -> Select[Any]:
    """Select (day, model, surface, cost, sums), newest day first, with a parameter for each of the filters.

    Filters are `account_id`, `key_id`, `outcome`, `surface`, `from_day` and `to_day`. The surface is null unless
    `by_surface` is set. The cost is null if no request has one.
    """
    dimensions = ("day", "model", "surface") if by_surface else ("day", "model")
    found = _both((*dimensions, *_SUMMED), lambda table: _filtered(table, filters))
    order: list[ColumnElement[Any]] = [found.c.day.desc(), found.c.model]
    if not by_surface:
        return _grouped(found, found.c.day, found.c.model, _NO_SURFACE).order_by(*order).limit(SUMMARIES_MAX)
    order += [found.c.surface == "", found.c.surface]
    return _grouped(found, found.c.day, found.c.model, found.c.surface).order_by(*order).limit(SUMMARIES_MAX)


def _filtered(table: Table, filters: frozenset[str]) -> Iterable[ColumnElement[bool]]:
    for name in sorted(filters):
        value = bindparam(name, type_=String())
        if name == "from_day":
            yield table.c.day >= value
        elif name == "to_day":
            yield table.c.day <= value
        else:
            yield table.c[name] == value


def hours(key_id: str, account_id: str, from_day: str, to_day: str) -> Select[Any]:
    """Select (hour, model, cost, sums), newest hour first; empty arguments do not filter."""
    owner = {name: [value] for name, value in (("account_id", account_id), ("key_id", key_id)) if value}
    span = [_first_hour(day) + later for day, later in ((from_day, 0), (to_day, 24)) if day]
    names = ("hour", "model", *_SUMMED)
    parts = []
    for table in (usage_hours, usage_deltas):
        query = select(*(table.c[name] for name in names)).where(*_conditions(table, owner))
        if from_day:
            query = query.where(table.c.hour >= span[0])
        if to_day:
            query = query.where(table.c.hour < span[-1])
        parts.append(query)
    found = union_all(*parts).subquery()
    return (
        _grouped(found, found.c.hour, found.c.model).order_by(found.c.hour.desc(), found.c.model).limit(SUMMARIES_MAX)
    )


def users(account_id: str, from_day: str, to_day: str) -> Select[Any]:
    """Select (day, digest of the user, cost, sums) of an account's requests with a user, newest day first."""
    names = ("day", "user_digest", *_SUMMED)
    parts = [
        select(*(table.c[name] for name in names)).where(
            *_conditions(table, {"account_id": [account_id]}, (from_day, to_day)), table.c.user_digest != ""
        )
        for table in (usage_users, usage_deltas)
    ]
    found = union_all(*parts).subquery()
    return (
        _grouped(found, found.c.day, found.c.user_digest)
        .order_by(found.c.day.desc(), found.c.user_digest)
        .limit(SUMMARIES_MAX)
    )


def top_accounts(from_day: str, to_day: str, order: Unit, *, limit: int) -> Select[Any]:
    """Select (account id, cost, charged requests, other requests, total tokens) of the accounts with the most usage.

    Requests that are not charged count too, since they cost the service something.
    """
    names = ("account_id", "requests", "charged_requests", "priced_requests", "cost", "total_tokens")
    found = _both(names, lambda table: _conditions(table, {}, (from_day, to_day)))
    charged, requests = _sum(found.c.charged_requests), _sum(found.c.requests)
    tokens, is_priced = _sum(found.c.total_tokens), _sum(found.c.priced_requests) > 0
    cost = case((is_priced, _sum(found.c.cost)))
    by = {Unit.REQUESTS: requests, Unit.TOKENS: tokens, Unit.COST: func.coalesce(cost, 0)}[order]
    query = select(found.c.account_id, cost, charged, requests - charged, tokens).where(found.c.account_id != "")
    query = query.group_by(found.c.account_id).having(requests > 0)
    return query.order_by(by.desc(), found.c.account_id).limit(limit)


def _first_hour(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() // 3600)


def _grouped(found: Subquery, *keys: ColumnElement[Any]) -> Select[Any]:
    """Select keys, cost and sums of groups with requests.

    The deltas of a changed row may leave a group without requests, such as that of an `unknown` row.
    """
    charged, requests = _sum(found.c.charged_requests), _sum(found.c.requests)
    cost = case((_sum(found.c.priced_requests) > 0, _sum(found.c.cost)))
    query = select(*keys, cost, charged, requests - charged, *(_sum(found.c[name]) for name in COUNTS))
    return query.group_by(*(key for key in keys if key is not _NO_SURFACE)).having(requests > 0)


def _sum(column: ColumnElement[int]) -> ColumnElement[int]:
    # Postgres sums integers into NUMERIC, whose values take longer to read: 0.1 ms more for a month (measured).
    return cast(func.sum(column), BigInteger)


def last_days(key_ids: Collection[str]) -> Select[Any]:
    """Select (key id, last day with a request)."""
    row = usage_days.c
    return select(row.key_id, func.max(row.day)).where(row.key_id.in_(key_ids), row.requests > 0).group_by(row.key_id)


def active_keys(first_hour: int, before_day: str, *, after: str, keys_max: int) -> Select[Any]:
    """Select keys used since an hour, by id: id, last days before `before_day` with a request or null, first hour.

    There are two last days: that of the roll-ups, and that of the deltas. The first hour is the first one since then.
    """
    parts = [
        select(table.c.key_id, table.c.requests, table.c.hour).where(table.c.hour >= first_hour, table.c.key_id > after)
        for table in (usage_hours, usage_deltas)
    ]
    used = union_all(*parts).subquery()
    first = func.min(case((used.c.requests > 0, used.c.hour))).label("first")
    keys = select(used.c.key_id, first).group_by(used.c.key_id).having(func.sum(used.c.requests) > 0)
    page = keys.order_by(used.c.key_id).limit(keys_max).subquery()
    row = usage_days.c
    previous = select(func.max(row.day)).where(row.key_id == page.c.key_id, row.day < before_day, row.requests > 0)
    delta = usage_deltas.c
    waiting = select(delta.key_id, func.max(delta.day).label("day")).where(delta.day < before_day, delta.requests > 0)
    last = waiting.group_by(delta.key_id).subquery()
    joined = page.outerjoin(last, last.c.key_id == page.c.key_id)
    columns = (page.c.key_id, previous.correlate(page).scalar_subquery(), last.c.day, page.c.first)
    return select(*columns).select_from(joined).order_by(page.c.key_id)


def _both(names: Iterable[str], conditions: Callable[[Table], Iterable[ColumnElement[bool]]]) -> Subquery:
    tables = (usage_days, usage_deltas)
    return union_all(*(select(*(one.c[name] for name in names)).where(*conditions(one)) for one in tables)).subquery()


def _conditions(
    table: Table, wanted: Mapping[str, Collection[str]], days: tuple[str, str] = ("", "")
) -> Iterable[ColumnElement[bool]]:
    if days[0]:
        yield table.c.day >= days[0]
    if days[1]:
        yield table.c.day <= days[1]
    for name, values in wanted.items():
        yield table.c[name].in_(values)
