"""Console sessions: data model, storage interface and lifecycle."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from services.auth.accounts.model import Account, AccountId, Proof
from services.auth.audit import Actor
from services.auth.keys.pepper import Pepper
from services.common import checksummed_token
from services.common.errors import Unauthenticated
from services.common.ids import Kind, new_id
from services.common.runtime.clock import Clock, utc_now

TOKEN_PREFIX = "ses_stk_"
_TOUCH_INTERVAL = timedelta(minutes=1)
"""Minimum time between updates of a session's last use."""


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
            Unauthenticated: The account was deleted.
            PermissionDenied: The password of the proof was changed in the meantime.
        """

    async def find(self, digest: str) -> Session | None:
        """Return the session with this token digest, or None."""

    async def touch(self, session_id: str, *, at: datetime) -> None:
        """Record a use of the session."""

    async def of_account(self, account_id: AccountId) -> Sequence[Session]:
        """Return an account's sessions, newest first, including idle ones that have ended."""

    async def end(self, session_id: str, *, owner: AccountId, by: Actor, at: datetime) -> None:
        """End a session of this account with an audit event. Does nothing if there is no such session."""


class Sessions:
    """Opens, authenticates and ends sessions."""

    def __init__(
        self, store: SessionStore, *, pepper: Pepper, clock: Clock, idle_seconds: float, total_seconds: float
    ) -> None:
        """Store sessions in `store`. They end after `idle_seconds` without use, and `total_seconds` after the start."""
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._idle = timedelta(seconds=idle_seconds)
        self._total = timedelta(seconds=total_seconds)

    async def open(self, proof: Proof, *, by: Actor, replaced_token: str = "") -> OpenSession:
        """Open a session with a new token, and end the session of `replaced_token`, which prevents session fixation.

        Raises:
            Unauthenticated: The account was deleted.
            PermissionDenied: The password of the proof was changed in the meantime.
        """
        token = checksummed_token.mint(TOKEN_PREFIX)
        now = utc_now(self._clock)
        session = NewSession(
            id=new_id(Kind.SESSION),
            account_id=proof.account_id,
            digest=self._pepper.digest(token),
            created_at=now,
            expires_at=now + self._total,
            address=by.address,
        )
        replaces = self._pepper.digest(replaced_token) if _is_token(replaced_token) else ""
        return OpenSession(await self._store.open(session, proof=proof, replaces=replaces, by=by), token)

    async def get(self, token: str) -> Session:
        """Return the session of a token, and record its use.

        Raises:
            Unauthenticated: The token is invalid, or the session has ended.
        """
        session = await self._store.find(self._pepper.digest(token)) if _is_token(token) else None
        now = utc_now(self._clock)
        if session is None or not self._is_open(session, now):
            raise session_ended()
        if now - session.last_used_at >= _TOUCH_INTERVAL:
            await self._store.touch(session.id, at=now)
        return session

    async def of_account(self, account_id: AccountId) -> list[Session]:
        """Return an account's open sessions, newest first."""
        now = utc_now(self._clock)
        return [session for session in await self._store.of_account(account_id) if self._is_open(session, now)]

    async def end(self, session_id: str, *, owner: AccountId, by: Actor) -> None:
        """End a session of this account. Does nothing if there is no such session."""
        await self._store.end(session_id, owner=owner, by=by, at=utc_now(self._clock))

    async def log_out(self, token: str, *, by: Actor) -> None:
        """End the session of a token. Does nothing if it has already ended."""
        session = await self._store.find(self._pepper.digest(token)) if _is_token(token) else None
        if session is not None:
            await self.end(session.id, owner=session.account.id, by=by)

    def _is_open(self, session: Session, now: datetime) -> bool:
        return now < session.expires_at and now < session.last_used_at + self._idle


def session_ended() -> Unauthenticated:
    """Return the error for a session that is no longer open."""
    return Unauthenticated("Your session has ended. Log in again.", reason="session_ended")


def _is_token(text: str) -> bool:
    return checksummed_token.is_well_formed(text, TOKEN_PREFIX)
