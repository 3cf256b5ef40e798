"""SQL stores for sessions and rate limits."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Table, case, delete, exists, insert, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.auth.accounts.model import Account, AccountId, Proof
from services.auth.audit import Actor
from services.auth.db.records import READ_SECONDS_MAX, WRITE_SECONDS_MAX, record, record_all, unavailable
from services.auth.db.tables import (
    accounts,
    former_accounts,
    one_time_tokens,
    plan_events,
    sessions,
    throttles,
    totp_secrets,
)
from services.auth.sessions.model import NewSession, Session
from services.auth.sessions.proofs import (
    check_operator,
    check_proof,
    check_second_factor,
    lock_account,
)
from services.auth.sessions.rate_limiter import Tries
from services.common.db.dialects import insert_of
from services.common.db.transactions import Transactions, deadline

_DELETE_BATCH_SIZE = 2_000
"""Rows deleted per transaction. An attack leaves hundreds of thousands, and other writes must run in between."""
_EXPIRY_COLUMNS: Mapping[Table, ColumnElement[datetime]] = {
    sessions: sessions.c.expires_at,
    one_time_tokens: one_time_tokens.c.expires_at,
    throttles: throttles.c.window_ends_at,
    former_accounts: former_accounts.c.expires_at,
    plan_events: plan_events.c.expires_at,
}

_SESSIONS = select(
    sessions,
    accounts.c.email,
    accounts.c.plan,
    accounts.c.created_at.label("account_created_at"),
    accounts.c.email_verified_at,
    accounts.c.quota_account_id,
).join(accounts, accounts.c.id == sessions.c.account_id)
_OF_OWNERS = sessions.c.operator_totp_id.is_(None)
_STILL_OPERATOR = exists().where(
    totp_secrets.c.id == sessions.c.operator_totp_id,
    totp_secrets.c.enabled_at.is_not(None),
    accounts.c.operator_since.is_not(None),
)
"""Of a session of the operators' console: whether its account still has the role, and the TOTP of the log-in."""


class SQLSessionStore:
    """SQL implementation of `SessionStore`."""

    def __init__(self, transactions: Transactions, *, is_for_operators: bool = False) -> None:
        """Store sessions of owners, or only those of operators, in their console."""
        self._transactions = transactions
        self._is_for_operators = is_for_operators
        self._kind = _STILL_OPERATOR if is_for_operators else _OF_OWNERS

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def open(self, session: NewSession, *, proof: Proof, replaces: str, by: Actor) -> Session:
        """Store a session. See `SessionStore.open`."""
        values = {
            "id": session.id,
            "account_id": session.account_id,
            "digest": session.digest,
            "created_at": session.created_at,
            "last_used_at": session.created_at,
            "expires_at": session.expires_at,
            "address": session.address,
            "operator_totp_id": proof.totp_id if self._is_for_operators else None,
        }
        async with self._transactions.writing() as connection:
            await _end_replaced(connection, proof, replaces, by=by, at=session.created_at)
            await check_proof(connection, proof)
            await check_second_factor(connection, proof)
            if self._is_for_operators:
                await check_operator(connection, proof)
            await connection.execute(insert(sessions).values(values))
            await record(
                connection,
                "operator_session.opened" if self._is_for_operators else "session.opened",
                by=by,
                at=session.created_at,
                account_id=session.account_id,
                target=session.id,
            )
            return _session((await connection.execute(_SESSIONS.where(sessions.c.id == session.id))).one())

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def find(self, digest: str) -> Session | None:
        """Return a session by its token digest. See `SessionStore.find`."""
        async with self._transactions.reading() as connection:
            # During an upgrade, a replica of an earlier version may open a session of an account just deleted or
            # suspended.
            query = _SESSIONS.where(
                sessions.c.digest == digest, accounts.c.deleted_at.is_(None), accounts.c.suspended_at.is_(None)
            ).where(self._kind)
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _session(row)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def touch(self, session_id: str, *, at: datetime) -> None:
        """Record a use of the session. See `SessionStore.touch`."""
        async with self._transactions.writing() as connection:
            await connection.execute(update(sessions).where(sessions.c.id == session_id).values(last_used_at=at))

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def of_account(self, account_id: AccountId) -> Sequence[Session]:
        """Return an account's sessions. See `SessionStore.of_account`."""
        owned = _SESSIONS.where(sessions.c.account_id == account_id, self._kind).order_by(sessions.c.id.desc())
        async with self._transactions.reading() as connection:
            return [_session(row) for row in await connection.execute(owned)]

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def end(self, session_id: str | None, *, owner: AccountId, by: Actor, at: datetime) -> int:
        """End a session, or all. See `SessionStore.end`."""
        chosen = true() if session_id is None else sessions.c.id == session_id
        async with self._transactions.writing() as connection:
            await lock_account(connection, owner)  # Writes that depend on this session commit earlier or are refused.
            return await end_sessions(connection, owner, chosen, reason="ended", by=by, at=at)


