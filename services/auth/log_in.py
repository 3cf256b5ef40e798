"""Logging in: e-mail and password for a session."""

from dataclasses import replace

from services.auth.accounts import AccountStore, Credentials, Proof, normalised_email
from services.auth.audit import Actor
from services.auth.passwords import Passwords
from services.auth.sessions import OpenSession, Session, Sessions
from services.auth.throttles import Rule, Throttle
from services.common.client_block import client_block
from services.common.clock import Clock, utc_now
from services.common.errors import FailedPrecondition, InvalidRequest, PermissionDenied, Unauthenticated

_QUARTER_SECONDS = 900
_BY_BOTH = Rule("log-ins to an e-mail from an address", tries_max=10, window_seconds=_QUARTER_SECONDS)
# Ten times as many from everywhere, so that a stranger's guesses do not lock the owner out at once.
_BY_EMAIL = Rule("log-ins to an e-mail", tries_max=100, window_seconds=_QUARTER_SECONDS)


class LogIn:
    """Checks who somebody says to be."""

    def __init__(
        self,
        accounts: AccountStore,
        sessions: Sessions,
        *,
        passwords: Passwords,
        throttle: Throttle,
        clock: Clock,
        needs_verified_email: bool,
        log_ins_per_address_max: int,
    ) -> None:
        """Wire the parts; an address may try `log_ins_per_address_max` times in 15 minutes."""
        self._accounts = accounts
        self._sessions = sessions
        self._passwords = passwords
        self._throttle = throttle
        self._clock = clock
        self._needs_verified_email = needs_verified_email
        self._by_address = Rule("log-ins from an address", log_ins_per_address_max, _QUARTER_SECONDS)

    async def log_in(self, email: str, password: str, *, replaced_token: str, by: Actor) -> OpenSession:
        """Open a session.

        Raises:
            Unauthenticated: The e-mail or the password is wrong; an unknown e-mail takes as long.
            FailedPrecondition: They do, but the e-mail must be verified first.
            Throttled: Too many tries.
        """
        credentials = await self._credentials(email, by)
        if not await self._passwords.matches(password, credentials.password_hash if credentials else None):
            raise _wrong()
        assert credentials is not None, "no password belongs to nobody"
        if self._needs_verified_email and credentials.account.email_verified_at is None:
            raise FailedPrecondition(
                "confirm your e-mail address first: open the page that was mailed to you", reason="email_unverified"
            )
        proof = Proof(credentials.account.id, password_hash=credentials.password_hash)
        try:
            return await self._sessions.open(proof, by=by, replaced_token=replaced_token)
        except (PermissionDenied, Unauthenticated) as exc:  # Replaced, or deleted with its account, in the meantime.
            raise _wrong() from exc

    async def change_password(self, session: Session, current: str, new: str, *, by: Actor) -> None:
        """Replace the password and end all other sessions.

        Raises:
            InvalidRequest: The new password cannot be accepted.
            PermissionDenied: The current password is wrong, or was replaced before this change was made.
            Throttled: Too many tries.
            Unauthenticated: The session ended before the change was made.
        """
        proof = await self._prove(session, current, by=by)
        new_hash = await self._passwords.hash(new)
        await self._accounts.set_password(proof, new_hash, by=by, at=utc_now(self._clock))

    async def delete_account(self, session: Session, password: str, *, by: Actor) -> None:
        """Delete the session's account; raises as `change_password`."""
        proof = await self._prove(session, password, by=by)
        await self._accounts.delete(session.account.id, by=by, at=utc_now(self._clock), proof=proof)

    async def _prove(self, session: Session, password: str, *, by: Actor) -> Proof:
        """Return the proof of a session and its account's password.

        Raises:
            PermissionDenied: The password is wrong.
            Throttled: Too many tries.
        """
        credentials = await self._credentials(session.account.email, by)
        password_hash = credentials.password_hash if credentials else None
        if not await self._passwords.matches(password, password_hash):
            raise PermissionDenied("That is not your password. Try again.", reason="password_wrong")
        return replace(session.proof, password_hash=password_hash)

    async def _credentials(self, email: str, by: Actor) -> Credentials | None:
        try:
            address = normalised_email(email)
        except InvalidRequest:
            raise _wrong() from None
        block = client_block(by.address)
        await self._throttle.demand(self._by_address, block)
        await self._throttle.demand(_BY_BOTH, f"{address} {block}")
        await self._throttle.demand(_BY_EMAIL, address)
        return await self._accounts.credentials(address)


def _wrong() -> Unauthenticated:
    return Unauthenticated("Incorrect e-mail or password.", reason="wrong_credentials")
