"""The ledger in SQL, the same on SQLite and Postgres."""

import sqlite3
from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter, itemgetter
from typing import Any

from sqlalchemy import Row, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.common.db.sqlite_writer import SQLiteWriter
from services.common.db.transactions import Transactions, deadline
from services.common.errors import Unavailable
from services.common.verdict import Verdict
from services.inference.chat import Outcome, RequestContext, Usage, UsageSource
from services.inference.ledger import queries
from services.inference.ledger.queries import COUNTS
from services.inference.ledger.tables import usage_ledger
from services.inference.ledger.writer import LedgerRow, RequestsPage, UsageSummary

_READ_SECONDS_MAX = 2.0
_WRITE_SECONDS_MAX = 5.0
_ANSWERED_OUTCOMES = (Outcome.ANSWERED.value, Outcome.CLIENT_LEFT.value)
"""Outcomes that say less than why a request was abandoned."""
_OWN_COLUMNS = tuple(field.name for field in fields(LedgerRow) if field.name not in ("usage", "outcome"))
_own_values, _counts = attrgetter(*_OWN_COLUMNS), attrgetter(*COUNTS)


def _unavailable() -> Unavailable:
    return Unavailable("the usage ledger cannot be reached; try again", reason="ledger_unavailable")


class SQLLedgerStore:
    """The `LedgerStore` on SQLAlchemy."""

    def __init__(self, engine: AsyncEngine, writer: SQLiteWriter | None = None) -> None:
        """Keep rows in `engine`'s database; an SQLite one has a `writer` for what every request waits for."""
        self._writer = writer
        self._transactions = Transactions(engine, unavailable=_unavailable)
        insert = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
        self._insert = _or_fill_in(insert(usage_ledger)).returning(usage_ledger.c.request_id, usage_ledger.c.charged)
        self._insert_unknown = insert(usage_ledger).on_conflict_do_nothing(index_elements=["request_id"])
        # SQLAlchemy says what to write, for both databases; its own objects would cost four fifths of the transaction.
        compiled = self._insert_unknown.compile(dialect=engine.dialect)
        self._text, self._in_order = str(compiled), itemgetter(*(compiled.positiontup or ()))

    @deadline(_WRITE_SECONDS_MAX, unavailable=_unavailable)
    async def insert(self, rows: Sequence[LedgerRow]) -> list[Verdict]:
        """Commit rows, all or none; return what the ledger then says of each, in order; of one id the first counts."""
        firsts = {row.request_id: row for row in reversed(rows)}
        values = [_values(row) for row in firsts.values()]
        if self._writer is not None and await self._inserted_new(self._writer, values):
            return [_verdict(firsts[row.request_id].charged) for row in rows]
        async with self._transactions.writing() as connection:
            written = dict((await connection.execute(self._insert, values)).tuples().all())
            # What is there already is neither written nor told: a commit whose answer was lost, tried again.
            untold = [row.request_id for row in rows if row.request_id not in written]
            charged = await _charged(connection, untold) if untold else set()
        return [_verdict(written.get(row.request_id, row.request_id in charged)) for row in rows]

    async def _inserted_new(self, writer: SQLiteWriter, values: Sequence[dict[str, Any]]) -> bool:
        """Insert rows that nobody has seen before, which is nearly always so; false, and nothing, where one was."""
        tuples = [self._in_order(one) for one in values]

        def insert(connection: sqlite3.Connection) -> bool:
            is_new = connection.executemany(self._text, tuples).rowcount == len(tuples)
            if not is_new:
                connection.rollback()
            return is_new

        return await self._transactions.write(writer, insert)

    @deadline(_WRITE_SECONDS_MAX, unavailable=_unavailable)
    async def close_unknown(self, contexts: Sequence[RequestContext]) -> list[Verdict]:
        """Return the verdict of each request's row, in order; one without a row gets an `unknown`, uncharged one."""
        ids = [context.request_id for context in contexts]
        async with self._transactions.writing() as connection:
            await connection.execute(self._insert_unknown, [_values(_unknown(context)) for context in contexts])
            charged = await _charged(connection, ids)
        return [_verdict(one in charged) for one in ids]

    @deadline(_WRITE_SECONDS_MAX, unavailable=_unavailable)
    async def resolve_abandoned(self, requests: Sequence[tuple[str, Outcome | None]]) -> list[Verdict | None]:
        """Return the verdict of each request's row, in order, None where there is none; note why it was abandoned."""
        row = usage_ledger.c
        found = select(row.request_id, row.charged, row.outcome).where(row.request_id.in_({one for one, _ in requests}))
        async with self._transactions.reading() as connection:
            rows = {one.request_id: one for one in await connection.execute(found)}
        changes: dict[Outcome, list[str]] = {}
        for request_id, outcome in requests:
            if outcome and request_id in rows and _may_become(rows[request_id].outcome, outcome):
                changes.setdefault(outcome, []).append(request_id)
        for outcome, request_ids in changes.items():
            await self._note_outcome(request_ids, outcome)
        return [_verdict(rows[one].charged) if one in rows else None for one, _ in requests]

    async def _note_outcome(self, request_ids: Sequence[str], outcome: Outcome) -> None:
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
        """Return the charged rows of each (key id, day), in order."""
        keys_of: dict[str, set[str]] = {}
        for key_id, day in key_days:
            keys_of.setdefault(day, set()).add(key_id)
        counts: dict[tuple[str, str], int] = {}
        async with self._transactions.reading() as connection:
            for day, key_ids in keys_of.items():
                query = queries.count_charged(day, key_ids, reserved_before, excluded)
                for key_id, count in await connection.execute(query):
                    counts[key_id, day] = count
        return [counts.get(key_day, 0) for key_day in key_days]

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def has_several_accounts(self) -> bool:
        """Return whether rows belong to more than one account; rows of direct callers count for none."""
        account_id = usage_ledger.c.account_id
        query = select(func.min(account_id), func.max(account_id)).where(account_id > "")
        async with self._transactions.reading() as connection:
            first, last = (await connection.execute(query)).one()
        return bool(first != last)

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def find(self, request_id: str) -> LedgerRow | None:
        """Return one row, or None when there is none."""
        async with self._transactions.reading() as connection:
            query = select(usage_ledger).where(usage_ledger.c.request_id == request_id)
            row = (await connection.execute(query)).one_or_none()
        return _ledger_row(row) if row is not None else None

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def summarize(self, key_id: str, *, account_id: str, from_day: str, to_day: str) -> list[UsageSummary]:
        """Return sums by day and model, newest day first."""
        async with self._transactions.reading() as connection:
            rows = await connection.execute(queries.summary(key_id, account_id, from_day, to_day))
            return [UsageSummary(row[0], row[1], *(int(value) for value in row[2:])) for row in rows]

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def list_requests(self, page: RequestsPage) -> list[LedgerRow]:
        """Return a page of rows; fewer than asked for were the last."""
        async with self._transactions.reading() as connection:
            return [_ledger_row(row) for row in await connection.execute(queries.requests(page))]

    @deadline(_READ_SECONDS_MAX, unavailable=_unavailable)
    async def last_uses(self, key_ids: Sequence[str]) -> list[float | None]:
        """Return when each key's latest request was reserved, in order; None for a key without a row."""
        if not key_ids:
            return []
        async with self._transactions.reading() as connection:
            rows = await connection.execute(queries.last_uses(set(key_ids)))
        used = {key_id: max((one for one in times if one is not None), default=None) for key_id, *times in rows}
        return [used[key_id] for key_id in key_ids]


