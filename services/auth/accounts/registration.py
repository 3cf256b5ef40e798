"""How a person becomes an account's owner: signing up, proving the e-mail, and a new password for a forgotten one.

Where mail is configured, nothing here tells whether an e-mail has an account: the answers are the same and take as
long, and what differs is mailed. Where it is not, signing up is the one answer that has to tell.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum

from services.auth.accounts.addresses import domain_of, identity_of, normalised_email
from services.auth.accounts.model import FREE_PLAN, Account, AccountStore, NewAccount, Proof, open_account
from services.auth.accounts.passwords import Passwords
from services.auth.accounts.plans import Plan, PlanStore
from services.auth.audit import STRANGER, Actor
from services.auth.keys.pepper import Pepper
from services.auth.mail.mailer import Mailer
from services.auth.mail.queue import Topic, new_email
from services.auth.sessions.one_time_tokens import OneTimeTokenStore, token_digest
from services.auth.sessions.rate_limiter import RateLimiter, Rule
from services.common.address_prefix import address_prefix
from services.common.errors import AlreadyExists, InvalidRequest, PermissionDenied
from services.common.runtime.clock import Clock, utc_now

_HOUR_SECONDS = 3_600
_EMAILS = Rule("e-mails to a mailbox", tries_max=5, window_seconds=_HOUR_SECONDS)
_TOKENS = Rule("tokens from an address", tries_max=60, window_seconds=_HOUR_SECONDS)


class SignUpPolicy(StrEnum):
    """Who may sign up."""

    OPEN = "open"
    INVITE = "invite"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Admission:
    """Who may sign up. An invitation overrides the domain and alias rules, because an operator issued it."""

    policy: SignUpPolicy
    domains: frozenset[str] = frozenset()
    """Domains, in punycode, whose addresses may sign up; none at all allows every domain."""
    folds_aliases: bool = True
    """Whether addresses of one mailbox open one account, where anybody may sign up."""

    @property
    def is_one_per_mailbox(self) -> bool:
        """Whether a mailbox that has an account cannot open another."""
        return self.folds_aliases and self.policy is SignUpPolicy.OPEN

    def check(self, address: str) -> None:
        """Return when the domain of a normalised address may sign up.

        Raises:
            PermissionDenied: It may not.
        """
        if self.domains and domain_of(address) not in self.domains:
            raise PermissionDenied(
                "Only addresses of certain domains may sign up here. Use yours there, or ask the operator for an "
                "invitation.",
                reason="domain_not_allowed",
            )


@dataclass(frozen=True, slots=True)
class Stores:
    """What registration remembers."""

    accounts: AccountStore
    tokens: OneTimeTokenStore
    plans: PlanStore


class Registration:
    """Lets people in for the first time, and in again."""

    def __init__(
        self,
        stores: Stores,
        *,
        passwords: Passwords,
        throttle: RateLimiter,
        mailer: Mailer,
        pepper: Pepper,
        clock: Clock,
        admission: Admission,
        sign_ups_per_address_max: int,
    ) -> None:
        """Wire the parts; an address may sign up, or request e-mails, `sign_ups_per_address_max` times an hour."""
        self._stores = stores
        self._passwords = passwords
        self._throttle = throttle
        self._mailer = mailer
        self._pepper = pepper
        self._clock = clock
        self._admission = admission
        self._by_address = Rule("sign-ups from an address", sign_ups_per_address_max, _HOUR_SECONDS)

    @property
    def policy(self) -> SignUpPolicy:
        """Who may sign up."""
        return self._admission.policy

    @property
    def has_mail(self) -> bool:
        """Whether e-mails are verified, and forgotten passwords reset."""
        return self._mailer.has_mail

    async def plan(self, invite: str) -> Plan:
        """Return the plan of an account that signs up now: the invitation's, or the free one without a good one."""
        with suppress(InvalidRequest):
            digest = token_digest(invite, pepper=self._pepper)
            if plan := await self._stores.tokens.plan_of(digest, now=utc_now(self._clock)):
                return await self._stores.plans.get(plan)
        return await self._stores.plans.get(FREE_PLAN)

    async def sign_up(self, email: str, password: str, *, invite: str, by: Actor) -> Proof | None:
        """Open an account and return what its owner has proved: the password that was just chosen.

        None where mail is configured: the account then needs the link in the verification e-mail.

        Raises:
            PermissionDenied: Sign-up is not open to this person.
            InvalidRequest: The e-mail, password or invitation cannot be accepted, or no mail can be sent to the e-mail.
            AlreadyExists: The e-mail has an account; only where mail is not configured.
            Throttled: Too many tries.
        """
        invite_digest = self._admit(invite)
        account = open_account(email, now=utc_now(self._clock))
        if invite_digest is None:
            self._admission.check(account.email)
        client = address_prefix(by.address)
        await self._throttle.check(self._by_address, client, client=client)
        await self._mailer.require_reach(account.email)
        password_hash = await self._passwords.hash(password, client=client)
        new = NewAccount(account, password_hash, invite_digest, is_one_per_mailbox=self._is_one_per_mailbox(invite))
        if self.has_mail:
            await self._sign_up_by_mail(new, by, client)
            return None
        account = await self._stores.accounts.add(new, by=by)
        return Proof(account.id, password_hash=password_hash)

    def _is_one_per_mailbox(self, invite: str) -> bool:
        return self._admission.is_one_per_mailbox and not invite.strip()

    async def _sign_up_by_mail(self, new: NewAccount, by: Actor, client: str) -> None:
        """Open an account and queue its verification e-mail, or queue a notice to the owner of the existing account.

        Both cases commit one transaction, so response times do not reveal whether the address has an account.
        """
        address = new.account.email
        requested = await self._throttle.count(_EMAILS, identity_of(address), client=client)
        queued = new_email(Topic.SIGN_UP, address, by=by, clock=self._clock, opened_account_id=new.account.id)
        try:
            await self._stores.accounts.add(replace(new, queued_email=queued), by=by)
        except AlreadyExists:
            if requested <= _EMAILS.tries_max:
                unauthenticated = replace(by, name=STRANGER)
                await self._mailer.add(replace(queued, opened_account_id=None, by=unauthenticated))
        self._mailer.notify()

    async def send_verification(self, email: str, *, by: Actor) -> None:
        """E-mail an unverified account a link to choose a password, which verifies it; raises as the next method."""
        await self._queue(Topic.VERIFICATION, email, by)

    async def verify_email(self, token: str, *, by: Actor) -> str:
        """Note that the owner of a mailed token reads the e-mail, and return that e-mail.

        Raises:
            InvalidRequest: The token is not good.
            Throttled: Too many tries.
        """
        client = address_prefix(by.address)
        await self._throttle.check(_TOKENS, client, client=client)
        digest = token_digest(token, pepper=self._pepper)
        return await self._stores.accounts.verify_email(digest, by=by, at=utc_now(self._clock))

    async def send_password_reset(self, email: str, *, by: Actor) -> None:
        """Mail a token for a new password, if the e-mail has an account.

        Raises:
            FailedPrecondition: Mail is not configured.
            InvalidRequest: That is no e-mail.
            Throttled: Too many tries.
        """
        await self._queue(Topic.PASSWORD_RESET, email, by)

    async def reset_password(self, token: str, password: str, *, by: Actor) -> Account:
        """Replace a forgotten password, which also proves the e-mail and ends all sessions; return the account.

        Raises:
            InvalidRequest: The token is not good, or the password cannot be accepted.
            Throttled: Too many tries.
        """
        client = address_prefix(by.address)
        await self._throttle.check(_TOKENS, client, client=client)
        digest = token_digest(token, pepper=self._pepper)
        password_hash = await self._passwords.hash(password, client=client)
        return await self._stores.accounts.reset_password(digest, password_hash, by=by, at=utc_now(self._clock))

    def _admit(self, invite: str) -> str | None:
        """Return the digest of the invitation to use up; None when none is needed."""
        if self.policy is SignUpPolicy.CLOSED:
            raise PermissionDenied("sign-up is closed here; ask the operator for an account", reason="sign_up_closed")
        if self.policy is SignUpPolicy.INVITE and not invite.strip():
            raise PermissionDenied("sign-up needs an invitation; ask the operator for one", reason="invite_needed")
        return token_digest(invite, pepper=self._pepper) if invite.strip() else None

    async def _queue(self, topic: Topic, email: str, by: Actor) -> None:
        """Queue an e-mail to an address whether or not it has an account; the mailer decides later what to send."""
        self._mailer.require_mail()
        address = normalised_email(email)
        client = address_prefix(by.address)
        await self._throttle.check(self._by_address, client, client=client)
        await self._throttle.check(_EMAILS, identity_of(address), client=client)
        unauthenticated = replace(by, name=STRANGER)
        await self._mailer.add(new_email(topic, address, by=unauthenticated, clock=self._clock))
