"""Sessions: a person's stay in the console, known by a token that only its holder has."""

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
_TOUCH_EVERY = timedelta(minutes=1)
"""A session's last use is written down at most this often."""


@dataclass(frozen=True, slots=True)
class Session:
    """A stay in the console. Times are aware, in UTC."""

    id: str
    """`ses_` and a ULID; no credential."""
    account: Account
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    """When it ends at the latest, however much it is used."""
    address: str
    """Where it began; empty when that is not known."""

    @property
    def proof(self) -> Proof:
        """What its holder has proved: that this session is open."""
        return Proof(self.account.id, session_id=self.id)


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session to keep: everything but its token."""

    id: str
    account_id: AccountId
    digest: str
    """HMAC of the token under the pepper, in hex."""
    created_at: datetime
    expires_at: datetime
    address: str


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session and its token, which exists nowhere else."""

    session: Session
    token: str = field(repr=False)


class SessionStore(Protocol):
    """Where sessions are kept. Each method raises `Unavailable` when the store cannot be reached."""

    async def open(self, session: NewSession, *, proof: Proof, replaces: str, by: Actor) -> Session:
        """Keep a session, audited, and end the one with the digest `replaces`; empty ends none.

        Raises:
            Unauthenticated: The account was deleted.
            PermissionDenied: The password that was proved is not the account's any more.
        """

    async def find(self, digest: str) -> Session | None:
        """Look a session up by its token's digest; None when there is none."""

    async def touch(self, session_id: str, *, at: datetime) -> None:
        """Note that a session was used."""

    async def of_account(self, account_id: AccountId) -> Sequence[Session]:
        """Return an account's sessions, newest first, those included that were not used for too long."""

    async def end(self, session_id: str, *, owner: AccountId, by: Actor, at: datetime) -> None:
        """End a session of this account, audited; one that is not there is no error."""


class Sessions:
    """Opens sessions and knows them again."""

    def __init__(
        self, store: SessionStore, *, pepper: Pepper, clock: Clock, idle_seconds: float, total_seconds: float
    ) -> None:
        """Keep sessions in `store`; one ends after `idle_seconds` without use, and `total_seconds` after it began."""
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._idle = timedelta(seconds=idle_seconds)
        self._total = timedelta(seconds=total_seconds)

    async def open(self, proof: Proof, *, by: Actor, replaced_token: str = "") -> OpenSession:
        """Begin a session; the one of `replaced_token` ends, so that an earlier token never becomes this person's.

        Raises:
            Unauthenticated: The account was deleted.
            PermissionDenied: The password that was proved is not the account's any more.
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
        """Return the session of a token, and note its use.

        Raises:
            Unauthenticated: There is none, or it has ended.
        """
        session = await self._store.find(self._pepper.digest(token)) if _is_token(token) else None
        now = utc_now(self._clock)
        if session is None or not self._lasts(session, now):
            raise session_ended()
        if now - session.last_used_at >= _TOUCH_EVERY:
            await self._store.touch(session.id, at=now)
        return session

    async def of_account(self, account_id: AccountId) -> list[Session]:
        """Return an account's sessions that have not ended, newest first."""
        now = utc_now(self._clock)
        return [one for one in await self._store.of_account(account_id) if self._lasts(one, now)]

    async def end(self, session_id: str, *, owner: AccountId, by: Actor) -> None:
        """End a session of this account; one that is not there is no error."""
        await self._store.end(session_id, owner=owner, by=by, at=utc_now(self._clock))

    async def log_out(self, token: str, *, by: Actor) -> None:
        """End the session of a token; one that has ended is no error."""
        session = await self._store.find(self._pepper.digest(token)) if _is_token(token) else None
        if session is not None:
            await self.end(session.id, owner=session.account.id, by=by)

    def _lasts(self, session: Session, now: datetime) -> bool:
        return now < session.expires_at and now < session.last_used_at + self._idle


def session_ended() -> Unauthenticated:
    """Return the refusal of a call whose session is not open any more."""
    return Unauthenticated("Your session has ended. Log in again.", reason="session_ended")


def _is_token(text: str) -> bool:
    return checksummed_token.is_well_formed(text, TOKEN_PREFIX)
