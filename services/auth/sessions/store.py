"""Sessions and throttles in SQL, the same on SQLite and Postgres."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Table, case, delete, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.auth.accounts.model import Account, AccountId, Proof
from services.auth.audit import Actor
from services.auth.db.records import READ_SECONDS_MAX, WRITE_SECONDS_MAX, record, record_all, unavailable
from services.auth.db.tables import accounts, one_time_tokens, sessions, throttles
from services.auth.sessions.model import NewSession, Session
from services.auth.sessions.proofs import check_proof, lock_account
from services.auth.sessions.rate_limiter import Tries
from services.common.db.transactions import Transactions, deadline

_REMOVED_MAX = 2_000
"""Rows removed in one transaction: an attack leaves hundreds of thousands, and others write in between."""
_ENDS: Mapping[Table, ColumnElement[datetime]] = {
    sessions: sessions.c.expires_at,
    one_time_tokens: one_time_tokens.c.expires_at,
    throttles: throttles.c.window_ends_at,
}

_SESSIONS = select(
    sessions,
    accounts.c.email,
    accounts.c.plan,
    accounts.c.created_at.label("account_created_at"),
    accounts.c.email_verified_at,
).join(accounts, accounts.c.id == sessions.c.account_id)


class SQLSessionStore:
    """Keeps sessions; a `SessionStore`."""

    def __init__(self, transactions: Transactions) -> None:
        """Read and write through `transactions`."""
        self._transactions = transactions

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def open(self, session: NewSession, *, proof: Proof, replaces: str, by: Actor) -> Session:
        """Keep a session; see `SessionStore.open`."""
        values = {
            "id": session.id,
            "account_id": session.account_id,
            "digest": session.digest,
            "created_at": session.created_at,
            "last_used_at": session.created_at,
            "expires_at": session.expires_at,
            "address": session.address,
        }
        async with self._transactions.writing() as connection:
            await _end_replaced(connection, proof, replaces, by=by, at=session.created_at)
            await check_proof(connection, proof)
            await connection.execute(insert(sessions).values(values))
            await record(
                connection,
                "session.opened",
                by=by,
                at=session.created_at,
                account_id=session.account_id,
                target=session.id,
            )
            return _session((await connection.execute(_SESSIONS.where(sessions.c.id == session.id))).one())

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def find(self, digest: str) -> Session | None:
        """Look a session up; see `SessionStore.find`."""
        async with self._transactions.reading() as connection:
            # A replica of the version before this one may still open a session of an account that was just deleted.
            lasting = _SESSIONS.where(sessions.c.digest == digest, accounts.c.deleted_at.is_(None))
            row = (await connection.execute(lasting)).one_or_none()
        return None if row is None else _session(row)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def touch(self, session_id: str, *, at: datetime) -> None:
        """Note that a session was used."""
        async with self._transactions.writing() as connection:
            await connection.execute(update(sessions).where(sessions.c.id == session_id).values(last_used_at=at))

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def of_account(self, account_id: AccountId) -> Sequence[Session]:
        """Return an account's sessions, newest first."""
        mine = _SESSIONS.where(sessions.c.account_id == account_id).order_by(sessions.c.id.desc())
        async with self._transactions.reading() as connection:
            return [_session(row) for row in await connection.execute(mine)]

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def end(self, session_id: str, *, owner: AccountId, by: Actor, at: datetime) -> None:
        """End a session; see `SessionStore.end`."""
        mine = (sessions.c.id == session_id) & (sessions.c.account_id == owner)
        async with self._transactions.writing() as connection:
            await lock_account(connection, owner)  # A write that rests on this session is made before, or refused.
            await end_sessions(connection, owner, mine, reason="ended", by=by, at=at)


async def end_sessions(
    connection: AsyncConnection,
    account_id: str,
    which: ColumnElement[bool],
    *,
    reason: str,
    by: Actor,
    at: datetime,
) -> None:
    """End sessions of an account in a transaction, with an event for each."""
    which = which & (sessions.c.account_id == account_id)
    ended = list(await connection.scalars(delete(sessions).where(which).returning(sessions.c.id)))
    await record_all(
        connection, "session.ended", by=by, at=at, targets=ended, account_id=account_id, details={"reason": reason}
    )


async def _end_replaced(connection: AsyncConnection, proof: Proof, digest: str, *, by: Actor, at: datetime) -> None:
    """End the session with this token's digest, whose account may be another one; lock both accounts."""
    replaced = sessions.c.digest == digest
    account_id: str | None = await connection.scalar(select(sessions.c.account_id).where(replaced))
    if account_id is None:
        return
    # In one order, so that two log-ins that replace each other's sessions do not wait for each other in a circle.
    for locked in sorted({account_id, proof.account_id}):
        await lock_account(connection, locked)
    await end_sessions(connection, account_id, replaced, reason="replaced", by=by, at=at)


_CLOCKS_DIFFER_MAX = timedelta(minutes=1)
"""Of two replicas; were it less, each would take the other's windows for such ones, and count anew."""


class SQLRateLimitStore:
    """Counts tries; a `RateLimitStore`."""

    def __init__(self, engine: AsyncEngine, transactions: Transactions) -> None:
        """Count through `transactions`, in the SQL that `engine` speaks."""
        self._transactions = transactions
        self._insert = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def count(self, subject: str, *, window: timedelta, now: datetime) -> Tries:
        """Count one more try, in one statement so that none is lost; see `RateLimitStore.count`."""
        table = throttles.c
        # One that ends much later than a new one would was begun before the clock was put back.
        is_over = or_(table.window_ends_at <= now, table.window_ends_at > now + window + _CLOCKS_DIFFER_MAX)
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
    """Removes what is over."""

    def __init__(self, transactions: Transactions) -> None:
        """Write through `transactions`."""
        self._transactions = transactions

    async def remove_expired(self, now: datetime) -> None:
        """Remove sessions, tokens and throttles whose time is over."""
        for table, ends_at in _ENDS.items():
            while await self._remove_some(table, ends_at <= now) == _REMOVED_MAX:
                pass

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def _remove_some(self, table: Table, is_over: ColumnElement[bool]) -> int:
        """Remove at most `_REMOVED_MAX` rows, and return how many those were."""
        (key,) = table.primary_key.columns
        some = select(key).where(is_over).limit(_REMOVED_MAX)
        async with self._transactions.writing() as connection:
            return (await connection.execute(delete(table).where(key.in_(some)))).rowcount


def _session(row: Row[Any]) -> Session:
    return Session(
        id=row.id,
        account=Account(AccountId(row.account_id), row.email, row.plan, row.account_created_at, row.email_verified_at),
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        expires_at=row.expires_at,
        address=row.address,
    )
