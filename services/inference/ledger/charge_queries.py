"""SQL queries that sum what was charged, from the roll-ups and the deltas that wait for them, or from rows alone."""

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, String, Table, bindparam, func, literal_column, select, union_all

from services.common.limits import Unit
from services.common.runtime.clock import UNIX_SECONDS_MAX
from services.inference.ledger.queries import CHARGED_COST, CHARGED_TOKENS
from services.inference.ledger.rollup_tables import usage_days, usage_deltas
from services.inference.ledger.tables import usage_ledger

_AMOUNTS: Mapping[Unit, tuple[str, ColumnElement[Any]]] = {
    Unit.REQUESTS: ("charged_requests", literal_column("1")),
    Unit.TOKENS: ("charged_tokens", CHARGED_TOKENS),
    Unit.COST: ("charged_cost", CHARGED_COST),
}
"""By unit: the measure of a roll-up, and the amount of a row."""
_CLOCK_STEP_MAX = timedelta(days=1)
"""More than a row's day can be before the time of its reserve, after a step of Redis' clock."""
_NONE: ColumnElement[str] = literal_column("''", String())
_HAS_QUOTA_ACCOUNT = usage_days.c.quota_account_id != _NONE
"""The condition of a partial index."""


def _text(name: str) -> ColumnElement[str]:
    return bindparam(name, type_=String())


def _texts(name: str) -> Any:
    return bindparam(name, type_=String(), expanding=True)


_ROW = usage_ledger.c
_RESERVED_BEFORE: ColumnElement[float] = bindparam("reserved_before", type_=_ROW.reserved_at.type)
_IS_BEFORE = _ROW.reserved_at < _RESERVED_BEFORE
_IS_LATER = _ROW.reserved_at >= _RESERVED_BEFORE
_IS_EXCLUDED = _ROW.request_id.in_(_texts("excluded"))


class Charges(NamedTuple):
    """Which charged rows to sum: by key and account if there are keys and accounts, otherwise by what there is."""

    unit: Unit
    from_day: str
    """First day, `YYYY-MM-DD`."""
    to_day: str
    """Last day, `YYYY-MM-DD`."""
    key_ids: Collection[str] = ()
    """Empty for sums by account."""
    account_ids: Collection[str] = ()
    """Accounts under which quota counts; empty for sums by key, of all accounts."""
    reserved_before: float | None = None
    """Count only rows reserved before this time, in Unix seconds; None counts all."""
    excluded: Collection[str] = ()
    """Request ids whose rows are not counted."""


def charged(charges: Charges, *, from_rollups: bool) -> tuple[Select[Any], dict[str, Any]]:
    """Return a statement that selects (key id, account id, sum), and its parameters.

    An id by which is not summed is empty. Keys and accounts without charged rows may be omitted.

    Args:
        charges: What to sum.
        from_rollups: Whether to read the roll-ups and deltas, which must contain all rows, instead of the rows.
    """
    parameters: dict[str, Any] = {"from_day": charges.from_day, "to_day": charges.to_day}
    ids = {"key_ids": charges.key_ids, "account_ids": charges.account_ids, "excluded": charges.excluded}
    parameters |= {name: list(values) for name, values in ids.items() if values}
    if charges.reserved_before is not None:
        reserved_day = max(charges.from_day, _day_before(charges.reserved_before))
        parameters |= {"reserved_before": charges.reserved_before, "reserved_day": reserved_day}
    return _statement(charges.unit, frozenset(parameters), from_rollups=from_rollups), parameters


def _day_before(reserved_before: float) -> str:
    """Return the first day that rows reserved at this time or later can have, since indices have the day."""
    seconds = min(max(reserved_before, 0.0), UNIX_SECONDS_MAX)
    return (datetime.fromtimestamp(seconds, UTC) - _CLOCK_STEP_MAX).date().isoformat()


@cache  # Building it takes as long as running it.
def _statement(unit: Unit, given: frozenset[str], *, from_rollups: bool) -> Select[Any]:
    # Also rows of accounts that continue the counts of these. Quota never counts such an account under its own id.
    accounts = ("account_id", "quota_account_id") if "account_ids" in given else ("",)
    parts = _parts_of_rollups if from_rollups else _parts_of_rows
    found = union_all(*(part for account in accounts for part in parts(unit, given, account))).subquery()
    owner = (found.c.key_id, found.c.account_id)
    return select(*owner, func.sum(found.c.amount)).group_by(*owner)


def _parts_of_rollups(unit: Unit, given: frozenset[str], account: str) -> Iterator[Select[Any]]:
    measure, amount = _AMOUNTS[unit]
    for table in (usage_days, usage_deltas):
        part = _part(table, table.c[measure], given, account)
        yield part.where(_HAS_QUOTA_ACCOUNT) if table is usage_days and account == "quota_account_id" else part
    if "reserved_before" in given:
        later = _part(usage_ledger, -amount, given, account, first_day="reserved_day")
        yield later.where(_ROW.charged, _IS_LATER)
    if "excluded" in given:  # Those that are later are subtracted already.
        excluded = _part(usage_ledger, -amount, given, account).where(_ROW.charged, _IS_EXCLUDED)
        yield excluded.where(_IS_BEFORE) if "reserved_before" in given else excluded


def _parts_of_rows(unit: Unit, given: frozenset[str], account: str) -> Iterator[Select[Any]]:
    part = _part(usage_ledger, _AMOUNTS[unit][1], given, account).where(_ROW.charged)
    if "reserved_before" in given:
        part = part.where(_IS_BEFORE)
    yield part.where(~_IS_EXCLUDED) if "excluded" in given else part


def _part(
    table: Table, amount: ColumnElement[Any], given: frozenset[str], account: str, first_day: str = "from_day"
) -> Select[Any]:
    """Select (key id, account id, amount) of a table's rows of the given days, keys and accounts.

    The day has one lower bound, since SQLite would use any of two for the search in an index.
    """
    key_id = table.c.key_id if "key_ids" in given else _NONE
    account_id = table.c[account] if account else _NONE
    query = select(key_id.label("key_id"), account_id.label("account_id"), amount.label("amount"))
    query = query.where(table.c.day >= _text(first_day), table.c.day <= _text("to_day"))
    if "key_ids" in given:
        query = query.where(table.c.key_id.in_(_texts("key_ids")))
    if account:
        query = query.where(table.c[account].in_(_texts("account_ids")))
    return query