def _may_become(stored: str, outcome: Outcome) -> bool:
    return stored in _ANSWERED_OUTCOMES and stored != outcome.value


async def _charged(connection: AsyncConnection, request_ids: Sequence[str]) -> set[str]:
    """Return those requests whose row is charged."""
    is_charged = usage_ledger.c.request_id.in_(request_ids) & usage_ledger.c.charged
    return set(await connection.scalars(select(usage_ledger.c.request_id).where(is_charged)))


def _verdict(is_charged: bool) -> Verdict:
    return Verdict.CHARGED if is_charged else Verdict.RELEASED


def _values(row: LedgerRow) -> dict[str, Any]:
    values: dict[str, Any] = dict(zip(_OWN_COLUMNS, _own_values(row), strict=True))
    values |= zip(COUNTS, _counts(row.usage), strict=True)
    return values | {
        "outcome": row.outcome.value,
        "usage_source": row.usage.source.value,
        "model": _storable(row.model, 256),
        "upstream_model": _storable(row.upstream_model, 256),
        "upstream_id": _storable(row.upstream_id, 128),
        "refund_reason": _storable(row.refund_reason, 128),
    }


def _storable(text: str, characters_max: int) -> str:
    """Return text as a column can hold it: callers and Groq send what they like, and Postgres takes not everything.

    A row that the database refuses would be tried for ever, and every other row behind it.
    """
    if text.isprintable() and len(text) <= characters_max:
        return text
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:characters_max]


def _ledger_row(row: Row[Any]) -> LedgerRow:
    stored = row._mapping
    usage = Usage(**{name: stored[name] for name in COUNTS}, source=UsageSource(stored["usage_source"]))
    own = {name: stored[name] for name in _OWN_COLUMNS}
    return LedgerRow(**own, usage=usage, outcome=Outcome(stored["outcome"]))


def _or_fill_in(insert: Any) -> Any:
    """Return an insert that gives an `unknown` row what it lacks, but no charge: the sweeper released its hold."""
    final = {"request_id", "account_id", "key_id", "day", "reserved_at", "charged", "refund_reason"}
    learnt = {column.name: insert.excluded[column.name] for column in usage_ledger.c if column.name not in final}
    is_unknown = usage_ledger.c.outcome == Outcome.UNKNOWN.value
    return insert.on_conflict_do_update(index_elements=["request_id"], set_=learnt, where=is_unknown)


def _unknown(context: RequestContext) -> LedgerRow:
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
    )
