"""How a person becomes an account's owner: signing up, proving the e-mail, and a new password for a forgotten one.

Where mail is configured, nothing here tells whether an e-mail has an account: the answers are the same and take as
long, and what differs is mailed. Where it is not, signing up is the one answer that has to tell.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from services.auth.accounts import FREE_PLAN, Account, AccountStore, Proof, normalised_email, open_account
from services.auth.audit import Actor
from services.auth.letters import Letters
from services.auth.one_time_tokens import OneTimeTokenStore, Purpose, mint_token, token_digest
from services.auth.passwords import Passwords
from services.auth.pepper import Pepper
from services.auth.plans import Plan, PlanStore
from services.auth.throttles import Rule, Throttle
from services.common.client_block import client_block
from services.common.clock import Clock, utc_now
from services.common.errors import AlreadyExists, InvalidRequest, PermissionDenied, ServiceError

_log = logging.getLogger(__name__)
_HOUR_SECONDS = 3_600
_LETTERS = Rule("letters to an e-mail", tries_max=5, window_seconds=_HOUR_SECONDS)
_TOKENS = Rule("tokens from an address", tries_max=60, window_seconds=_HOUR_SECONDS)


class SignUpPolicy(StrEnum):
    """Who may sign up."""

    OPEN = "open"
    INVITE = "invite"
    CLOSED = "closed"


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
        throttle: Throttle,
        letters: Letters,
        pepper: Pepper,
        clock: Clock,
        policy: SignUpPolicy,
        sign_ups_per_address_max: int,
    ) -> None:
        """Wire the parts; an address may sign up, or ask for letters, `sign_ups_per_address_max` times an hour."""
        self.policy = policy
        self.letters = letters
        self._stores = stores
        self._passwords = passwords
        self._throttle = throttle
        self._pepper = pepper
        self._clock = clock
        self._working: set[asyncio.Task[None]] = set()
        self._by_address = Rule("sign-ups from an address", sign_ups_per_address_max, _HOUR_SECONDS)

    async def plan(self, invite: str) -> Plan:
        """Return the plan of an account that signs up now: the invitation's, or the free one without a good one."""
        with suppress(InvalidRequest):
            digest = token_digest(invite, pepper=self._pepper)
            if plan := await self._stores.tokens.plan_of(digest, now=utc_now(self._clock)):
                return await self._stores.plans.get(plan)
        return await self._stores.plans.get(FREE_PLAN)

    async def sign_up(self, email: str, password: str, *, invite: str, by: Actor) -> Proof | None:
        """Open an account and return what its owner has proved: the password that was just chosen.

        None where mail is configured: then a letter tells the reader of the e-mail how to go on.

        Raises:
            PermissionDenied: Sign-up is not open to this person.
            InvalidRequest: The e-mail, password or invitation cannot be accepted.
            AlreadyExists: The e-mail has an account; only where mail is not configured.
            Throttled: Too many tries.
        """
        invite_digest = self._admit(invite)
        account = open_account(email, now=utc_now(self._clock))
        client = client_block(by.address)
        await self._throttle.check(self._by_address, client, client=client)
        password_hash = await self._passwords.hash(password, client=client)
        try:
            account = await self._stores.accounts.add(account, by=by, password_hash=password_hash, invite=invite_digest)
        except AlreadyExists:
            if not self.letters.has_mail:
                raise
            self._later(self._mail_known(account.email, by))
            return None
        if not self.letters.has_mail:
            return Proof(account.id, password_hash=password_hash)
        self._later(self._mail_verification(account, by))
        return None

    async def send_verification(self, email: str, *, by: Actor) -> None:
        """Mail a token for a password, which also verifies, to an account that lacks that; raises as the next."""
        address = await self._addressed(email, by)
        self._later(self._mail_again(address, by))

    async def verify_email(self, token: str, *, by: Actor) -> str:
        """Note that the owner of a mailed token reads the e-mail, and return that e-mail.

        Raises:
            InvalidRequest: The token is not good.
            Throttled: Too many tries.
        """
        client = client_block(by.address)
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
        address = await self._addressed(email, by)
        self._later(self._mail_reset(address, by))

    async def reset_password(self, token: str, password: str, *, by: Actor) -> Account:
        """Replace a forgotten password, which also proves the e-mail and ends all sessions; return the account.

        Raises:
            InvalidRequest: The token is not good, or the password cannot be accepted.
            Throttled: Too many tries.
        """
        client = client_block(by.address)
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

    async def _addressed(self, email: str, by: Actor) -> str:
        """Return the address that a letter is asked for, whether it has an account or not."""
        self.letters.demand_mail()
        address = normalised_email(email)
        client = client_block(by.address)
        await self._throttle.check(self._by_address, client, client=client)
        await self._throttle.check(_LETTERS, address, client=client)
        return address

    async def _account(self, email: str) -> Account | None:
        credentials = await self._stores.accounts.credentials(email)
        return credentials.account if credentials else None

    async def _mail_verification(self, account: Account, by: Actor) -> None:
        self.letters.verification(account.email, await self._token(Purpose.VERIFY_EMAIL, account, by))

    async def _mail_reset(self, email: str, by: Actor) -> None:
        if account := await self._account(email):
            self.letters.password_reset(email, await self._token(Purpose.RESET_PASSWORD, account, by))

    async def _mail_again(self, email: str, by: Actor) -> None:
        account = await self._account(email)
        if account is not None and account.email_verified_at is None:
            await self._mail_first_password(account, by)

    async def _mail_known(self, email: str, by: Actor) -> None:
        await self._throttle.check(_LETTERS, email, client=client_block(by.address))
        account = await self._account(email)
        if account is not None and account.email_verified_at is None:
            await self._mail_first_password(account, by)
        else:
            self.letters.already_registered(email)

    async def _mail_first_password(self, account: Account, by: Actor) -> None:
        """Let whoever reads the e-mail choose the password: the one in place may be a stranger's who came first."""
        self.letters.first_password(account.email, await self._token(Purpose.RESET_PASSWORD, account, by))

    async def _token(self, purpose: Purpose, account: Account, by: Actor) -> str:
        minted = mint_token(purpose, account_id=account.id, pepper=self._pepper, clock=self._clock)
        await self._stores.tokens.add(minted.kept, by=by, at=utc_now(self._clock))
        return minted.text

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what depends on whether there is an account after the answer, whose time would tell it otherwise."""
        task = asyncio.get_running_loop().create_task(_or_logged(work))
        self._working.add(task)
        task.add_done_callback(self._working.discard)


async def _or_logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except ServiceError as exc:
        _log.warning("no letter was written", extra={"reason": exc.reason})
