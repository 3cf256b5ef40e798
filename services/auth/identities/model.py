"""Linked identities: data model and storage interface."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.auth.accounts.model import AccountId, Proof
from services.auth.audit import Actor
from services.auth.identities.provider import ProviderIdentity
from services.common.errors import FailedPrecondition

IDENTITIES_MAX = 10
"""Maximum identities of an account."""


@dataclass(frozen=True, slots=True)
class Identity:
    """An identity that is linked to an account."""

    id: str
    """`idn_` and a ULID."""
    account_id: AccountId
    provider: str
    email: str
    """Address that the provider stated when the identity was linked; empty if none."""
    created_at: datetime


class IdentityStore(Protocol):
    """Interface for storing identities. Each change writes an audit event in its own transaction.

    Methods raise `Unavailable` if the store cannot be reached. Changes with a `proof` raise the exceptions of
    `AccountStore` for it.
    """

    async def find(self, issuer: str, subject: str) -> Identity | None:
        """Return the identity of a user at a provider, or None if it is not linked."""

    async def of_account(self, account_id: AccountId) -> Sequence[Identity]:
        """Return an account's identities, oldest first."""

    async def link(self, proof: Proof, identity: ProviderIdentity, *, by: Actor, at: datetime) -> Identity:
        """Link an identity to the account of `proof`. Returns the existing one if it already is.

        Raises:
            AlreadyExists: It is linked to another account.
            FailedPrecondition: The account has the maximum number of identities.
        """

    async def link_by_email(
        self, account_id: AccountId, email: str, identity: ProviderIdentity, *, by: Actor, at: datetime
    ) -> Identity:
        """Link an identity to an account with the same normalized address, as long as auth has verified the address.

        Raises:
            AlreadyExists: It is linked to another account.
            FailedPrecondition: The account has another address by now, its address is not verified, it has TOTP, or it
                has the maximum number of identities.
        """

    async def unlink(self, proof: Proof, identity_id: str, *, by: Actor, at: datetime) -> None:
        """Unlink an identity of the account. Does nothing if there is no such identity.

        Raises:
            FailedPrecondition: The account has no password and no other identity.
        """


def not_linked() -> FailedPrecondition:
    """Return the error for an identity whose address has an account to which it must not be linked by the address."""
    return FailedPrecondition(
        "This e-mail address already has an account, and it was not confirmed that the account is yours. Log in to it "
        "with your password, and link this log-in on the page “Log-in methods” of the account.",
        reason="identity_not_linked",
    )
