"""One-time tokens for e-mail verification, password resets and invitations."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from services.auth.accounts.model import AccountId
from services.auth.audit import Actor
from services.auth.keys.pepper import Pepper
from services.common import checksummed_token
from services.common.errors import InvalidRequest
from services.common.runtime.clock import Clock, utc_now

_PREFIX = "one_stk_"
INVITE_ID_CHARACTERS = 16


class Purpose(StrEnum):
    """Actions that a token authorizes."""

    VERIFY_EMAIL = "verify_email"
    RESET_PASSWORD = "reset_password"
    INVITE = "invite"


_LIFETIMES = {
    Purpose.VERIFY_EMAIL: timedelta(days=2),
    Purpose.RESET_PASSWORD: timedelta(hours=1),
    Purpose.INVITE: timedelta(days=14),
}


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token to store, as a digest."""

    digest: str
    """HMAC of the token under the pepper, in hex."""
    purpose: Purpose
    account_id: AccountId | None
    """The account; None for an invitation."""
    plan: str | None
    """Plan of an invitation; None for other purposes."""
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class MintedToken:
    """A new token: the record to store, and the text to hand out."""

    kept: NewToken
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Invite:
    """An invitation that can be used, without its token."""

    id: str
    """First characters of the digest. Not a credential."""
    plan: str
    expires_at: datetime


class OneTimeTokenStore(Protocol):
    """Interface for storing tokens. `AccountStore` redeems them.

    Methods raise `Unavailable` if the store cannot be reached.
    """

    async def add(self, token: NewToken, *, by: Actor, at: datetime) -> None:
        """Store a token with an audit event, and delete the account's earlier tokens for the same purpose.

        A password reset token also replaces verification tokens, because it verifies the e-mail as well.

        Raises:
            NotFound: There is no such plan, or the account was deleted.
        """

    async def invites(self, *, now: datetime, limit: int) -> Sequence[Invite]:
        """Return the invitations that can be used, those that expire first at the beginning."""

    async def revoke_invite(self, invite_id: str, *, by: Actor, at: datetime) -> None:
        """Delete an invitation with an audit event.

        Raises:
            NotFound: It was used, has expired or never existed.
        """

    async def plan_of(self, digest: str, *, now: datetime) -> str | None:
        """Return the plan of an invitation without redeeming it; None if it is invalid."""


def mint_token(
    purpose: Purpose, *, account_id: AccountId | None = None, plan: str | None = None, pepper: Pepper, clock: Clock
) -> MintedToken:
    """Return a new token that is not stored yet."""
    text = checksummed_token.mint(_PREFIX)
    expires_at = utc_now(clock) + _LIFETIMES[purpose]
    return MintedToken(NewToken(pepper.digest(text), purpose, account_id, plan, expires_at), text)


def token_digest(text: str, *, pepper: Pepper) -> str:
    """Return the digest that identifies a token in the store.

    Raises:
        InvalidRequest: The text is not a well-formed token.
    """
    if not checksummed_token.is_well_formed(text.strip(), _PREFIX):
        raise invalid_token()
    return pepper.digest(text.strip())


def invalid_token() -> InvalidRequest:
    """Return the error for an invalid token. It gives no details, so that attempts reveal nothing."""
    return InvalidRequest(
        "This link is not valid: it was already used, has expired, or is incomplete. Request a new one.",
        reason="invalid_token",
    )
