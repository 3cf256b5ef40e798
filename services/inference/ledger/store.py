"""SQL store of the usage ledger, for SQLite and Postgres."""

import sqlite3
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from operator import attrgetter, itemgetter
from typing import Any

from sqlalchemy import Row, Select, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.common.db.dialects import insert_of
from services.common.db.sqlite_writer import SQLiteWriter
from services.common.db.transactions import Transactions, deadline
from services.common.errors import Unavailable
from services.common.limits import Scope, Slot, Unit
from services.common.surface import Surface
from services.common.verdict import RELEASED, Amounts, RowVerdict, Verdict
from services.inference.chat import CallContext, Outcome, Usage, UsageSource
from services.inference.ledger import export_queries, queries, rollup_queries
from services.inference.ledger.charge_queries import Charges, charged
from services.inference.ledger.queries import COUNTS
from services.inference.ledger.report_reader import ReportReader
from services.inference.ledger.reports import Report, ReportQuery
from services.inference.ledger.rollup_tables import rollup_state
from services.inference.ledger.tables import usage_ledger
from services.inference.ledger.writer import AccountUsage, ChargedSum, LedgerRow, RequestsPage, UsageSummary

_READ_SECONDS_MAX = 2.0
_TOP_SECONDS_MAX = 5.0
"""For sums over all accounts, which read the days of all."""
_WRITE_SECONDS_MAX = 5.0
_ANSWERED_OUTCOMES = (Outcome.ANSWERED.value, Outcome.CLIENT_LEFT.value)
"""Outcomes that the reason for an abandonment may replace."""
_ROW_COLUMNS = tuple(
    field.name for field in fields(LedgerRow) if field.name not in ("usage", "outcome", "surface", "slot")
)
_CHARGED_AMOUNTS = (queries.CHARGED_TOKENS.label("tokens"), queries.CHARGED_COST.label("cost"))
_row_values, _counts = attrgetter(*_ROW_COLUMNS), attrgetter(*COUNTS)
_SURFACES = {surface.value: surface for surface in Surface}
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_USAGE_SOURCES = {source.value: source for source in UsageSource}
_SCOPES = {scope.value: scope for scope in Scope}


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
        self._has_complete_rollups = False
        insert = insert_of(engine)
        self._insert = _upsert(insert(usage_ledger)).returning(usage_ledger.c.request_id, usage_ledger.c.charged)
        self._insert_unknown = insert(usage_ledger).on_conflict_do_nothing(index_elements=["request_id"])
        # Executing the compiled text avoids SQLAlchemy's overhead, four fifths of the transaction's time.
        compiled = self._insert_unknown.compile(dialect=engine.dialect)
        self._insert_sql, self._insert_parameters = str(compiled), itemgetter(*(compiled.positiontup or ()))

    @property
    def transactions(self) -> Transactions:
        """Transactions on the ledger's database, which has one writer if it is SQLite."""
        return self._transactions

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

    async def count_charged(
        self,
        key_days: Sequence[tuple[str, str]],
        *,
        reserved_before: float | None = None,
        excluded: Sequence[str] = (),
    ) -> list[int]:
        """Return the number of charged rows of each (key id, day), in order."""
        sums = [ChargedSum(key_id, "", Unit.REQUESTS, day, day) for key_id, day in key_days]
        return await self.sum_charged(sums, reserved_before=reserved_before, excluded=excluded)

    async def count_charged_of_accounts(
        self,
        account_days: Sequence[tuple[str, str]],
        *,
        reserved_before: float | None = None,
        excluded: Sequence[str] = (),
    ) -> list[int]:
        """Return the number of charged rows of each (account id, day), in order."""
        sums = [ChargedSum("", account_id, Unit.REQUESTS, day, day) for account_id, day in account_days]
        return await self.sum_charged(sums, reserved_before=reserved_before, excluded=excluded)

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def sum_charged(
        self, sums: Sequence[ChargedSum], *, reserved_before: float | None = None, excluded: Sequence[str] = ()
    ) -> list[int]:
        """Return the sums, in order."""
        found: dict[ChargedSum, int] = {}
        groups: dict[tuple[bool, bool, Unit, str, str], list[ChargedSum]] = {}
        for one in sums:
            if not one.key_id and not one.account_id:
                continue  # Rows of direct callers count against nothing.
            group = (bool(one.key_id), bool(one.account_id), one.unit, one.from_day, one.to_day)
            groups.setdefault(group, []).append(one)
        if not groups:
            return [0] * len(sums)
        async with self._transactions.reading() as connection:
            from_rollups = await self._can_use_rollups(connection)
            for members in groups.values():
                query, parameters = charged(_charges(members, reserved_before, excluded), from_rollups=from_rollups)
                for key_id, account_id, total in await connection.execute(query, parameters):
                    found[replace(members[0], key_id=key_id, account_id=account_id)] = int(total)
        return [found.get(one, 0) for one in sums]

    async def _can_use_rollups(self, connection: AsyncConnection) -> bool:
        """Return whether the roll-ups contain all rows. If not, no row was ever removed."""
        if not self._has_complete_rollups:
            self._has_complete_rollups = bool(await connection.scalar(select(rollup_state.c.is_complete)))
        return self._has_complete_rollups

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
        async with self._transactions.reading() as connection:
            if await self._can_use_rollups(connection):
                given = {"key_id": key_id, "account_id": account_id, "from_day": from_day, "to_day": to_day}
                given |= {"outcome": outcome or "", "surface": surface or ""}
                filters = {name: value for name, value in given.items() if value}
                query = rollup_queries.summary(frozenset(filters), by_surface=by_surface)
                return [_summary(*row) for row in await connection.execute(query, filters)]
            query = queries.summary(
                key_id, account_id, from_day, to_day, by_surface=by_surface, outcome=outcome, surface=surface
            )
            return [_summary(*row) for row in await connection.execute(query)]

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def summarize_hours(self, key_id: str, *, account_id: str, from_day: str, to_day: str) -> list[UsageSummary]:
        """Return sums by hour and model, newest hour first."""
        query = rollup_queries.hours(key_id, account_id, from_day, to_day)
        return [_hour_summary(*row) for row in await self._rolled_up(query)]

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def summarize_users(self, account_id: str, *, from_day: str, to_day: str) -> list[UsageSummary]:
        """Return sums by day and user, newest day first."""
        query = rollup_queries.users(account_id, from_day, to_day)
        return [
            replace(_summary(day, "", None, *sums), user_digest=user)
            for day, user, *sums in await self._rolled_up(query)
        ]

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def active_keys(
        self, first_hour: int, before_day: str, *, after: str, keys_max: int
    ) -> list[tuple[str, str, str]]:
        """Return a page of keys that were used since an hour, with the last day before `before_day` and the first day.

        The last one is empty if there is none; the first one is that of the first use since the hour.
        """
        query = rollup_queries.active_keys(first_hour, before_day, after=after, keys_max=keys_max)
        return [
            (key_id, max(days or "", later or ""), datetime.fromtimestamp(hour * 3600, UTC).date().isoformat())
            for key_id, days, later, hour in await self._rolled_up(query)
        ]

    @deadline(_TOP_SECONDS_MAX, unavailable=_unavailable)
    async def top_accounts(self, from_day: str, to_day: str, order: Unit, *, limit: int) -> list[AccountUsage]:
        """Return the accounts with the most usage, from the roll-ups of all accounts."""
        query = rollup_queries.top_accounts(from_day, to_day, order, limit=limit)
        return [
            AccountUsage(account_id, int(charged), int(other), int(tokens), None if cost is None else int(cost))
            for account_id, cost, charged, other, tokens in await self._rolled_up(query)
        ]

    async def _rolled_up(self, query: Select[Any]) -> Sequence[Row[Any]]:
        """Return the rows of a query that needs complete roll-ups."""
        async with self._transactions.reading() as connection:
            if not await self._can_use_rollups(connection):
                message = "The ledger is still being migrated, so these sums are not complete. Try again later."
                raise Unavailable(message, reason="ledger_unavailable")
            return (await connection.execute(query)).all()

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def list_requests(self, page: RequestsPage) -> list[LedgerRow]:
        """Return a page of rows; a page with fewer than `rows_max` rows is the last one."""
        async with self._transactions.reading() as connection:
            return [_ledger_row(row) for row in await connection.execute(queries.requests(page))]

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def scan_requests(self, page: RequestsPage, *, scan_max: int) -> tuple[list[LedgerRow], str]:
        """Return a page of rows among the next `scan_max`, and the `before` of the next page; empty after the last."""
        async with self._transactions.reading() as connection:
            end = await connection.scalar(export_queries.scan_end(page, scan_max=scan_max)) or ""
            found = await connection.execute(queries.requests(page, first_id=end))
            rows = [_ledger_row(row) for row in found]
        return rows, rows[-1].request_id if len(rows) == page.rows_max else end

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def list_day_requests(self, day: str, *, after: str, rows_max: int) -> list[LedgerRow]:
        """Return a page of a day's rows of all accounts, in the order of their request ids."""
        async with self._transactions.reading() as connection:
            query = export_queries.day_requests(day, after=after, rows_max=rows_max)
            return [_ledger_row(row) for row in await connection.execute(query)]

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def report(self, query: ReportQuery) -> Report:
        """Return sums, and latencies if the query asks for them."""
        async with self._transactions.reading() as connection:
            return await ReportReader(connection, await self._can_use_rollups(connection)).read(query)

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def last_uses(self, key_ids: Sequence[str]) -> list[float | None]:
        """Return the reserve time of each key's last request, in order; None for a key without requests.

        Of a key whose rows were removed, it is the beginning of the day.
        """
        if not key_ids:
            return []
        async with self._transactions.reading() as connection:
            rows = await connection.execute(queries.last_uses(set(key_ids)))
            used = {key_id: max((at for at in times if at is not None), default=None) for key_id, *times in rows}
            without = [key_id for key_id, used_at in used.items() if used_at is None]
            for key_id, day in await connection.execute(rollup_queries.last_days(without)) if without else ():
                used[key_id] = _midnight(day)
        return [used[key_id] for key_id in key_ids]


