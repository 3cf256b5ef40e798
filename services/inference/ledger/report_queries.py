"""SQL queries of reports (reports.py), for SQLite and Postgres.

Whole days and hours are summed from the roll-ups and their deltas, other ranges and latencies from a bounded number of
the newest rows.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Select,
    Table,
    case,
    cast,
    func,
    literal,
    literal_column,
    null,
    select,
    union_all,
)
from sqlalchemy.types import BigInteger, String

from services.inference.ledger import queries
from services.inference.ledger.queries import COUNTS
from services.inference.ledger.reports import (
    DAY,
    FAILED_OUTCOMES,
    HOUR,
    LATENCY_ROWS_MAX,
    SUMMED_ROWS_MAX,
    VALUES_MAX,
    ReportQuery,
    Step,
)
from services.inference.ledger.rollup_tables import usage_days, usage_deltas, usage_hours
from services.inference.ledger.writer import RequestsPage

_MEASURES = ("requests", "charged_requests", "priced_requests", "cost", *COUNTS)
_MEDIAN, _TAIL = 0.5, 0.95


def sums(query: ReportQuery, *, has_rollups: bool = True) -> Select[Any]:
    """Select (step, value, cost, charged and other requests, failed requests, tokens), oldest step first.

    The roll-ups are read only if they are complete. The step is a day (`YYYY-MM-DD`), a number of hours or five minutes
    since 1970, or null for the whole range. The value is null for all values beyond the most frequent ones, and without
    a breakdown.
    """
    found = _sums_by_value(query, has_rollups).cte("found").prefix_with("MATERIALIZED")
    value = _value(found, query)
    cost = case((func.sum(found.c.priced_requests) > 0, func.sum(found.c.cost)))
    summed = [func.sum(found.c[name]) for name in ("charged_requests", "released_requests", "failed_requests", *COUNTS)]
    result = select(found.c.step, value.label("value"), cost, *summed)
    return result.group_by(found.c.step, value).order_by(found.c.step, value)


def _sums_by_value(query: ReportQuery, has_rollups: bool) -> Select[Any]:
    """Select sums by step and value, which are few, from the roll-ups, which can be a thousand times as many."""
    part = union_all(*_parts(query, has_rollups)).subquery("part").c
    requests, charged = func.sum(part.requests), func.sum(part.charged_requests)
    failed = func.sum(case((part.outcome.in_(sorted(FAILED_OUTCOMES)), part.requests), else_=0))
    columns = {
        "requests": requests,
        "charged_requests": charged,
        "released_requests": requests - charged,
        "failed_requests": failed,
        **{name: func.sum(part[name]) for name in ("priced_requests", "cost", *COUNTS)},
    }
    # A changed row's deltas may leave a group without requests, such as that of an `unknown` row.
    result = select(part.step, part.value, *(one.label(name) for name, one in columns.items())).having(requests > 0)
    return result.group_by(part.step, part.value)


def _value(found: CTE, query: ReportQuery) -> ColumnElement[Any]:
    if query.breakdown is None:
        return found.c.value
    frequency = func.sum(found.c.requests)
    most = select(found.c.value).group_by(found.c.value).order_by(frequency.desc(), found.c.value).limit(VALUES_MAX)
    return case((found.c.value.in_(most), found.c.value), else_=_NO_TEXT)


_NO_TEXT = cast(null(), String)


def _parts(query: ReportQuery, has_rollups: bool) -> Iterable[Select[Any]]:
    if not (has_rollups and query.is_of_hours):
        yield _part_of_rows(query)
    elif query.is_of_days:
        first, last = query.days
        for table in (usage_days, usage_deltas):
            yield _part(query, table, table.c.day).where(table.c.day >= first, table.c.day <= last)
    else:
        hours = query.start // HOUR, query.end // HOUR
        for table in (usage_hours, usage_deltas):
            yield _part(query, table, table.c.hour).where(table.c.hour >= hours[0], table.c.hour < hours[1])


def _part(query: ReportQuery, table: Table, step: ColumnElement[Any]) -> Select[Any]:
    measures = [table.c[name] for name in _MEASURES]
    columns = (_step(query, step).label("step"), _value_of(query, table).label("value"), table.c.outcome)
    return select(*columns, *measures).where(*_filters(query, table))


def _part_of_rows(query: ReportQuery) -> Select[Any]:
    row = queries.requests(_page(query, SUMMED_ROWS_MAX)).subquery("rows").c
    measures: list[ColumnElement[Any]] = [literal_column("1"), case((row.charged, 1), else_=0)]
    measures += [case((row.cost.is_(null()), 0), else_=1), func.coalesce(row.cost, 0)]
    measures += [row[name] for name in COUNTS]
    seconds = HOUR if query.is_of_hours else Step.FIVE_MINUTES.value
    step = row.day if query.is_of_days else cast(func.floor(row.reserved_at / seconds), BigInteger)
    columns = (_step(query, step).label("step"), _value_of(query, row).label("value"), row.outcome)
    named = [one.label(name) for name, one in zip(_MEASURES, measures, strict=True)]
    return select(*columns, *named).where(*_row_filters(query, row))


def _step(query: ReportQuery, step: ColumnElement[Any]) -> ColumnElement[Any]:
    return _NO_TEXT if query.step is Step.WHOLE else step


def _value_of(query: ReportQuery, table: Any) -> ColumnElement[Any]:
    columns = getattr(table, "c", table)
    return _NO_TEXT if query.breakdown is None else func.coalesce(columns[query.breakdown.value], "")


def _filters(query: ReportQuery, table: Table) -> Iterable[ColumnElement[bool]]:
    yield table.c.account_id == query.account_id
    for name in ("key_id", "model", "outcome", "surface"):
        if wanted := getattr(query, name):
            yield table.c[name] == wanted


def _row_filters(query: ReportQuery, row: Any) -> Iterable[ColumnElement[bool]]:
    """Return the conditions of a query's filters on rows of the right key and time."""
    for name in ("model", "outcome", "surface"):
        if wanted := getattr(query, name):
            yield row[name] == wanted


