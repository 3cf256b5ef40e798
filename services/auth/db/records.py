"""What every change of the database does besides: take the next revision, and write the audit log."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.audit import Actor, Event, EventId, new_event_id
from services.auth.db.tables import audit_events, key_revision
from services.common.db.transactions import Transactions, deadline
from services.common.errors import Unavailable

READ_SECONDS_MAX = 1.0
WRITE_SECONDS_MAX = 3.0


def unavailable() -> Unavailable:
    """Return the error for an answer that the database did not give."""
    return Unavailable("auth cannot use its database just now; try again", reason="auth_unavailable")


async def take_revisions(connection: AsyncConnection, count: int = 1) -> int:
    """Take the next `count` revisions and return the last; until the commit nobody else gets one.

    So revision order is commit order. It also makes changes of keys wait for each other: who counts an account's keys
    after this call sees all of them.
    """
    take = update(key_revision).values(revision=key_revision.c.revision + count).returning(key_revision.c.revision)
    revision: int = (await connection.scalars(take)).one()
    return revision


async def change_all_keys(connection: AsyncConnection) -> None:
    """Take a revision at which any key may have changed."""
    revision = await take_revisions(connection)
    await connection.execute(update(key_revision).values(all_keys_revision=revision))


async def record(
    connection: AsyncConnection,
    action: str,
    *,
    by: Actor,
    at: datetime,
    target: str,
    account_id: str = "",
    details: Mapping[str, object] | None = None,
) -> None:
    """Write one event of the audit log into the transaction of the change."""
    await record_all(connection, action, by=by, at=at, targets=[target], account_id=account_id, details=details)


async def record_all(
    connection: AsyncConnection,
    action: str,
    *,
    by: Actor,
    at: datetime,
    targets: Sequence[str],
    account_id: str = "",
    details: Mapping[str, object] | None = None,
) -> None:
    """Write an event for each of several things that were changed in the same way."""
    values = {
        "at": at,
        "actor": by.name,
        "address": by.address,
        "action": action,
        "account_id": account_id,
        "details": json.dumps({name: str(value) for name, value in (details or {}).items()}),
    }
    if targets:
        rows = [{"id": new_event_id(), "target": target, **values} for target in targets]
        await connection.execute(insert(audit_events), rows)


class SQLAuditLog:
    """Reads the audit log; an `AuditLog`."""

    def __init__(self, transactions: Transactions) -> None:
        """Read through `transactions`."""
        self._transactions = transactions

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def events(self, *, account_id: str, before: str, limit: int) -> Sequence[Event]:
        """Return events, newest first; see `AuditLog.events`."""
        query = select(audit_events).order_by(audit_events.c.id.desc()).limit(limit)
        if account_id:
            query = query.where(audit_events.c.account_id == account_id)
        if before:
            query = query.where(audit_events.c.id < before)
        async with self._transactions.reading() as connection:
            return [_event(row) for row in await connection.execute(query)]


def _event(row: Row[Any]) -> Event:
    return Event(
        id=EventId(row.id),
        at=row.at,
        actor=Actor(row.actor, row.address),
        action=row.action,
        account_id=row.account_id,
        target=row.target,
        details=json.loads(row.details),
    )
