"""SQL checks of proofs, with the account's row locked."""

from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.accounts.model import Proof
from services.auth.accounts.passwords import password_wrong
from services.auth.db.tables import accounts, identities, sessions, totp_secrets
from services.auth.identities.authorization import identity_rejected
from services.auth.operators.model import not_operator, totp_required
from services.auth.sessions.model import session_ended
from services.auth.totp.pending import log_in_expired
from services.common.errors import FailedPrecondition, NotFound


async def lock_account(connection: AsyncConnection, account_id: str) -> Row[Any] | None:
    """Lock an account's row until the transaction ends, and return it; None if it does not exist or was deleted.

    Every write that opens, ends or depends on a session or password takes this lock, after the key revision and before
    any other row of the account, so such writes cannot deadlock. Postgres locks with FOR NO KEY UPDATE, which does not
    block inserts with a foreign key to the row. A write on SQLite locks the whole database.
    """
    lock = select(accounts.c.id, accounts.c.email, accounts.c.password_hash, accounts.c.suspended_at)
    lock = lock.where(accounts.c.id == account_id, accounts.c.deleted_at.is_(None))
    return (await connection.execute(lock.with_for_update(key_share=True))).one_or_none()


async def check_proof(connection: AsyncConnection, proof: Proof) -> None:
    """Lock the account and check that the proof is still valid.

    Raises:
        Unauthenticated: The session has ended, or the account was deleted.
        PermissionDenied: The password was changed, or the identity was unlinked.
        FailedPrecondition: The account is suspended.
    """
    account = await lock_account(connection, proof.account_id)
    if account is None:
        raise session_ended()
    if proof.session_id and not await _is_open(connection, proof):
        raise session_ended()
    if proof.password_hash is not None and account.password_hash != proof.password_hash:
        raise password_wrong()
    if account.suspended_at is not None:
        raise account_suspended()
    if proof.identity_id and not await _is_linked(connection, proof):
        raise identity_rejected()


def account_suspended() -> FailedPrecondition:
    """Return the error for an account that an operator has suspended."""
    return FailedPrecondition(
        "Your account is suspended, so you cannot log in and its API keys are rejected. Contact the operator of this "
        "service.",
        reason="account_suspended",
    )


async def check_second_factor(connection: AsyncConnection, proof: Proof) -> None:
    """Check that a code was checked if the account has TOTP, after `check_proof` has locked the account.

    Every new session passes this check, so that no path to a session can leave the second factor out.

    Raises:
        Unauthenticated: No code was checked, or TOTP was enabled, replaced or disabled in the meantime.
    """
    table = totp_secrets.c
    enabled = select(table.id).where(table.account_id == proof.account_id, table.enabled_at.is_not(None))
    if (await connection.scalar(enabled) or "") != proof.totp_id:
        raise log_in_expired()


async def check_operator(connection: AsyncConnection, proof: Proof) -> None:
    """Check that the account has the role of operators and TOTP, after `check_second_factor` has compared the latter.

    Raises:
        PermissionDenied: The role was taken away.
        FailedPrecondition: The account has no TOTP.
    """
    if await connection.scalar(select(accounts.c.operator_since).where(accounts.c.id == proof.account_id)) is None:
        raise not_operator()
    if not proof.totp_id:
        raise totp_required()


async def lock_existing(connection: AsyncConnection, account_id: str) -> Row[Any]:
    """Lock an account's row as `lock_account` does, and return it.

    Raises:
        NotFound: The account does not exist or was deleted.
    """
    account = await lock_account(connection, account_id)
    if account is None:
        raise NotFound(
            f"No account {account_id} was found. It was deleted or never existed.", reason="account_not_found"
        )
    return account


async def _is_open(connection: AsyncConnection, proof: Proof) -> bool:
    mine = (sessions.c.id == proof.session_id) & (sessions.c.account_id == proof.account_id)
    return await connection.scalar(select(sessions.c.id).where(mine)) is not None


async def _is_linked(connection: AsyncConnection, proof: Proof) -> bool:
    linked = (identities.c.id == proof.identity_id) & (identities.c.account_id == proof.account_id)
    return await connection.scalar(select(identities.c.id).where(linked)) is not None
