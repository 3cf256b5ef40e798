"""SQL store for one-time tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.accounts.plan_store import require_plan
from services.auth.audit import Actor
from services.auth.db.records import READ_SECONDS_MAX, WRITE_SECONDS_MAX, record, unavailable
from services.auth.db.tables import one_time_tokens
from services.auth.sessions.one_time_tokens import INVITE_ID_CHARACTERS, Invite, NewToken, Purpose, invalid_token
from services.auth.sessions.proofs import lock_account, lock_existing
from services.common.db.transactions import Transactions, deadline
from services.common.errors import NotFound

_REPLACES = {
    Purpose.VERIFY_EMAIL: (Purpose.VERIFY_EMAIL,),
    # A reset also verifies the e-mail. An earlier verification link would activate a password that someone else chose.
    Purpose.RESET_PASSWORD: (Purpose.RESET_PASSWORD, Purpose.VERIFY_EMAIL),
    Purpose.INVITE: (),
}


@dataclass(frozen=True, slots=True)
class Redeemed:
    """The account or plan of a redeemed token."""

    account_id: str
    """Empty for an invitation."""
    plan: str
    """Plan of an invitation; empty for other purposes."""


class SQLOneTimeTokenStore:
    """SQL implementation of `OneTimeTokenStore`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def add(self, token: NewToken, *, by: Actor, at: datetime) -> None:
        """Store a token. See `OneTimeTokenStore.add`."""
        table = one_time_tokens.c
        async with self._transactions.writing() as connection:
            if token.account_id is not None:
                await lock_existing(connection, token.account_id)
                replaced = [purpose.value for purpose in _REPLACES[token.purpose]]
                earlier = (table.account_id == token.account_id) & table.purpose.in_(replaced)
                await connection.execute(delete(one_time_tokens).where(earlier))
            if token.plan is not None:
                await require_plan(connection, token.plan)
            values = {
                "digest": token.digest,
                "purpose": token.purpose.value,
                "account_id": token.account_id,
                "plan": token.plan,
                "expires_at": token.expires_at,
            }
            await connection.execute(insert(one_time_tokens).values(values))
            await record(
                connection,
                f"token.{token.purpose.value}",
                by=by,
                at=at,
                account_id=token.account_id or "",
                target=token.account_id or token.plan or "",
            )

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def invites(self, *, now: datetime, limit: int) -> Sequence[Invite]:
        """Return the invitations. See `OneTimeTokenStore.invites`."""
        table = one_time_tokens.c
        query = select(table.digest, table.plan, table.expires_at).where(_is_usable_invite(now))
        async with self._transactions.reading() as connection:
            rows = await connection.execute(query.order_by(table.expires_at, table.digest).limit(limit))
            return [Invite(row.digest[:INVITE_ID_CHARACTERS], row.plan or "", row.expires_at) for row in rows]

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def revoke_invite(self, invite_id: str, *, by: Actor, at: datetime) -> None:
        """Delete an invitation. See `OneTimeTokenStore.revoke_invite`."""
        table = one_time_tokens.c
        this = _is_usable_invite(at) & table.digest.startswith(invite_id, autoescape=True)
        async with self._transactions.writing() as connection:
            plan = await connection.scalar(delete(one_time_tokens).where(this).returning(table.plan))
            if plan is None:
                raise NotFound(
                    "There is no such invitation: it was used, revoked, or has expired.", reason="invite_not_found"
                )
            await record(connection, "invite.revoked", by=by, at=at, target=invite_id, details={"plan": plan})

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def plan_of(self, digest: str, *, now: datetime) -> str | None:
        """Return the plan of an invitation. See `OneTimeTokenStore.plan_of`."""
        table = one_time_tokens.c
        good = (table.digest == digest) & (table.purpose == Purpose.INVITE.value) & (table.expires_at > now)
        async with self._transactions.reading() as connection:
            plan: str | None = await connection.scalar(select(table.plan).where(good))
        return plan


def _is_usable_invite(now: datetime) -> ColumnElement[bool]:
    return (one_time_tokens.c.purpose == Purpose.INVITE.value) & (one_time_tokens.c.expires_at > now)


async def redeem(connection: AsyncConnection, digest: str, purpose: Purpose, *, now: datetime) -> Redeemed:
    """Delete a token and return its data, in an open transaction and with its account locked.

    Raises:
        InvalidRequest: There is no such token for this purpose, it has expired, or its account was deleted.
    """
    table = one_time_tokens.c
    good = (table.digest == digest) & (table.purpose == purpose.value) & (table.expires_at > now)
    account_id = await connection.scalar(select(table.account_id).where(good))
    if account_id is not None and await lock_account(connection, account_id) is None:
        raise invalid_token()
    use_up = delete(one_time_tokens).where(good).returning(table.account_id, table.plan)
    row = (await connection.execute(use_up)).one_or_none()
    if row is None:
        raise invalid_token()
    return Redeemed(row.account_id or "", row.plan or "")
