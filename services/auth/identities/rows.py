"""Rows of identities, written in the transactions of other changes too."""

from datetime import datetime

from sqlalchemy import delete, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.audit import Actor
from services.auth.db.records import record, record_all
from services.auth.db.tables import identities
from services.auth.identities.provider import ProviderIdentity
from services.common.errors import AlreadyExists
from services.common.ids import Kind, new_id

_EMAIL_CHARACTERS_MAX = 254


async def add_identity(
    connection: AsyncConnection, account_id: str, identity: ProviderIdentity, *, by: Actor, at: datetime
) -> str:
    """Link an identity to an account, with an audit event, and return its id.

    Raises:
        AlreadyExists: It is linked to an account.
    """
    identity_id = new_id(Kind.IDENTITY)
    values = {
        "id": identity_id,
        "account_id": account_id,
        "provider": identity.provider,
        "issuer": identity.issuer,
        "subject": identity.subject,
        "email": identity.email if _is_usable(identity.email) else "",
        "created_at": at,
    }
    try:
        await connection.execute(insert(identities).values(values))
    except IntegrityError as exc:
        raise identity_linked_elsewhere() from exc
    details = {"provider": identity.provider}
    await record(
        connection, "identity.linked", by=by, at=at, account_id=account_id, target=identity_id, details=details
    )
    return identity_id


async def remove_identities(connection: AsyncConnection, account_id: str, *, by: Actor, at: datetime) -> None:
    """Unlink all identities of an account, with an audit event for each."""
    removed = delete(identities).where(identities.c.account_id == account_id).returning(identities.c.id)
    ids = list(await connection.scalars(removed))
    await record_all(connection, "identity.unlinked", by=by, at=at, targets=ids, account_id=account_id)


def identity_linked_elsewhere() -> AlreadyExists:
    """Return the error for an identity that is linked to another account."""
    return AlreadyExists(
        "This identity is linked to another account. Log in with it, and unlink it there first.",
        reason="identity_linked_elsewhere",
    )


def _is_usable(email: str) -> bool:
    return len(email) <= _EMAIL_CHARACTERS_MAX and email.isprintable()
