"""SQL store of the usage ledger, for SQLite and Postgres."""

import sqlite3
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter, itemgetter
from typing import Any

from sqlalchemy import Column, Row, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.common.db.sqlite_writer import SQLiteWriter
from services.common.db.transactions import Transactions, deadline
from services.common.errors import Unavailable
from services.common.limits import Unit
from services.common.surface import Surface
from services.common.verdict import RELEASED, Amounts, RowVerdict, Verdict
from services.inference.chat import CallContext, Outcome, Usage, UsageSource
from services.inference.ledger import queries
from services.inference.ledger.queries import COUNTS
from services.inference.ledger.tables import usage_ledger
from services.inference.ledger.writer import ChargedSum, LedgerRow, RequestsPage, UsageSummary

_READ_SECONDS_MAX = 2.0
_WRITE_SECONDS_MAX = 5.0
_ANSWERED_OUTCOMES = (Outcome.ANSWERED.value, Outcome.CLIENT_LEFT.value)
"""Outcomes that the reason for an abandonment may replace."""
_ROW_COLUMNS = tuple(field.name for field in fields(LedgerRow) if field.name not in ("usage", "outcome", "surface"))
_CHARGED_AMOUNTS = (queries.CHARGED_TOKENS.label("tokens"), queries.CHARGED_COST.label("cost"))
_row_values, _counts = attrgetter(*_ROW_COLUMNS), attrgetter(*COUNTS)
_SURFACES = {surface.value: surface for surface in Surface}


def _unavailable() -> Unavailable:
    return Unavailable("The usage ledger is unavailable. Try again in a moment.", reason="ledger_unavailable")


