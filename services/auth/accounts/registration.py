"""Sign-up, e-mail verification and password reset.

If mail is configured, responses never reveal whether an e-mail address has an account: content and timing are the same,
and only the e-mails differ. If it is not, sign-up has to reveal it.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum

from services.auth.accounts.addresses import domain_of, identity_of, normalized_email
from services.auth.accounts.model import FREE_PLAN, Account, AccountStore, NewAccount, Proof, open_account
from services.auth.accounts.passwords import Passwords
from services.auth.accounts.plans import Plan, PlanStore
from services.auth.audit import UNAUTHENTICATED, Actor
from services.auth.identities.provider import ProviderIdentity
from services.auth.keys.pepper import Pepper
from services.auth.mail.mailer import Mailer
from services.auth.mail.queue import Topic, new_email
from services.auth.sessions.one_time_tokens import OneTimeTokenStore, token_digest
from services.auth.sessions.rate_limiter import RateLimiter, RateLimitRule
from services.common.address_prefix import address_prefix
from services.common.errors import AlreadyExists, InvalidRequest, PermissionDenied
from services.common.runtime.clock import Clock, utc_now

_HOUR_SECONDS = 3_600
_EMAILS = RateLimitRule("e-mails to a mailbox", tries_max=5, window_seconds=_HOUR_SECONDS)
_TOKENS = RateLimitRule("tokens from an address", tries_max=60, window_seconds=_HOUR_SECONDS)


class SignUpPolicy(StrEnum):
    """Policies for sign-up, the values of `AUTH_SIGN_UP`."""

    OPEN = "open"
    INVITE = "invite"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Admission:
    """Rules for sign-up. An invitation overrides the domain and alias rules, because an operator issued it."""

    policy: SignUpPolicy
    domains: frozenset[str] = frozenset()
    """Domains, in punycode, that may sign up; empty allows every domain."""
    folds_aliases: bool = True
    """Whether to allow one account per mailbox while the policy is `open`."""

    @property
    def is_one_per_mailbox(self) -> bool:
        """Whether a mailbox can have only one account."""
        return self.folds_aliases and self.policy is SignUpPolicy.OPEN

    def check(self, address: str) -> None:
        """Check that the domain of a normalized address may sign up.

        Raises:
            PermissionDenied: The domain is not allowed.
        """
        if self.domains and domain_of(address) not in self.domains:
            raise PermissionDenied(
                "Sign-up is limited to certain e-mail domains, and this address is not in one of them. Use another "
                "address, or ask the operator for an invitation.",
                reason="domain_not_allowed",
            )


@dataclass(frozen=True, slots=True)
class Stores:
    """Stores used by `Registration`."""

    accounts: AccountStore
    tokens: OneTimeTokenStore
    plans: PlanStore


class Registration:
    """Creates accounts for users, verifies e-mails and resets passwords."""

    def __init__(
        self,
        stores: Stores,
        *,
        passwords: Passwords,
        rate_limiter: RateLimiter,
        mailer: Mailer,
        pepper: Pepper,
        clock: Clock,
        admission: Admission,
        sign_ups_per_address_max: int,
    ) -> None:
        """Allow `sign_ups_per_address_max` sign-ups and e-mail requests per network address and hour."""
        self._stores = stores
        self._passwords = passwords
        self._rate_limiter = rate_limiter
        self._mailer = mailer
        self._pepper = pepper
        self._clock = clock
        self._admission = admission
        self._by_address = RateLimitRule("sign-ups from an address", sign_ups_per_address_max, _HOUR_SECONDS)

    @property
    def policy(self) -> SignUpPolicy:
        """The sign-up policy."""
        return self._admission.policy

    @property
    def has_mail(self) -> bool:
        """Whether mail is configured, so that e-mails are verified and users can reset their password."""
        return self._mailer.has_mail

    async def plan(self, invite: str) -> Plan:
        """Return the plan for a sign-up with this invitation; the free plan if it is empty or invalid."""
        with suppress(InvalidRequest):
            digest = token_digest(invite, pepper=self._pepper)
            if plan := await self._stores.tokens.plan_of(digest, now=utc_now(self._clock)):
                return await self._stores.plans.get(plan)
        return await self._stores.plans.get(FREE_PLAN)

    async def sign_up(self, email: str, password: str, *, invite: str, by: Actor) -> Proof | None:
        """Create an account and return a proof of its password, or None if the e-mail must be verified first.

        The e-mail must be verified if mail is configured.

        Raises:
            PermissionDenied: The sign-up policy does not allow this sign-up.
            InvalidRequest: The e-mail, password or invitation is invalid, or the mail server does not support the
                address.
            AlreadyExists: The e-mail or its mailbox already has an account; only if mail is not configured.
            Throttled: There were too many attempts.
        """
        new, client = await self._admit(email, invite, by), address_prefix(by.address)
        await self._mailer.check_deliverable(new.account.email)
        password_hash = await self._passwords.hash(password, client=client)
        new = replace(new, password_hash=password_hash)
        if self.has_mail:
            await self._sign_up_by_mail(new, by, client)
            return None
        account = await self._stores.accounts.add(new, by=by)
        return Proof(account.id, password_hash=password_hash)

    async def sign_up_with_identity(self, identity: ProviderIdentity, *, invite: str, by: Actor) -> None:
        """Create an account without a password for an identity whose provider states its e-mail as verified.

        The account's e-mail is not verified by this, so that no further identity is linked to the account by its
        address.

        Raises:
            PermissionDenied: The sign-up policy does not allow this sign-up.
            InvalidRequest: The e-mail or the invitation is invalid.
            AlreadyExists: The e-mail, its mailbox or the identity already has an account.
            Throttled: There were too many attempts.
        """
        new = await self._admit(identity.email, invite, by)
        await self._stores.accounts.add(replace(new, identity=identity), by=by)

    async def _admit(self, email: str, invite: str, by: Actor) -> NewAccount:
        """Apply the policy and the rate limit of sign-ups, and return the account to store."""
        invite_digest = self._check_policy(invite)
        account = open_account(email, now=utc_now(self._clock))
        if invite_digest is None:
            self._admission.check(account.email)
        client = address_prefix(by.address)
        await self._rate_limiter.check(self._by_address, client, client=client)
        return NewAccount(account, invite=invite_digest, is_one_per_mailbox=self._is_one_per_mailbox(invite))

    def _is_one_per_mailbox(self, invite: str) -> bool:
        return self._admission.is_one_per_mailbox and not invite.strip()

    async def _sign_up_by_mail(self, new: NewAccount, by: Actor, client: str) -> None:
        """Create an account and queue its verification e-mail, or queue a notice to the owner of the existing account.

        Both cases commit one transaction, so response times do not reveal whether the address has an account.
        """
        address = new.account.email
        requested = await self._rate_limiter.count(_EMAILS, identity_of(address), client=client)
        queued = new_email(Topic.SIGN_UP, address, by=by, clock=self._clock, opened_account_id=new.account.id)
        try:
            await self._stores.accounts.add(replace(new, queued_email=queued), by=by)
        except AlreadyExists:
            if requested <= _EMAILS.tries_max:
                unauthenticated = replace(by, name=UNAUTHENTICATED)
                await self._mailer.add(replace(queued, opened_account_id=None, by=unauthenticated))
        self._mailer.notify()

    async def send_verification(self, email: str, *, by: Actor) -> None:
        """E-mail an unverified account a link to choose a password, which also verifies the address.

        Raises the exceptions of `send_password_reset`.
        """
        await self._queue(Topic.VERIFICATION, email, by)

    async def verify_email(self, token: str, *, by: Actor) -> str:
        """Verify the e-mail address of an account with the token that was sent to it, and return the address.

        Raises:
            InvalidRequest: The token is invalid.
            Throttled: There were too many attempts.
        """
        client = address_prefix(by.address)
        await self._rate_limiter.check(_TOKENS, client, client=client)
        digest = token_digest(token, pepper=self._pepper)
        return await self._stores.accounts.verify_email(digest, by=by, at=utc_now(self._clock))

    async def send_password_reset(self, email: str, *, by: Actor) -> None:
        """Send a link to choose a new password, if the e-mail address has an account.

        Raises:
            FailedPrecondition: Mail is not configured.
            InvalidRequest: The text is not an e-mail address.
            Throttled: There were too many attempts.
        """
        await self._queue(Topic.PASSWORD_RESET, email, by)

    async def reset_password(self, token: str, password: str, *, by: Actor) -> Account:
        """Replace a forgotten password, which also verifies the e-mail and ends all sessions, and return the account.

        Raises:
            InvalidRequest: The token is invalid, or the password is too short or too long.
            Throttled: There were too many attempts.
        """
        client = address_prefix(by.address)
        await self._rate_limiter.check(_TOKENS, client, client=client)
        digest = token_digest(token, pepper=self._pepper)
        password_hash = await self._passwords.hash(password, client=client)
        return await self._stores.accounts.reset_password(digest, password_hash, by=by, at=utc_now(self._clock))

    def _check_policy(self, invite: str) -> str | None:
        """Apply the sign-up policy, and return the digest of the invitation to redeem, or None without one."""
        if self.policy is SignUpPolicy.CLOSED:
            raise PermissionDenied("Sign-up is closed. Ask the operator for an account.", reason="sign_up_closed")
        if self.policy is SignUpPolicy.INVITE and not invite.strip():
            raise PermissionDenied("Sign-up requires an invitation. Ask the operator for one.", reason="invite_needed")
        return token_digest(invite, pepper=self._pepper) if invite.strip() else None

    async def _queue(self, topic: Topic, email: str, by: Actor) -> None:
        """Queue an e-mail to an address whether or not it has an account; the mailer decides later what to send."""
        self._mailer.require_mail()
        address = normalized_email(email)
        client = address_prefix(by.address)
        await self._rate_limiter.check(self._by_address, client, client=client)
        await self._rate_limiter.check(_EMAILS, identity_of(address), client=client)
        unauthenticated = replace(by, name=UNAUTHENTICATED)
        await self._mailer.add(new_email(topic, address, by=unauthenticated, clock=self._clock))
