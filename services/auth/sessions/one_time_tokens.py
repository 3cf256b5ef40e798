"""One-time tokens: what is mailed to prove an e-mail or choose a password, and invitations."""

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


class Purpose(StrEnum):
    """What a token is good for."""

    VERIFY_EMAIL = "verify_email"
    RESET_PASSWORD = "reset_password"
    INVITE = "invite"


_LIVES = {
    Purpose.VERIFY_EMAIL: timedelta(days=2),
    Purpose.RESET_PASSWORD: timedelta(hours=1),
    Purpose.INVITE: timedelta(days=14),
}


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token to keep: everything but itself."""

    digest: str
    """HMAC of the token under the pepper, in hex."""
    purpose: Purpose
    account_id: AccountId | None
    """Whose; None for an invitation."""
    plan: str | None
    """Plan of an invitation; None for other purposes."""
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class MintedToken:
    """A new token."""

    kept: NewToken
    text: str = field(repr=False)


class OneTimeTokenStore(Protocol):
    """Where tokens are kept; accounts use them up. Raises `Unavailable` when the store cannot be reached."""

    async def add(self, token: NewToken, *, by: Actor, at: datetime) -> None:
        """Keep a token in place of the account's earlier ones of its purpose, audited.

        Raises:
            NotFound: There is no such plan, or the account was deleted.

        One that resets a password also replaces those that verify the e-mail, which it does itself.
        """

    async def plan_of(self, digest: str, *, now: datetime) -> str | None:
        """Return the plan of an invitation without using it up; None when it is not good."""


def mint_token(
    purpose: Purpose, *, account_id: AccountId | None = None, plan: str | None = None, pepper: Pepper, clock: Clock
) -> MintedToken:
    """Return a new token, not yet kept."""
    text = checksummed_token.mint(_PREFIX)
    expires_at = utc_now(clock) + _LIVES[purpose]
    return MintedToken(NewToken(pepper.digest(text), purpose, account_id, plan, expires_at), text)


def token_digest(text: str, *, pepper: Pepper) -> str:
    """Return the digest under which a token is kept.

    Raises:
        InvalidRequest: The text cannot be a token.
    """
    if not checksummed_token.is_well_formed(text.strip(), _PREFIX):
        raise not_good()
    return pepper.digest(text.strip())


def not_good() -> InvalidRequest:
    """Return the refusal of a token: it says no more, so that nothing can be found out by trying."""
    return InvalidRequest(
        "this link does not work: it was used, has expired, or is not complete; ask for a new one",
        reason="invalid_token",
    )