class SQLLedgerStore:
    """Implements `LedgerStore` with SQLAlchemy."""

    def __init__(self, engine: AsyncEngine, writer: SQLiteWriter | None = None) -> None:
        """Create a store.

        Args:
            engine: Engine of the database.
            writer: Fast path for inserting rows into SQLite; None for Postgres.
        """
        self._writer = writer
        self._transactions = Transactions(engine, unavailable=_unavailable)
        insert = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
        self._insert = _upsert(insert(usage_ledger)).returning(usage_ledger.c.request_id, usage_ledger.c.charged)
        self._insert_unknown = insert(usage_ledger).on_conflict_do_nothing(index_elements=["request_id"])
        # Executing the compiled text avoids SQLAlchemy's overhead, four fifths of the transaction's time.
        compiled = self._insert_unknown.compile(dialect=engine.dialect)
        self._insert_sql, self._insert_parameters = str(compiled), itemgetter(*(compiled.positiontup or ()))

    @deadline(_WRITE_SECONDS_MAX, unavailable=_unavailable)
    async def insert(self, rows: Sequence[LedgerRow]) -> list[Verdict]:
        """Commit rows, all or none, and return the stored verdicts in order; the first row of a request id wins."""
        firsts = {row.request_id: row for row in reversed(rows)}
        values = [_values(row) for row in firsts.values()]
        if self._writer is not None and await self._insert_new(self._writer, values):
            return [_verdict(firsts[row.request_id].charged) for row in rows]
        async with self._transactions.writing() as connection:
            written = dict((await connection.execute(self._insert, values)).tuples().all())
            # RETURNING omits rows that already exist, such as after a retry of a commit whose reply was lost.
            existing = [row.request_id for row in rows if row.request_id not in written]
            charged = await _charged(connection, existing) if existing else {}
        return [_verdict(written.get(row.request_id, row.request_id in charged)) for row in rows]

    async def _insert_new(self, writer: SQLiteWriter, values: Sequence[dict[str, Any]]) -> bool:
        """Insert rows and return true; insert nothing and return false if one of them already exists."""
        tuples = [self._insert_parameters(row) for row in values]

        def insert(connection: sqlite3.Connection) -> bool:
            is_new = connection.executemany(self._insert_sql, tuples).rowcount == len(tuples)
            if not is_new:
                connection.rollback()
            return is_new

        return await self._transactions.write(writer, insert)

    @deadline(_WRITE_SECONDS_MAX, unavailable=_unavailable)
    async def close_unknown(self, contexts: Sequence[CallContext]) -> list[RowVerdict]:
        """Return the verdict of each request, in order; insert an uncharged `unknown` row where there is none."""
        ids = [context.request_id for context in contexts]
        async with self._transactions.writing() as connection:
            await connection.execute(self._insert_unknown, [_values(_unknown(context)) for context in contexts])
            charged = await _charged(connection, ids)
        return [charged.get(request_id, RELEASED) for request_id in ids]

    @deadline(_WRITE_SECONDS_MAX, unavailable=_unavailable)
    async def resolve_abandoned(self, requests: Sequence[tuple[str, Outcome | None]]) -> list[RowVerdict | None]:
        """Return the verdict of each request, in order, None without a row; record why each was abandoned."""
        row = usage_ledger.c
        ids = {request_id for request_id, _ in requests}
        query = select(row.request_id, row.charged, row.outcome, *_CHARGED_AMOUNTS).where(row.request_id.in_(ids))
        async with self._transactions.reading() as connection:
            rows = {found.request_id: found for found in await connection.execute(query)}
        changes: dict[Outcome, list[str]] = {}
        for request_id, outcome in requests:
            if outcome and request_id in rows and _is_replaceable(rows[request_id].outcome, outcome):
                changes.setdefault(outcome, []).append(request_id)
        for outcome, request_ids in changes.items():
            await self._set_outcome(request_ids, outcome)
        return [_row_verdict(rows[request_id]) if request_id in rows else None for request_id, _ in requests]

    async def _set_outcome(self, request_ids: Sequence[str], outcome: Outcome) -> None:
        row = usage_ledger.c
        changeable = row.request_id.in_(request_ids) & row.outcome.in_(_ANSWERED_OUTCOMES)
        async with self._transactions.writing() as connection:
            await connection.execute(update(usage_ledger).where(changeable).values(outcome=outcome.value))

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def count_charged(
        self,
        key_days: Sequence[tuple[str, str]],
        *,
        reserved_before: float | None = None,
        excluded: Sequence[str] = (),
    ) -> list[int]:
        """Return the number of charged rows of each (key id, day), in order."""
        return await self._count_charged(usage_ledger.c.key_id, key_days, reserved_before, excluded)

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def count_charged_of_accounts(
        self,
        account_days: Sequence[tuple[str, str]],
        *,
        reserved_before: float | None = None,
        excluded: Sequence[str] = (),
    ) -> list[int]:
        """Return the number of charged rows of each (account id, day), in order."""
        row = usage_ledger.c
        own = await self._count_charged(row.account_id, account_days, reserved_before, excluded)
        # Rows of accounts that continue the counts of these. Quota never counts such an account under its own id.
        continued = await self._count_charged(row.quota_account_id, account_days, reserved_before, excluded)
        return [sum(counts) for counts in zip(own, continued, strict=True)]

    async def _count_charged(
        self,
        owner: Column[str],
        owner_days: Sequence[tuple[str, str]],
        reserved_before: float | None,
        excluded: Sequence[str],
    ) -> list[int]:
        owners_by_day: dict[str, set[str]] = {}
        for owner_id, day in owner_days:
            owners_by_day.setdefault(day, set()).add(owner_id)
        counts: dict[tuple[str, str], int] = {}
        if not owner_days:
            return []
        async with self._transactions.reading() as connection:
            for day, owner_ids in owners_by_day.items():
                query = queries.count_charged(owner, day, owner_ids, reserved_before, excluded)
                for owner_id, count in await connection.execute(query):
                    counts[owner_id, day] = count
        return [counts.get(owner_day, 0) for owner_day in owner_days]

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def sum_charged(
        self, sums: Sequence[ChargedSum], *, reserved_before: float | None = None, excluded: Sequence[str] = ()
    ) -> list[int]:
        """Return the sums, in order."""
        found: Tally[ChargedSum] = Tally()
        row = usage_ledger.c
        groups: dict[tuple[bool, Unit, str, str], list[ChargedSum]] = {}
        for one in sums:
            groups.setdefault((bool(one.key_id), one.unit, one.from_day, one.to_day), []).append(one)
        if not sums:
            return []
        async with self._transactions.reading() as connection:
            for (is_of_key, unit, *days), members in groups.items():
                by_owner = {one.key_id or one.account_id: one for one in members}
                rows = queries.charged_rows((days[0], days[1]), reserved_before, excluded)
                if is_of_key:
                    rows &= row.key_id.in_(by_owner)
                # Also of accounts that continue the counts of these. Quota never counts such an account by its own id.
                for account in (row.account_id, row.quota_account_id):
                    of_accounts = rows & account.in_({one.account_id for one in members})
                    query = queries.sums(row.key_id if is_of_key else account, unit, of_accounts)
                    for owner_id, total in await connection.execute(query):
                        found[by_owner[owner_id]] += int(total)
        return [found[one] for one in sums]

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def has_several_accounts(self) -> bool:
        """Return whether rows belong to more than one account; rows of direct callers do not count."""
        account_id = usage_ledger.c.account_id
        query = select(func.min(account_id), func.max(account_id)).where(account_id > "")
        async with self._transactions.reading() as connection:
            first, last = (await connection.execute(query)).one()
        return bool(first != last)

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def find(self, request_id: str) -> LedgerRow | None:
        """Return a row, or None if there is none."""
        async with self._transactions.reading() as connection:
            query = select(usage_ledger).where(usage_ledger.c.request_id == request_id)
            row = (await connection.execute(query)).one_or_none()
        return _ledger_row(row) if row is not None else None

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def summarize(
        self,
        key_id: str,
        *,
        account_id: str,
        from_day: str,
        to_day: str,
        by_surface: bool = False,
        outcome: Outcome | None = None,
        surface: Surface | None = None,
    ) -> list[UsageSummary]:
        """Return sums by day and model, newest day first."""
        query = queries.summary(
            key_id, account_id, from_day, to_day, by_surface=by_surface, outcome=outcome, surface=surface
        )
        async with self._transactions.reading() as connection:
            return [_summary(*row) for row in await connection.execute(query)]

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def list_requests(self, page: RequestsPage) -> list[LedgerRow]:
        """Return a page of rows; a page with fewer than `rows_max` rows is the last one."""
        async with self._transactions.reading() as connection:
            return [_ledger_row(row) for row in await connection.execute(queries.requests(page))]

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def last_uses(self, key_ids: Sequence[str]) -> list[float | None]:
        """Return the reserve time of each key's last request, in order; None for a key without rows."""
        if not key_ids:
            return []
        async with self._transactions.reading() as connection:
            rows = await connection.execute(queries.last_uses(set(key_ids)))
        used = {key_id: max((at for at in times if at is not None), default=None) for key_id, *times in rows}
        return [used[key_id] for key_id in key_ids]


