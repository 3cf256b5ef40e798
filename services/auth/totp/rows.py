"""Removal of TOTP rows, within the transactions of other changes too."""

from datetime import datetime

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.audit import Actor
from services.auth.db.records import record
from services.auth.db.tables import recovery_codes, totp_secrets


async def remove_totp(connection: AsyncConnection, account_id: str, action: str, *, by: Actor, at: datetime) -> None:
    """Remove the secret and the recovery codes of an account, with an audit event if it had TOTP."""
    removed = delete(totp_secrets).where(totp_secrets.c.account_id == account_id).returning(totp_secrets.c.enabled_at)
    enabled_at = await connection.scalar(removed)
    await connection.execute(delete(recovery_codes).where(recovery_codes.c.account_id == account_id))
    if enabled_at is not None:
        await record(connection, action, by=by, at=at, account_id=account_id, target=account_id)
