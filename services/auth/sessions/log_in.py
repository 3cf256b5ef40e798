"""Log-in and password confirmation.

Log-in attempts are limited per network address, and per account and address. There is no limit per account alone,
because an attacker with a few addresses could then lock the owner out. Known devices and open sessions have their own
limits. The keys of an account's limits include the password hash, so a new password resets them.
"""

from dataclasses import dataclass, field, replace
from datetime import timedelta

from services.auth.accounts.addresses import normalized_email
from services.auth.accounts.model import Account, AccountStore, Credentials, Proof
from services.auth.accounts.passwords import Passwords, password_wrong
from services.auth.audit import UNAUTHENTICATED, Actor
from services.auth.identities.authorization import identity_rejected
from services.auth.mail.mailer import Mailer
from services.auth.mail.queue import Topic, new_email
from services.auth.sessions.devices import Device, Devices
from services.auth.sessions.manager import SessionManager
from services.auth.sessions.model import OpenSession, Session
from services.auth.sessions.rate_limiter import RateLimiter, RateLimitRule
from services.auth.totp.manager import TOTPManager
from services.auth.totp.pending import PendingLogIn, PendingLogIns, log_in_expired
from services.common.address_prefix import address_prefix
from services.common.errors import FailedPrecondition, InvalidRequest, PermissionDenied, Unauthenticated
from services.common.runtime.clock import Clock, utc_now

_WINDOW_SECONDS = 900
_BY_ACCOUNT_AND_ADDRESS = RateLimitRule(
    "log-ins to an account from an address", tries_max=10, window_seconds=_WINDOW_SECONDS
)
_BY_DEVICE = RateLimitRule("log-ins to an account from its device", tries_max=10, window_seconds=_WINDOW_SECONDS)
_BY_SESSION = RateLimitRule("proofs of a password in a session", tries_max=10, window_seconds=_WINDOW_SECONDS)
_NEW_SESSION = timedelta(minutes=10)
"""Age of a session up to which it stands for the password of an account that has none."""
_FAILURES_NOTIFIED = 20
_FAILURES = RateLimitRule("failed log-ins to an account", tries_max=_FAILURES_NOTIFIED, window_seconds=86_400)
"""The owner gets an e-mail at the 20th failure within a day, so at most one e-mail a day."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A new session and the device token."""

    opened: OpenSession
    device_token: str = field(repr=False)