def _is_replaceable(stored: str, outcome: Outcome) -> bool:
    return stored in _ANSWERED_OUTCOMES and stored != outcome.value


async def _charged(connection: AsyncConnection, request_ids: Sequence[str]) -> dict[str, RowVerdict]:
    """Return the verdicts of the charged rows, by request id."""
    row = usage_ledger.c
    query = select(row.request_id, row.charged, *_CHARGED_AMOUNTS).where(row.request_id.in_(request_ids) & row.charged)
    return {found.request_id: _row_verdict(found) for found in await connection.execute(query)}


def _row_verdict(row: Row[Any]) -> RowVerdict:
    return RowVerdict(Verdict.CHARGED, Amounts(row.tokens, row.cost)) if row.charged else RELEASED


def _verdict(is_charged: bool) -> Verdict:
    return Verdict.CHARGED if is_charged else Verdict.RELEASED


def _values(row: LedgerRow) -> dict[str, Any]:
    values: dict[str, Any] = {"cost": None, **dict(zip(_ROW_COLUMNS, _row_values(row), strict=True))}
    values |= zip(COUNTS, _counts(row.usage), strict=True)
    return values | {
        "outcome": row.outcome.value,
        "surface": row.surface and row.surface.value,
        "usage_source": row.usage.source.value,
        "model": _sanitise(row.model, 256),
        "upstream_model": _sanitise(row.upstream_model, 256),
        "upstream_id": _sanitise(row.upstream_id, 128),
        "refund_reason": _sanitise(row.refund_reason, 128),
    }


def _sanitise(text: str, characters_max: int) -> str:
    """Return text that a column can store: without NUL and lone surrogates, and cut to the column's length.

    Callers and Groq send arbitrary text. A row that the database rejects would be lost.
    """
    if text.isprintable() and len(text) <= characters_max:
        return text
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:characters_max]


def _ledger_row(row: Row[Any]) -> LedgerRow:
    stored = row._mapping
    usage = Usage(**{name: stored[name] for name in COUNTS}, source=UsageSource(stored["usage_source"]))
    own = {name: stored[name] for name in _ROW_COLUMNS}
    return LedgerRow(**own, usage=usage, outcome=Outcome(stored["outcome"]), surface=_surface(stored["surface"]))


def _summary(day: str, model: str, surface: str | None, cost: int | None, *sums: int) -> UsageSummary:
    # Sums have other types in Postgres.
    cost = None if cost is None else int(cost)
    charged, released, *tokens = map(int, sums)
    counts = dict(zip(COUNTS, tokens, strict=True))
    return UsageSummary(day, model, charged, released, **counts, surface=_surface(surface), cost=cost)


def _surface(text: str | None) -> Surface | None:
    """Return a stored surface; None if it is of a later version, before a rollback."""
    return _SURFACES.get(text) if text else None


def _upsert(insert: Any) -> Any:
    """Make an insert update an existing `unknown` row, except its charge, since the sweeper has released its hold.

    The sweeper knows only the account under which quota counts, so the account is updated.
    """
    final = {"request_id", "key_id", "day", "reserved_at", "charged", "refund_reason"}
    updated = {column.name: insert.excluded[column.name] for column in usage_ledger.c if column.name not in final}
    is_unknown = usage_ledger.c.outcome == Outcome.UNKNOWN.value
    return insert.on_conflict_do_update(index_elements=["request_id"], set_=updated, where=is_unknown)


def _unknown(context: CallContext) -> LedgerRow:
    return LedgerRow(
        request_id=context.request_id,
        account_id=context.account_id,
        key_id=context.key_id,
        day=context.day,
        reserved_at=context.reserved_at,
        model="",
        upstream_model="",
        stream=False,
        outcome=Outcome.UNKNOWN,
        charged=False,
        refund_reason="no_verdict",
        usage=Usage(),
        upstream_id="",
        attempts=0,
        time_to_first_token_ms=0,
        duration_ms=0,
        surface=context.surface,
        cost=None,
    )
