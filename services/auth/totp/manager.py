"""Checks codes, and lets owners enable TOTP.

An attacker who guesses codes knows the password already, so codes are limited per account, not per address. That cannot
lock an owner out permanently: a known device has limits of its own, and a new password starts a new count. An attacker
who reads the owner's e-mails can set many new passwords, so the codes for one secret are limited too.
"""

from collections.abc import Sequence
from datetime import timedelta

from services.auth.accounts.model import AccountId, Proof
from services.auth.audit import Actor
from services.auth.sessions.model import Session
from services.auth.sessions.rate_limiter import RateLimiter, RateLimitRule
from services.auth.totp.codes import Secret, is_recovery_code, new_recovery_codes, new_secret, normalized
from services.auth.totp.model import Enrolment, TOTPStore, already_enabled, code_wrong, not_enrolled
from services.auth.totp.vault import Vault
from services.common.ids import Kind, new_id
from services.common.runtime.clock import Clock, utc_now

_RULES = (
    RateLimitRule("codes in 15 minutes", tries_max=10, window_seconds=900),
    RateLimitRule("codes in a day", tries_max=100, window_seconds=86_400),
)
"""With three valid codes at a time, 100 guesses a day find one with a chance of 1 in 3,300."""
_OF_SECRET = RateLimitRule("codes for a secret in a day", tries_max=300, window_seconds=86_400)
"""With all passwords and devices. One password without a known device can use up a third of it."""
_ENROLMENT_LIFETIME = timedelta(hours=1)


class TOTPManager:
    """Enables, disables and checks the TOTP of accounts."""

    def __init__(self, store: TOTPStore, *, vault: Vault, rate_limiter: RateLimiter, clock: Clock, issuer: str) -> None:
        """Use `issuer` as the name of this service in authenticator apps."""
        self._store = store
        self._vault = vault
        self._rate_limiter = rate_limiter
        self._clock = clock
        self._issuer = issuer

    async def enabled_id(self, account_id: AccountId) -> str:
        """Return the id of the account's enabled enrolment; empty if log-ins need no code."""
        enrolment = await self._store.find(account_id)
        return enrolment.id if enrolment is not None and enrolment.is_enabled else ""

    async def recovery_codes(self, account_id: AccountId) -> int:
        """Return the number of unused recovery codes."""
        return await self._store.recovery_codes(account_id)

    async def enrol(self, session: Session, proof: Proof) -> tuple[Secret, str]:
        """Return a new secret, and its URL for a QR code.

        Raises:
            FailedPrecondition: The account has TOTP.
        """
        secret, account = new_secret(), session.account
        sealed = self._vault.seal(secret, account.id)
        enrolment = Enrolment(new_id(Kind.TOTP), account.id, sealed, utc_now(self._clock), is_enabled=False)
        await self._store.enrol(proof, enrolment)
        return secret, secret.url(account.email, self._issuer)

    async def enable(self, session: Session, code: str, *, by: Actor) -> Sequence[str]:
        """Enable the enrolment whose code the owner enters, and return recovery codes.

        Raises:
            PermissionDenied: The code is wrong.
            FailedPrecondition: There is no enrolment of the last hour, or the account has TOTP.
            Throttled: There were too many attempts.
        """
        enrolment, now = await self._store.find(session.account.id), utc_now(self._clock)
        if enrolment is not None and enrolment.is_enabled:
            raise already_enabled()
        if enrolment is None or now - enrolment.created_at > _ENROLMENT_LIFETIME:
            raise not_enrolled()
        await self._limit(session.id, enrolment, "")
        step = self._vault.open(enrolment.sealed, session.account.id).step_of(normalized(code), now=self._clock.now())
        if step is None:
            raise code_wrong()
        codes = new_recovery_codes()
        await self._store.enable(
            session.proof, enrolment, step, self._digests(codes, session.account.id), by=by, at=now
        )
        return codes

    async def check(
        self, account_id: AccountId, code: str, *, limit_key: str, password_hash: str | None, by: Actor
    ) -> str:
        """Use up a code, and return the id of the enrolment that it belongs to.

        Args:
            account_id: The account.
            code: A code of the app, or a recovery code, as typed.
            limit_key: What attempts are counted for: an account, a device or a session.
            password_hash: The account's password hash, with which the count starts over.
            by: The caller.

        Raises:
            PermissionDenied: The code is wrong or was used, or the account has no TOTP.
            Throttled: There were too many attempts.
        """
        enrolment = await self._store.find(account_id)
        if enrolment is None or not enrolment.is_enabled:
            raise code_wrong()
        await self._limit(limit_key, enrolment, password_hash or "")
        typed = normalized(code)
        is_right = await (
            self._use_recovery_code(account_id, typed, by) if is_recovery_code(typed) else self._use(enrolment, typed)
        )
        if not is_right:
            raise code_wrong()
        return enrolment.id

    async def replace_recovery_codes(self, proof: Proof, *, by: Actor) -> Sequence[str]:
        """Return new recovery codes. The caller has checked the password and a code."""
        codes = new_recovery_codes()
        await self._store.replace_recovery_codes(
            proof, self._digests(codes, proof.account_id), by=by, at=utc_now(self._clock)
        )
        return codes

    async def disable(self, proof: Proof, *, by: Actor) -> None:
        """Remove the secret and the recovery codes. The caller has checked the password and a code."""
        await self._store.disable(proof, by=by, at=utc_now(self._clock))

    async def _use(self, enrolment: Enrolment, code: str) -> bool:
        secret = self._vault.open(enrolment.sealed, enrolment.account_id)
        step = secret.step_of(code, now=self._clock.now())
        if step is None:
            return False
        # Sealed again, so that it is under the current pepper.
        sealed = self._vault.seal(secret, enrolment.account_id)
        return await self._store.use_step(enrolment, step, sealed=sealed)

    async def _use_recovery_code(self, account_id: AccountId, code: str, by: Actor) -> bool:
        digests = self._vault.digests(code, account_id)
        return await self._store.use_recovery_code(account_id, digests, by=by, at=utc_now(self._clock))

    async def _limit(self, key: str, enrolment: Enrolment, password_hash: str) -> None:
        for rule in _RULES:
            await self._rate_limiter.check(rule, f"{key} {enrolment.id} {password_hash}", client=key)
        await self._rate_limiter.check(_OF_SECRET, enrolment.id, client=key)

    def _digests(self, codes: Sequence[str], account_id: AccountId) -> Sequence[str]:
        return [self._vault.digests(normalized(code), account_id)[0] for code in codes]
