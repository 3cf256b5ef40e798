"""Revisions and audit events, written in the transaction of each change."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.audit import Actor, AuditEvent, EventId, new_event_id
from services.auth.db.tables import audit_events, key_revision
from services.common.db.transactions import Transactions, deadline
from services.common.errors import Unavailable

READ_SECONDS_MAX = 1.0
WRITE_SECONDS_MAX = 3.0


def unavailable() -> Unavailable:
    """Return the error for a database that cannot be reached or takes too long."""
    return Unavailable("Auth cannot reach its database. Try again.", reason="auth_unavailable")


async def take_revisions(connection: AsyncConnection, count: int = 1) -> int:
    """Take the next `count` revisions and return the last one.

    No other transaction can take a revision until this one ends, so revision order is commit order. This also
    serializes key changes: a count of an account's keys after this call is exact.
    """
    take = update(key_revision).values(revision=key_revision.c.revision + count).returning(key_revision.c.revision)
    revision: int = (await connection.scalars(take)).one()
    return revision


async def change_all_keys(connection: AsyncConnection) -> None:
    """Take a revision that marks all keys as possibly changed."""
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
    """Write an audit event in the transaction of the change."""
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
    """Write an audit event for each target of the same change."""
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
    """SQL implementation of `AuditLog`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def events(
        self, *, account_id: str, before: str, limit: int, actor: str = "", action: str = ""
    ) -> Sequence[AuditEvent]:
        """Return audit events, newest first. See `AuditLog.events`."""
        query = select(audit_events).order_by(audit_events.c.id.desc()).limit(limit)
        if account_id:
            query = query.where(audit_events.c.account_id == account_id)
        if before:
            query = query.where(audit_events.c.id < before)
        if actor:
            name = audit_events.c.actor
            query = query.where(name.startswith(actor, autoescape=True) if actor.endswith(":") else name == actor)
        if action:
            name = audit_events.c.action
            query = query.where(or_(name == action, name.startswith(f"{action}.", autoescape=True)))
        async with self._transactions.reading() as connection:
            return [_event(row) for row in await connection.execute(query)]


def _event(row: Row[Any]) -> AuditEvent:
    return AuditEvent(
        id=EventId(row.id),
        at=row.at,
        actor=Actor(row.actor, row.address),
        action=row.action,
        account_id=row.account_id,
        target=row.target,
        details=json.loads(row.details),
    )
