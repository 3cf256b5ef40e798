"""Counts of deleted accounts: an account that is created with the same mailbox continues them.

Otherwise, an account could be deleted and created again to start each day's requests over. A row has only a keyed
digest of the mailbox, and is kept until the windows that count at the deletion have ended.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.accounts.addresses import identity_of
from services.auth.accounts.model import AccountId
from services.auth.db.tables import former_accounts, plans
from services.auth.keys.pepper import Pepper

_MONTHLY = "account:cost:month="
_SLACK = timedelta(hours=1)
"""Days end by Redis' clock, which may be behind. A row that is kept for longer does no harm: counters start at zero."""


class FormerAccounts:
    """Rows of deleted accounts, by mailbox. Called within the transactions that delete and create accounts."""

    def __init__(self, pepper: Pepper, *, accepted: Sequence[Pepper] = ()) -> None:
        """Store digests under `pepper`, and recognize those under the `accepted` peppers."""
        self._peppers = (pepper, *accepted)

    async def add(self, connection: AsyncConnection, email: str, quota_account_id: AccountId, *, at: datetime) -> None:
        """Remember the id under which a deleted account was counted. An existing row of the mailbox is kept."""
        digest = _digest(self._peppers[0], email)
        row = former_accounts.c
        await connection.execute(delete(former_accounts).where(row.digest == digest, row.expires_at <= at))
        if await connection.scalar(select(row.digest).where(row.digest == digest)) is None:
            expires_at = _end_of_windows(at, has_months=await _has_monthly_limits(connection)) + _SLACK
            values = {"digest": digest, "quota_account_id": quota_account_id, "expires_at": expires_at}
            await connection.execute(insert(former_accounts).values(values))

    async def take(self, connection: AsyncConnection, email: str, *, at: datetime) -> AccountId | None:
        """Remove the row of a mailbox and return the id under which to count its new account; None without a row."""
        digests = [_digest(pepper, email) for pepper in self._peppers]
        row = former_accounts.c
        taken = delete(former_accounts).where(row.digest.in_(digests), row.expires_at > at)
        ids = (await connection.scalars(taken.returning(row.quota_account_id))).all()
        return AccountId(ids[0]) if ids else None


def _digest(pepper: Pepper, email: str) -> str:
    return pepper.digest(f"former account {identity_of(email)}")


async def _has_monthly_limits(connection: AsyncConnection) -> bool:
    monthly = select(plans.c.name).where(plans.c.limits.contains(_MONTHLY)).limit(1)
    return await connection.scalar(monthly) is not None


def _end_of_windows(at: datetime, *, has_months: bool) -> datetime:
    """Return the end of the UTC day, or of the UTC month."""
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1) if has_months else day + timedelta(days=1)