class LogIn:
    """Checks passwords and opens sessions."""

    def __init__(
        self,
        accounts: AccountStore,
        sessions: SessionManager,
        *,
        passwords: Passwords,
        rate_limiter: RateLimiter,
        devices: Devices,
        totp: TOTPManager,
        pending: PendingLogIns,
        mailer: Mailer,
        clock: Clock,
        log_ins_per_address_max: int,
    ) -> None:
        """Allow `log_ins_per_address_max` attempts per network address in 15 minutes."""
        self._accounts = accounts
        self._sessions = sessions
        self._passwords = passwords
        self._rate_limiter = rate_limiter
        self._devices = devices
        self._totp = totp
        self._pending = pending
        self._mailer = mailer
        self._clock = clock
        self._by_address = RateLimitRule("log-ins from an address", log_ins_per_address_max, _WINDOW_SECONDS)

    async def log_in(
        self, email: str, password: str, *, replaced_token: str, device_token: str = "", by: Actor
    ) -> LoggedIn | PendingLogIn:
        """Check a password and open a session. If the account has TOTP, the log-in is pending instead.

        Args:
            email: The account's e-mail address.
            password: The account's password.
            replaced_token: Token of a session to end; empty for none.
            device_token: Device token from an earlier log-in; empty for none.
            by: The caller.

        Raises:
            Unauthenticated: The e-mail or the password is wrong. Response times do not reveal which.
            FailedPrecondition: Both are correct, but the e-mail is not verified yet.
            Throttled: There were too many attempts.
        """
        proof = await self.prove_password(email, password, device_token=device_token, by=by)
        return await self.finish(proof, replaced_token=replaced_token, device_token=device_token, by=by)

    async def prove_password(self, email: str, password: str, *, device_token: str, by: Actor) -> Proof:
        """Check a password and return a proof of it. Raises the exceptions of `log_in`."""
        address = _normalized(email)
        credentials = await self._credentials(address, self._devices.read(device_token), address_prefix(by.address))
        if not await self._matches(password, credentials, email=address, by=by):
            raise _wrong_credentials()
        assert credentials is not None, "a password cannot match without an account"
        account = credentials.account
        if self._mailer.has_mail and account.email_verified_at is None:
            raise FailedPrecondition(
                "Your e-mail address is not confirmed. Open the link in the e-mail that we sent to you.",
                reason="email_unverified",
            )
        return Proof(account.id, password_hash=credentials.password_hash)

    async def finish(
        self, proof: Proof, *, replaced_token: str, device_token: str, by: Actor
    ) -> LoggedIn | PendingLogIn:
        """Open a session, or return a pending log-in if the account has TOTP. Raises the exceptions of `open`."""
        if await self._totp.enabled_id(proof.account_id):
            credentials = await self._accounts.credentials(proof.account_id)
            return self._pending.start(proof, credentials.password_hash if credentials else None)
        return await self.open(proof, replaced_token=replaced_token, device_token=device_token, by=by)

    async def complete(
        self, pending_token: str, code: str, *, replaced_token: str, device_token: str, by: Actor
    ) -> LoggedIn:
        """Check a code and open the session of a pending log-in.

        Raises:
            Unauthenticated: The pending log-in has expired, or the password has changed since.
            PermissionDenied: The code is wrong or was used.
            Throttled: There were too many attempts.
        """
        proof = await self.prove_code(self._pending, pending_token, code, device_token=device_token, by=by)
        return await self.open(proof, replaced_token=replaced_token, device_token=device_token, by=by)

    async def prove_code(
        self, pending: PendingLogIns, pending_token: str, code: str, *, device_token: str, by: Actor
    ) -> Proof:
        """Check the code of a log-in among `pending` and return a proof of it, and of what was proved before.

        Raises the exceptions of `complete`.
        """
        account_id = pending.account_of(pending_token)
        credentials = await self._accounts.credentials(account_id)
        if credentials is None:
            raise log_in_expired()
        proof = pending.proof(pending_token, credentials.password_hash)
        totp_id = await self._check_code(credentials, code, device_token, by)
        return replace(proof, totp_id=totp_id)

    async def _check_code(self, credentials: Credentials, code: str, device_token: str, by: Actor) -> str:
        """Check a code, and count a failure as a failed log-in. Known devices have their own limits."""
        account, device = credentials.account, self._devices.read(device_token)
        is_known = device is not None and device.account_id == account.id
        try:
            return await self._totp.check(
                account.id,
                code,
                limit_key=device.id if device is not None and is_known else account.id,
                password_hash=credentials.password_hash,
                by=by,
            )
        except PermissionDenied:
            await self._count_failure(account.email, account, by)
            raise

    async def open(self, proof: Proof, *, by: Actor, replaced_token: str = "", device_token: str = "") -> LoggedIn:
        """Open a session for a caller who has just proved the password or an identity.

        Raises:
            Unauthenticated: The password was changed or the account deleted in the meantime.
            PermissionDenied: The identity was unlinked in the meantime.
        """
        try:
            opened = await self._sessions.open(proof, by=by, replaced_token=replaced_token)
        except (PermissionDenied, Unauthenticated) as exc:
            if exc.reason == log_in_expired().reason:
                raise
            raise (identity_rejected() if proof.identity_id else _wrong_credentials()) from exc
        device = self._devices.read(device_token)
        is_known = device is not None and device.account_id == proof.account_id
        return LoggedIn(opened, device_token if is_known else self._devices.mint(proof.account_id))

    async def check_client(self, device_token: str, *, by: Actor) -> None:
        """Count an attempt to log in without a password, for the device or else for the network address.

        Raises:
            Throttled: There were too many attempts.
        """
        device, client = self._devices.read(device_token), address_prefix(by.address)
        if device is not None:
            await self._rate_limiter.check(_BY_DEVICE, device.id, client=device.id)
        else:
            await self._rate_limiter.check(self._by_address, client, client=client)

    def device_token(self, account: Account) -> str:
        """Return a device token for an owner who was authenticated by other means than the password."""
        return self._devices.mint(account.id)

    async def change_password(self, session: Session, current: str, new: str, *, by: Actor) -> None:
        """Replace the password, or choose the first one, and end all other sessions.

        Raises:
            InvalidRequest: The new password is too short or too long.
            PermissionDenied: The current password is wrong, or was changed in the meantime.
            FailedPrecondition: The account has no password, and the session is not new.
            Throttled: There were too many attempts.
            Unauthenticated: The session ended in the meantime.
        """
        proof = await self.prove(session, current, by=by)
        new_hash = await self._passwords.hash(new, client=address_prefix(by.address))
        await self._accounts.set_password(proof, new_hash, by=by, at=utc_now(self._clock))

    async def delete_account(self, session: Session, password: str, *, by: Actor) -> None:
        """Delete the session's account. Raises the exceptions of `change_password`, except `InvalidRequest`."""
        proof = await self.prove(session, password, by=by)
        await self._accounts.delete(session.account.id, by=by, at=utc_now(self._clock), proof=proof)

    async def prove(self, session: Session, password: str, *, by: Actor) -> Proof:
        """Check the password and return a proof of it and of the session. Attempts are limited per session.

        An account without a password needs a session that was opened within ten minutes instead.

        Raises:
            PermissionDenied: The password is wrong.
            FailedPrecondition: The account has no password, and the session is not new.
            Throttled: There were too many attempts.
        """
        credentials = await self._accounts.credentials(session.account.id)
        if credentials is None:
            raise password_wrong()
        if credentials.password_hash is None:
            return self._prove_new_session(session)
        key = f"{session.id} {credentials.password_hash}"
        await self._rate_limiter.check(_BY_SESSION, key, client=session.id)
        if not await self._matches(password, credentials, email=session.account.email, by=by):
            raise password_wrong()
        return replace(session.proof, password_hash=credentials.password_hash)

    def _prove_new_session(self, session: Session) -> Proof:
        if utc_now(self._clock) - session.created_at > _NEW_SESSION:
            raise FailedPrecondition(
                "Your account has no password to confirm this with. Log out, log in again, and repeat this within ten "
                "minutes.",
                reason="new_session_needed",
            )
        return session.proof

    async def _credentials(self, address: str, device: Device | None, client: str) -> Credentials | None:
        """Apply the rate limits and return the account's credentials, or None if there is no such account."""
        if device is not None:
            credentials = await self._accounts.credentials(address)
            if credentials is not None and credentials.account.id == device.account_id:
                await self._rate_limiter.check(_BY_DEVICE, f"{device.id} {credentials.password_hash}", client=device.id)
                return credentials
        await self._rate_limiter.check(self._by_address, client, client=client)
        credentials = await self._accounts.credentials(address)
        password_hash = credentials.password_hash if credentials else ""
        await self._rate_limiter.check(_BY_ACCOUNT_AND_ADDRESS, f"{address} {client} {password_hash}", client=client)
        return credentials

    async def _matches(self, password: str, credentials: Credentials | None, *, email: str, by: Actor) -> bool:
        """Check a password and count a failure. An unknown e-mail costs the same as a known one."""
        client = address_prefix(by.address)
        password_hash = credentials.password_hash if credentials else None
        if await self._passwords.matches(password, password_hash, client=client):
            return True
        await self._count_failure(email, credentials.account if credentials else None, by)
        return False

    async def _count_failure(self, email: str, account: Account | None, by: Actor) -> None:
        """Count a failed log-in, and notify the owner at the twentieth of a day."""
        failures = await self._rate_limiter.count(_FAILURES, email, client=address_prefix(by.address))
        if account is not None and failures == _FAILURES_NOTIFIED:
            await self._notify_owner(account, by)

    async def _notify_owner(self, account: Account, by: Actor) -> None:
        """Report many failed log-ins to the account owner, in the audit log and by e-mail."""
        unauthenticated = replace(by, name=UNAUTHENTICATED)
        await self._accounts.note_failed_log_ins(
            account.id, _FAILURES_NOTIFIED, by=unauthenticated, at=utc_now(self._clock)
        )
        await self._mailer.add(new_email(Topic.FAILED_LOG_INS, account.email, by=unauthenticated, clock=self._clock))


def _normalized(email: str) -> str:
    try:
        return normalized_email(email)
    except InvalidRequest:
        raise _wrong_credentials() from None


def _wrong_credentials() -> Unauthenticated:
    return Unauthenticated("Incorrect e-mail or password.", reason="wrong_credentials")