def _page(query: ReportQuery, rows_max: int) -> RequestsPage:
    """Return the newest rows of a query's range, without its filters, so that few rows are read however few match."""
    days = query.days if query.is_of_days else ("", "")
    slack = DAY if query.is_of_days else 0
    return RequestsPage(
        account_id=query.account_id,
        key_id=query.key_id,
        from_day=days[0],
        to_day=days[1],
        start=query.start - slack,
        end=query.end + slack,
        rows_max=rows_max,
    )


def has_more_rows(query: ReportQuery, rows_max: int) -> Select[Any]:
    """Select one row if a query's range has more than `rows_max`."""
    one = queries.requests(_page(query, 1)).with_only_columns(literal(1))
    return one.offset(rows_max)


def latency(query: ReportQuery, *, by_value: bool) -> Select[Any]:
    """Select (value, rows, percentiles of the duration and of the time to first token).

    Args:
        query: Selects the rows.
        by_value: Whether to measure each value of the breakdown by itself. Otherwise the value is null.
    """
    row = queries.requests(_page(query, LATENCY_ROWS_MAX)).subquery("rows").c
    value = _value_of(query, row) if by_value else _NO_TEXT
    first = row.time_to_first_token_ms
    measured = select(
        value.label("value"), row.duration_ms.label("duration"), case((first > 0, first)).label("first")
    ).where(*_row_filters(query, row))
    found = measured.subquery("measured").c
    rank = func.cume_dist()
    by_duration = rank.over(partition_by=found.value, order_by=found.duration)
    # Rows without output are ranked by themselves.
    by_first = rank.over(partition_by=(found.value, found.first.is_(null())), order_by=found.first)
    ranks = by_duration.label("duration_rank"), by_first.label("first_rank")
    ranked = select(found.value, found.duration, found.first, *ranks).subquery("ranked").c
    percentiles = [
        func.min(case((rank >= share, amount)))
        for amount, rank in ((ranked.duration, ranked.duration_rank), (ranked.first, ranked.first_rank))
        for share in (_MEDIAN, _TAIL)
    ]
    result = select(ranked.value, func.count(), *percentiles).group_by(ranked.value)
    return result.order_by(func.count().desc(), ranked.value).limit(VALUES_MAX)