def _charges(sums: Sequence[ChargedSum], reserved_before: float | None, excluded: Sequence[str]) -> Charges:
    """Return the charges of sums that differ in their owners only."""
    return Charges(
        sums[0].unit,
        sums[0].from_day,
        sums[0].to_day,
        key_ids={one.key_id for one in sums if one.key_id},
        account_ids={one.account_id for one in sums if one.account_id},
        reserved_before=reserved_before,
        excluded=excluded,
    )


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
    values: dict[str, Any] = {"is_rolled_up": True, **dict(zip(_ROW_COLUMNS, _row_values(row), strict=True))}
    values |= zip(COUNTS, _counts(row.usage), strict=True)
    return values | {
        "outcome": row.outcome.value,
        "surface": row.surface and row.surface.value,
        "usage_source": row.usage.source.value,
        "model": _sanitise(row.model, 256),
        "upstream_model": _sanitise(row.upstream_model, 256),
        "upstream_id": _sanitise(row.upstream_id, 128),
        "refund_reason": _sanitise(row.refund_reason, 128),
        "slot_number": row.slot and row.slot.number,
        "slot_limit": row.slot and row.slot.limit,
        "slot_scope": row.slot and row.slot.scope.value,
    }


def _sanitise(text: str, characters_max: int) -> str:
    """Return text that a column can store: without NUL and lone surrogates, and cut to the column's length.

    Callers and Groq send arbitrary text. A row that the database rejects would be lost.
    """
    if text.isprintable() and len(text) <= characters_max:
        return text
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:characters_max]


