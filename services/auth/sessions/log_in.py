"""Logging in, and proving the password again: e-mail and password for a session.

Guesses are counted for each network address, and for each account and address. No count of an account alone refuses a
log-in: an attacker with a few addresses could otherwise lock the owner out. A device that logged in before, and an
owner who is logged in, have counts of their own. The account's counts name the password's hash, so a new password
starts them again.
"""

from dataclasses import dataclass, field, replace

from services.auth.accounts.addresses import normalised_email
from services.auth.accounts.model import Account, AccountStore, Credentials, Proof
from services.auth.accounts.passwords import Passwords, password_wrong
from services.auth.audit import STRANGER, Actor
from services.auth.mail.mailer import Mailer
from services.auth.mail.queue import Topic, new_email
from services.auth.sessions.devices import Device, Devices
from services.auth.sessions.model import OpenSession, Session, Sessions
from services.auth.sessions.rate_limiter import RateLimiter, Rule
from services.common.address_prefix import address_prefix
from services.common.errors import FailedPrecondition, InvalidRequest, PermissionDenied, Unauthenticated
from services.common.runtime.clock import Clock, utc_now

_QUARTER_SECONDS = 900
_BY_ACCOUNT_AND_ADDRESS = Rule("log-ins to an account from an address", tries_max=10, window_seconds=_QUARTER_SECONDS)
_BY_DEVICE = Rule("log-ins to an account from its device", tries_max=10, window_seconds=_QUARTER_SECONDS)
_BY_SESSION = Rule("proofs of a password in a session", tries_max=10, window_seconds=_QUARTER_SECONDS)
_FAILURES_TOLD = 20
_FAILURES = Rule("failed log-ins to an account", tries_max=_FAILURES_TOLD, window_seconds=86_400)
"""The owner gets an e-mail at the twentieth failure within a day, so at most one a day."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A new session, and what the device keeps to be known again."""

    opened: OpenSession
    device_token: str = field(repr=False)


