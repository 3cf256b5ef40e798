"""Open, authenticate and end console sessions."""

from datetime import datetime, timedelta

from services.auth.accounts.model import AccountId, Proof
from services.auth.audit import Actor
from services.auth.keys.pepper import Pepper
from services.auth.sessions.model import NewSession, OpenSession, Session, SessionStore, session_ended
from services.common import checksummed_token
from services.common.ids import Kind, new_id
from services.common.runtime.clock import Clock, utc_now

TOKEN_PREFIX = "ses_stk_"
OPERATOR_TOKEN_PREFIX = "ops_stk_"
"""Prefix of the tokens of the operators' console."""
_TOUCH_INTERVAL = timedelta(minutes=1)
"""Minimum time between updates of a session's last use."""


class SessionManager:
    """Opens, authenticates and ends sessions."""

    def __init__(
        self,
        store: SessionStore,
        *,
        pepper: Pepper,
        clock: Clock,
        idle_seconds: float,
        total_seconds: float,
        token_prefix: str = TOKEN_PREFIX,
    ) -> None:
        """Store sessions in `store`. They end after `idle_seconds` without use, and `total_seconds` after the start.

        Only tokens with `token_prefix` are accepted, so that those of one kind of sessions are none of another.
        """
        self._prefix = token_prefix
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
        token = checksummed_token.mint(self._prefix)
        now = utc_now(self._clock)
        session = NewSession(
            id=new_id(Kind.SESSION),
            account_id=proof.account_id,
            digest=self._pepper.digest(token),
            created_at=now,
            expires_at=now + self._total,
            address=by.address,
        )
        replaces = self._pepper.digest(replaced_token) if self._is_token(replaced_token) else ""
        return OpenSession(await self._store.open(session, proof=proof, replaces=replaces, by=by), token)

    async def get(self, token: str, *, is_check: bool = False) -> Session:
        """Return the session of a token, and record its use unless this is only a check.

        Raises:
            Unauthenticated: The token is invalid, or the session has ended.
        """
        session = await self._store.find(self._pepper.digest(token)) if self._is_token(token) else None
        now = utc_now(self._clock)
        if session is None or not self._is_open(session, now):
            raise session_ended()
        if not is_check and now - session.last_used_at >= _TOUCH_INTERVAL:
            await self._store.touch(session.id, at=now)
        return session

    async def of_account(self, account_id: AccountId) -> list[Session]:
        """Return an account's open sessions, newest first."""
        now = utc_now(self._clock)
        return [session for session in await self._store.of_account(account_id) if self._is_open(session, now)]

    async def end(self, session_id: str | None, *, owner: AccountId, by: Actor) -> int:
        """End a session of this account, or all if the id is None; return how many were open."""
        return await self._store.end(session_id, owner=owner, by=by, at=utc_now(self._clock))

    async def log_out(self, token: str, *, by: Actor) -> None:
        """End the session of a token. Does nothing if it has already ended."""
        session = await self._store.find(self._pepper.digest(token)) if self._is_token(token) else None
        if session is not None:
            await self.end(session.id, owner=session.account.id, by=by)

    def _is_open(self, session: Session, now: datetime) -> bool:
        return now < session.expires_at and now < session.last_used_at + self._idle

    def _is_token(self, text: str) -> bool:
        return checksummed_token.is_well_formed(text, self._prefix)
