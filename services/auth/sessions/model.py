"""Console sessions: data model and storage interface."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from services.auth.accounts.model import Account, AccountId, Proof
from services.auth.audit import Actor
from services.common.errors import Unauthenticated


@dataclass(frozen=True, slots=True)
class Session:
    """A console session. Times are aware, in UTC."""

    id: str
    """`ses_` and a ULID. Not a credential."""
    account: Account
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    """Latest end of the session, regardless of use."""
    address: str
    """Network address that opened the session; empty if unknown."""

    @property
    def proof(self) -> Proof:
        """Proof that this session is open."""
        return Proof(self.account.id, session_id=self.id)


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session to store, without its token."""

    id: str
    account_id: AccountId
    digest: str
    """HMAC of the token under the pepper, in hex."""
    created_at: datetime
    expires_at: datetime
    address: str


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session and its token, which is not stored anywhere."""

    session: Session
    token: str = field(repr=False)


class SessionStore(Protocol):
    """Interface for storing sessions. Methods raise `Unavailable` if the store cannot be reached."""

    async def open(self, session: NewSession, *, proof: Proof, replaces: str, by: Actor) -> Session:
        """Store a session with an audit event, and end the one with the digest `replaces`; empty ends none.

        Raises:
            Unauthenticated: The account was deleted, or has TOTP and the proof contains none.
            PermissionDenied: The password of the proof was changed in the meantime.
        """

    async def find(self, digest: str) -> Session | None:
        """Return the session with this token digest, or None."""

    async def touch(self, session_id: str, *, at: datetime) -> None:
        """Record a use of the session."""

    async def of_account(self, account_id: AccountId) -> Sequence[Session]:
        """Return an account's sessions, newest first, including idle ones that have ended."""

    async def end(self, session_id: str | None, *, owner: AccountId, by: Actor, at: datetime) -> int:
        """End a session of this account with an audit event, or all if the id is None; return how many were open."""


def session_ended() -> Unauthenticated:
    """Return the error for a session that is no longer open."""
    return Unauthenticated("Your session has ended. Log in again.", reason="session_ended")