def _ledger_row(row: Row[Any]) -> LedgerRow:
    """Return a stored row. Names of a later version, before a rollback, are what is not known."""
    stored = row._mapping
    source = _USAGE_SOURCES.get(stored["usage_source"], UsageSource.ESTIMATED)
    usage = Usage(**{name: stored[name] for name in COUNTS}, source=source)
    own = {name: stored[name] for name in _ROW_COLUMNS}
    outcome, surface = _OUTCOMES.get(stored["outcome"], Outcome.UNKNOWN), _surface(stored["surface"])
    return LedgerRow(**own, usage=usage, outcome=outcome, surface=surface, slot=_slot(row))


def _slot(row: Row[Any]) -> Slot | None:
    scope = _SCOPES.get(row.slot_scope)
    return None if row.slot_number is None or scope is None else Slot(row.slot_number, row.slot_limit, scope)


def _summary(day: str, model: str, surface: str | None, cost: int | None, *sums: int) -> UsageSummary:
    # Sums have other types in Postgres.
    cost = None if cost is None else int(cost)
    charged, released, prompt, completion, total, cached, reasoning = map(int, sums)
    return UsageSummary(
        *(day, model, charged, released),
        *(prompt, completion, total, cached, reasoning),
        surface=_surface(surface),
        cost=cost,
    )


def _midnight(day: str) -> float:
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


def _hour_summary(hour: int, model: str, *sums: Any) -> UsageSummary:
    at = datetime.fromtimestamp(hour * 3600, UTC)
    return replace(_summary(at.date().isoformat(), model, None, *sums), hour=at)


def _surface(text: str | None) -> Surface | None:
    """Return a stored surface; None if it is of a later version, before a rollback."""
    return _SURFACES.get(text) if text else None


def _upsert(insert: Any) -> Any:
    """Make an insert update an existing `unknown` row, except its charge, since the sweeper has released its hold.

    The sweeper knows only the account under which quota counts, so the account is updated.
    """
    final = {"request_id", "key_id", "day", "reserved_at", "charged", "refund_reason", "is_rolled_up"}
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