async def end_sessions(
    connection: AsyncConnection,
    account_id: str,
    which: ColumnElement[bool],
    *,
    reason: str,
    by: Actor,
    at: datetime,
) -> int:
    """End sessions of an account in an open transaction, with an audit event for each; return their number."""
    which = which & (sessions.c.account_id == account_id)
    ended = list(await connection.scalars(delete(sessions).where(which).returning(sessions.c.id)))
    await record_all(
        connection, "session.ended", by=by, at=at, targets=ended, account_id=account_id, details={"reason": reason}
    )
    return len(ended)


async def _end_replaced(connection: AsyncConnection, proof: Proof, digest: str, *, by: Actor, at: datetime) -> None:
    """End the session with this token digest, and lock its account and the proof's, which may differ."""
    replaced = sessions.c.digest == digest
    account_id: str | None = await connection.scalar(select(sessions.c.account_id).where(replaced))
    if account_id is None:
        return
    # Lock in a fixed order, so that two log-ins that replace each other's sessions cannot deadlock.
    for locked in sorted({account_id, proof.account_id}):
        await lock_account(connection, locked)
    await end_sessions(connection, account_id, replaced, reason="replaced", by=by, at=at)


_CLOCK_SKEW_MAX = timedelta(minutes=1)
"""Tolerated clock difference between replicas. Without it, replicas would reset each other's windows."""


class SQLRateLimitStore:
    """SQL implementation of `RateLimitStore`."""

    def __init__(self, engine: AsyncEngine, transactions: Transactions) -> None:
        """Use `transactions`, and the SQL dialect of `engine`."""
        self._transactions = transactions
        self._insert = insert_of(engine)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def count(self, subject: str, *, window: timedelta, now: datetime) -> Tries:
        """Count an attempt, atomically in one statement. See `RateLimitStore.count`."""
        table = throttles.c
        # A window that ends much later than a new one would have been started before the clock was set back.
        is_over = or_(table.window_ends_at <= now, table.window_ends_at > now + window + _CLOCK_SKEW_MAX)
        new = self._insert(throttles).values(subject=subject, tries=1, window_ends_at=now + window)
        counted = new.on_conflict_do_update(
            index_elements=["subject"],
            set_={
                "tries": case((is_over, 1), else_=table.tries + 1),
                "window_ends_at": case((is_over, new.excluded.window_ends_at), else_=table.window_ends_at),
            },
        ).returning(table.tries, table.window_ends_at)
        async with self._transactions.writing() as connection:
            row = (await connection.execute(counted)).one()
        return Tries(row.tries, row.window_ends_at)


class SQLExpiredRows:
    """Removes expired rows; an `ExpiredRows`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def remove_expired(self, now: datetime) -> None:
        """Remove expired sessions, one-time tokens, rate limit counters, plan events and former accounts."""
        for table, ends_at in _EXPIRY_COLUMNS.items():
            while await self._remove_batch(table, ends_at <= now) == _DELETE_BATCH_SIZE:
                pass

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def _remove_batch(self, table: Table, is_over: ColumnElement[bool]) -> int:
        """Remove at most `_DELETE_BATCH_SIZE` rows, and return their number."""
        (key,) = table.primary_key.columns
        some = select(key).where(is_over).limit(_DELETE_BATCH_SIZE)
        async with self._transactions.writing() as connection:
            return (await connection.execute(delete(table).where(key.in_(some)))).rowcount


def _session(row: Row[Any]) -> Session:
    return Session(
        id=row.id,
        account=Account(
            AccountId(row.account_id),
            row.email,
            row.plan,
            row.account_created_at,
            row.email_verified_at,
            quota_account_id=row.quota_account_id,
        ),
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        expires_at=row.expires_at,
        address=row.address,
    )
