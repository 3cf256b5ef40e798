"""SQL store for TOTP secrets and recovery codes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.accounts.model import AccountId, Proof
from services.auth.audit import Actor
from services.auth.db.records import READ_SECONDS_MAX, WRITE_SECONDS_MAX, record, unavailable
from services.auth.db.tables import recovery_codes, sessions, totp_secrets
from services.auth.sessions.proofs import check_proof, lock_existing
from services.auth.sessions.store import end_sessions
from services.auth.totp.model import Enrolment, already_enabled, not_enrolled
from services.auth.totp.rows import remove_totp
from services.common.db.transactions import Transactions, deadline


class SQLTOTPStore:
    """SQL implementation of `TOTPStore`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def find(self, account_id: AccountId) -> Enrolment | None:
        """Return an enrolment. See `TOTPStore.find`."""
        async with self._transactions.reading() as connection:
            return await _find(connection, account_id)

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def recovery_codes(self, account_id: AccountId) -> int:
        """Return the number of recovery codes. See `TOTPStore.recovery_codes`."""
        count = select(func.count()).select_from(recovery_codes).where(recovery_codes.c.account_id == account_id)
        async with self._transactions.reading() as connection:
            return (await connection.scalars(count)).one()

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def enrol(self, proof: Proof, enrolment: Enrolment) -> None:
        """Store an enrolment. See `TOTPStore.enrol`."""
        async with self._transactions.writing() as connection:
            await check_proof(connection, proof)
            known = await _find(connection, proof.account_id)
            if known is not None and known.is_enabled:
                raise already_enabled()
            await connection.execute(delete(totp_secrets).where(totp_secrets.c.account_id == proof.account_id))
            values = {
                "account_id": enrolment.account_id,
                "id": enrolment.id,
                "sealed": enrolment.sealed,
                "created_at": enrolment.created_at,
                "last_step": 0,
            }
            await connection.execute(insert(totp_secrets).values(values))

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def enable(
        self, proof: Proof, enrolment: Enrolment, step: int, digests: Sequence[str], *, by: Actor, at: datetime
    ) -> None:
        """Enable an enrolment. See `TOTPStore.enable`."""
        account_id = proof.account_id
        this = (totp_secrets.c.id == enrolment.id) & totp_secrets.c.enabled_at.is_(None)
        async with self._transactions.writing() as connection:
            await check_proof(connection, proof)
            enabled = update(totp_secrets).where(this).values(enabled_at=at, last_step=step)
            if (await connection.execute(enabled)).rowcount != 1:
                raise not_enrolled()
            await _replace_codes(connection, account_id, digests)
            others = sessions.c.id != proof.session_id
            await end_sessions(connection, account_id, others, reason="totp_enabled", by=by, at=at)
            await record(connection, "totp.enabled", by=by, at=at, account_id=account_id, target=account_id)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def use_step(self, enrolment: Enrolment, step: int, *, sealed: str) -> bool:
        """Use up a time step, atomically in one statement. See `TOTPStore.use_step`."""
        unused = (totp_secrets.c.id == enrolment.id) & (totp_secrets.c.last_step < step)
        async with self._transactions.writing() as connection:
            used = update(totp_secrets).where(unused).values(last_step=step, sealed=sealed)
            return (await connection.execute(used)).rowcount == 1

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def use_recovery_code(
        self, account_id: AccountId, digests: Sequence[str], *, by: Actor, at: datetime
    ) -> bool:
        """Delete a recovery code. See `TOTPStore.use_recovery_code`."""
        mine = (recovery_codes.c.account_id == account_id) & recovery_codes.c.digest.in_(digests)
        async with self._transactions.writing() as connection:
            if (await connection.execute(delete(recovery_codes).where(mine))).rowcount != 1:
                return False
            await record(connection, "recovery_code.used", by=by, at=at, account_id=account_id, target=account_id)
            return True

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def replace_recovery_codes(self, proof: Proof, digests: Sequence[str], *, by: Actor, at: datetime) -> None:
        """Replace all recovery codes. See `TOTPStore.replace_recovery_codes`."""
        account_id = proof.account_id
        async with self._transactions.writing() as connection:
            await check_proof(connection, proof)
            await _replace_codes(connection, account_id, digests)
            await record(connection, "recovery_codes.replaced", by=by, at=at, account_id=account_id, target=account_id)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def disable(self, proof: Proof, *, by: Actor, at: datetime) -> None:
        """Remove the secret and the recovery codes. See `TOTPStore.disable`."""
        async with self._transactions.writing() as connection:
            await check_proof(connection, proof)
            await remove_totp(connection, proof.account_id, "totp.disabled", by=by, at=at)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def reset(self, account_id: AccountId, *, by: Actor, at: datetime) -> None:
        """Remove the secret and the recovery codes. See `TOTPStore.reset`."""
        async with self._transactions.writing() as connection:
            await lock_existing(connection, account_id)
            await remove_totp(connection, account_id, "totp.reset", by=by, at=at)


async def _replace_codes(connection: AsyncConnection, account_id: AccountId, digests: Sequence[str]) -> None:
    await connection.execute(delete(recovery_codes).where(recovery_codes.c.account_id == account_id))
    rows = [{"digest": digest, "account_id": account_id} for digest in digests]
    await connection.execute(insert(recovery_codes), rows)


async def _find(connection: AsyncConnection, account_id: AccountId) -> Enrolment | None:
    row = (await connection.execute(select(totp_secrets).where(totp_secrets.c.account_id == account_id))).one_or_none()
    return None if row is None else _enrolment(row)


def _enrolment(row: Row[Any]) -> Enrolment:
    return Enrolment(
        row.id, AccountId(row.account_id), row.sealed, row.created_at, is_enabled=row.enabled_at is not None
    )
