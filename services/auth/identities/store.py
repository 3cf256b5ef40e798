"""SQL store for identities."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.accounts.model import AccountId, Proof
from services.auth.audit import Actor
from services.auth.db.records import READ_SECONDS_MAX, WRITE_SECONDS_MAX, record, unavailable
from services.auth.db.tables import accounts, identities, totp_secrets
from services.auth.identities.model import IDENTITIES_MAX, Identity, not_linked
from services.auth.identities.provider import ProviderIdentity
from services.auth.identities.rows import add_identity, identity_linked_elsewhere
from services.auth.sessions.proofs import check_proof
from services.common.db.transactions import Transactions, deadline
from services.common.errors import FailedPrecondition


class SQLIdentityStore:
    """SQL implementation of `IdentityStore`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def find(self, issuer: str, subject: str) -> Identity | None:
        """Return a linked identity. See `IdentityStore.find`."""
        async with self._transactions.reading() as connection:
            return await _find(connection, issuer, subject)

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def of_account(self, account_id: AccountId) -> Sequence[Identity]:
        """Return an account's identities. See `IdentityStore.of_account`."""
        query = select(identities).where(identities.c.account_id == account_id).order_by(identities.c.id)
        async with self._transactions.reading() as connection:
            return [_identity(row) for row in await connection.execute(query)]

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def link(self, proof: Proof, identity: ProviderIdentity, *, by: Actor, at: datetime) -> Identity:
        """Link an identity. See `IdentityStore.link`."""
        async with self._transactions.writing() as connection:
            await check_proof(connection, proof)
            return await _link(connection, proof.account_id, identity, by=by, at=at)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def link_by_email(
        self, account_id: AccountId, email: str, identity: ProviderIdentity, *, by: Actor, at: datetime
    ) -> Identity:
        """Link an identity to the account of its address. See `IdentityStore.link_by_email`."""
        async with self._transactions.writing() as connection:
            await check_proof(connection, Proof(account_id))
            owned = (accounts.c.id == account_id) & (accounts.c.email == email)
            if await connection.scalar(select(accounts.c.email_verified_at).where(owned)) is None:
                raise not_linked()
            if await connection.scalar(select(totp_secrets.c.enabled_at).where(_has_totp(account_id))) is not None:
                raise not_linked()
            return await _link(connection, account_id, identity, by=by, at=at)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def unlink(self, proof: Proof, identity_id: str, *, by: Actor, at: datetime) -> None:
        """Unlink an identity. See `IdentityStore.unlink`."""
        mine = identities.c.account_id == proof.account_id
        async with self._transactions.writing() as connection:
            await check_proof(connection, proof)
            if proof.password_hash is None and await _count(connection, proof.account_id) <= 1:
                raise FailedPrecondition(
                    "You can log in to your account with this only. Choose a password first, or link another.",
                    reason="last_log_in_method",
                )
            removed = delete(identities).where(mine, identities.c.id == identity_id).returning(identities.c.provider)
            provider = await connection.scalar(removed)
            if provider is not None:
                await record(
                    connection,
                    "identity.unlinked",
                    by=by,
                    at=at,
                    account_id=proof.account_id,
                    target=identity_id,
                    details={"provider": provider},
                )


def _has_totp(account_id: AccountId) -> ColumnElement[bool]:
    return (totp_secrets.c.account_id == account_id) & totp_secrets.c.enabled_at.is_not(None)


async def _link(
    connection: AsyncConnection, account_id: AccountId, identity: ProviderIdentity, *, by: Actor, at: datetime
) -> Identity:
    known = await _find(connection, identity.issuer, identity.subject)
    if known is None:
        if await _count(connection, account_id) >= IDENTITIES_MAX:
            raise FailedPrecondition(
                f"Your account has {IDENTITIES_MAX} identities, which is the maximum. Unlink one first.",
                reason="too_many_identities",
            )
        await add_identity(connection, account_id, identity, by=by, at=at)
        known = await _find(connection, identity.issuer, identity.subject)
        assert known is not None, "the identity was just added"
    if known.account_id != account_id:
        raise identity_linked_elsewhere()
    return known


async def _find(connection: AsyncConnection, issuer: str, subject: str) -> Identity | None:
    query = select(identities).where(identities.c.issuer == issuer, identities.c.subject == subject)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _identity(row)


async def _count(connection: AsyncConnection, account_id: AccountId) -> int:
    count = select(func.count()).select_from(identities).where(identities.c.account_id == account_id)
    return (await connection.scalars(count)).one()


def _identity(row: Row[Any]) -> Identity:
    return Identity(row.id, AccountId(row.account_id), row.provider, row.email, row.created_at)