class LogIn:
    """Checks passwords."""

    def __init__(
        self,
        accounts: AccountStore,
        sessions: Sessions,
        *,
        passwords: Passwords,
        throttle: RateLimiter,
        devices: Devices,
        mailer: Mailer,
        clock: Clock,
        log_ins_per_address_max: int,
    ) -> None:
        """Wire the parts; an address may try `log_ins_per_address_max` times in 15 minutes."""
        self._accounts = accounts
        self._sessions = sessions
        self._passwords = passwords
        self._throttle = throttle
        self._devices = devices
        self._mailer = mailer
        self._clock = clock
        self._by_address = Rule("log-ins from an address", log_ins_per_address_max, _QUARTER_SECONDS)

    async def log_in(
        self, email: str, password: str, *, replaced_token: str, device_token: str = "", by: Actor
    ) -> LoggedIn:
        """Open a session.

        Args:
            email: The account's e-mail address.
            password: Its password.
            replaced_token: Token of a session that ends; empty for none.
            device_token: What an earlier log-in gave this device; empty for none.
            by: Who tries, and from where.

        Raises:
            Unauthenticated: The e-mail or the password is wrong; an unknown e-mail takes as long.
            FailedPrecondition: They are right, but the e-mail must be verified first.
            Throttled: Too many tries.
        """
        address = _normalised(email)
        credentials = await self._credentials(address, self._devices.read(device_token), address_prefix(by.address))
        if not await self._matches(password, credentials, email=address, by=by):
            raise _wrong()
        assert credentials is not None, "a password matches no account that is not known"
        account = credentials.account
        if self._mailer.has_mail and account.email_verified_at is None:
            raise FailedPrecondition(
                "Confirm your e-mail address first: open the page that was mailed to you.", reason="email_unverified"
            )
        proof = Proof(account.id, password_hash=credentials.password_hash)
        return await self.open(proof, replaced_token=replaced_token, device_token=device_token, by=by)

    async def open(self, proof: Proof, *, by: Actor, replaced_token: str = "", device_token: str = "") -> LoggedIn:
        """Open a session on a password that was just proved.

        Raises:
            Unauthenticated: The password was replaced, or the account deleted, in the meantime.
        """
        try:
            opened = await self._sessions.open(proof, by=by, replaced_token=replaced_token)
        except (PermissionDenied, Unauthenticated) as exc:
            raise _wrong() from exc
        device = self._devices.read(device_token)
        is_known = device is not None and device.account_id == proof.account_id
        return LoggedIn(opened, device_token if is_known else self._devices.mint(proof.account_id))

    def device_token(self, account: Account) -> str:
        """Return a token for a device that has just proved to be the owner's by other means than the password."""
        return self._devices.mint(account.id)

    async def change_password(self, session: Session, current: str, new: str, *, by: Actor) -> None:
        """Replace the password and end all other sessions.

        Raises:
            InvalidRequest: The new password cannot be accepted.
            PermissionDenied: The current password is wrong, or was replaced before this change was made.
            Throttled: Too many tries.
            Unauthenticated: The session ended before the change was made.
        """
        proof = await self._prove(session, current, by=by)
        new_hash = await self._passwords.hash(new, client=address_prefix(by.address))
        await self._accounts.set_password(proof, new_hash, by=by, at=utc_now(self._clock))

    async def delete_account(self, session: Session, password: str, *, by: Actor) -> None:
        """Delete the session's account; raises as `change_password`."""
        proof = await self._prove(session, password, by=by)
        await self._accounts.delete(session.account.id, by=by, at=utc_now(self._clock), proof=proof)

    async def _prove(self, session: Session, password: str, *, by: Actor) -> Proof:
        """Return the proof of a session and its account's password; strangers' guesses are not counted against it."""
        credentials = await self._accounts.credentials(session.account.id)
        if credentials is None:
            raise password_wrong()
        who = f"{session.id} {credentials.password_hash}"
        await self._throttle.check(_BY_SESSION, who, client=session.id)
        if not await self._matches(password, credentials, email=session.account.email, by=by):
            raise password_wrong()
        return replace(session.proof, password_hash=credentials.password_hash)

    async def _credentials(self, address: str, device: Device | None, client: str) -> Credentials | None:
        """Count a try and return what the password is compared with; None when there is no such account."""
        if device is not None:
            credentials = await self._accounts.credentials(address)
            if credentials is not None and credentials.account.id == device.account_id:
                await self._throttle.check(_BY_DEVICE, f"{device.id} {credentials.password_hash}", client=device.id)
                return credentials
        await self._throttle.check(self._by_address, client, client=client)
        credentials = await self._accounts.credentials(address)
        known = credentials.password_hash if credentials else ""
        await self._throttle.check(_BY_ACCOUNT_AND_ADDRESS, f"{address} {client} {known}", client=client)
        return credentials

    async def _matches(self, password: str, credentials: Credentials | None, *, email: str, by: Actor) -> bool:
        """Compare a password, and count a wrong one; an e-mail that is not known costs as much as one that is."""
        client = address_prefix(by.address)
        password_hash = credentials.password_hash if credentials else None
        if await self._passwords.matches(password, password_hash, client=client):
            return True
        failures = await self._throttle.count(_FAILURES, email, client=client)
        if credentials is not None and failures == _FAILURES_TOLD:
            await self._tell_owner(credentials.account, by)
        return False

    async def _tell_owner(self, account: Account, by: Actor) -> None:
        """Tell an owner that many wrong passwords were tried, in the audit log and by e-mail."""
        stranger = replace(by, name=STRANGER)
        await self._accounts.note_failed_log_ins(account.id, _FAILURES_TOLD, by=stranger, at=utc_now(self._clock))
        await self._mailer.add(new_email(Topic.FAILED_LOG_INS, account.email, by=stranger, clock=self._clock))


def _normalised(email: str) -> str:
    try:
        return normalised_email(email)
    except InvalidRequest:
        raise _wrong() from None


def _wrong() -> Unauthenticated:
    return Unauthenticated("Incorrect e-mail or password.", reason="wrong_credentials")
