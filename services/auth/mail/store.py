"""SQL store for the e-mail queue."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.audit import Actor
from services.auth.db.records import READ_SECONDS_MAX, WRITE_SECONDS_MAX, unavailable
from services.auth.db.tables import emails
from services.auth.mail.queue import QueuedEmail, Topic
from services.common.db.transactions import Transactions, deadline
from services.common.errors import Unavailable

_QUEUE_LENGTH_MAX = 10_000
"""Maximum queue length. It keeps anonymous sign-ups from filling the database while mail cannot be sent."""


class SQLMailQueue:
    """SQL implementation of `MailQueue`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def add(self, email: QueuedEmail) -> None:
        """Add an e-mail. See `MailQueue.add`."""
        async with self._transactions.writing() as connection:
            await enqueue(connection, email)

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def due(self, now: datetime) -> bool:
        """Return whether any e-mail is due. See `MailQueue.due`."""
        async with self._transactions.reading() as connection:
            return await connection.scalar(select(emails.c.id).where(emails.c.next_try_at <= now).limit(1)) is not None

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def claim(self, *, count: int, now: datetime, until: datetime) -> Sequence[QueuedEmail]:
        """Claim due e-mails. See `MailQueue.claim`."""
        due = select(emails.c.id).where(emails.c.next_try_at <= now).order_by(emails.c.next_try_at).limit(count)
        # Postgres skips rows that another sender is claiming. SQLite has a single writer.
        claimable = emails.c.id.in_(due.with_for_update(skip_locked=True))
        claim = update(emails).where(claimable).values(next_try_at=until, tries=emails.c.tries + 1).returning(emails)
        async with self._transactions.writing() as connection:
            return [_email(row) for row in await connection.execute(claim)]

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def put_back(self, email: QueuedEmail, *, next_try_at: datetime) -> None:
        """Return an e-mail to the queue. See `MailQueue.put_back`."""
        async with self._transactions.writing() as connection:
            reschedule = update(emails).where(emails.c.id == email.id).values(next_try_at=next_try_at)
            await connection.execute(reschedule)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def remove(self, email: QueuedEmail) -> None:
        """Remove an e-mail. See `MailQueue.remove`."""
        async with self._transactions.writing() as connection:
            await connection.execute(delete(emails).where(emails.c.id == email.id))

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def waiting(self) -> int:
        """Return the queue length. See `MailQueue.waiting`."""
        async with self._transactions.reading() as connection:
            return await connection.scalar(select(func.count()).select_from(emails)) or 0


async def enqueue(connection: AsyncConnection, email: QueuedEmail) -> None:
    """Add an e-mail in an open transaction. Raises the exceptions of `MailQueue.add`."""
    if (await connection.scalar(select(func.count()).select_from(emails)) or 0) >= _QUEUE_LENGTH_MAX:
        raise Unavailable("Too many e-mails are waiting to be sent. Try again later.", reason="mail_queue_full")
    values = {
        "id": email.id,
        "topic": email.topic.value,
        "email": email.to,
        "account_id": email.opened_account_id,
        "actor": email.by.name,
        "address": email.by.address,
        "created_at": email.created_at,
        "next_try_at": email.created_at,
        "tries": 0,
        "alert_id": email.alert_id,
    }
    await connection.execute(insert(emails).values(values))


async def forget_emails(connection: AsyncConnection, account_id: str, address: str) -> None:
    """Delete the queued e-mails of an account, in the transaction that deletes the account."""
    await connection.execute(delete(emails).where(or_(emails.c.account_id == account_id, emails.c.email == address)))


def _email(row: Row[Any]) -> QueuedEmail:
    return QueuedEmail(
        id=row.id,
        topic=Topic(row.topic),
        to=row.email,
        opened_account_id=row.account_id,
        by=Actor(row.actor, row.address),
        created_at=row.created_at,
        tries=row.tries,
        alert_id=row.alert_id,
    )
