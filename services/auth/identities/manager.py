"""Log-in with an identity, and the owner's links.

An identity that is not linked yet is linked to an existing account only if the provider states its address as verified,
and auth had verified the address too. Otherwise someone who signed up with another person's address, here or at the
provider, would share the account with its owner. An address that only a provider has verified does not count as
verified by auth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from services.auth.accounts.addresses import normalized_email
from services.auth.accounts.model import AccountStore, Proof
from services.auth.accounts.registration import Registration
from services.auth.audit import Actor
from services.auth.bulkhead import Bulkhead
from services.auth.identities.authorization import Authorization, AuthorizationAnswer, Authorizations
from services.auth.identities.model import Identity, IdentityStore, not_linked
from services.auth.identities.provider import IdentityProvider, ProviderIdentity
from services.auth.sessions.log_in import LoggedIn, LogIn
from services.auth.sessions.model import Session
from services.auth.totp.pending import PendingLogIn
from services.common.address_prefix import address_prefix
from services.common.errors import FailedPrecondition, NotFound
from services.common.runtime.clock import Clock, utc_now

_CONCURRENT_MAX = 32
"""Calls that may wait for providers at the same time."""


class IdentityManager:
    """Logs users in with identities, and links and unlinks identities."""

    def __init__(
        self,
        providers: Sequence[IdentityProvider],
        store: IdentityStore,
        accounts: AccountStore,
        *,
        registration: Registration,
        log_in: LogIn,
        authorizations: Authorizations,
        clock: Clock,
    ) -> None:
        self._providers: Mapping[str, IdentityProvider] = {provider.name: provider for provider in providers}
        self._store = store
        self._accounts = accounts
        self._registration = registration
        self._log_in = log_in
        self._authorizations = authorizations
        self._clock = clock
        self._bulkhead = Bulkhead(_CONCURRENT_MAX)

    @property
    def providers(self) -> Sequence[IdentityProvider]:
        """The configured providers."""
        return tuple(self._providers.values())

    async def authorize_log_in(self, provider: str, *, by: Actor) -> tuple[str, Authorization]:
        """Return the URL of a log-in at a provider, and the authorization request.

        Raises:
            NotFound: The provider is not configured.
            Throttled: Too many calls are waiting for providers, in total or from this client.
            Unavailable: The provider cannot be reached.
        """
        return await self._authorize(self._provider(provider), self._authorizations.start(provider), by)

    async def log_in(
        self, answer: AuthorizationAnswer, *, invite: str, replaced_token: str, device_token: str, by: Actor
    ) -> LoggedIn | PendingLogIn:
        """Open a session for the account of an identity, which is created or linked if the identity has none.

        If the account has TOTP, the log-in is pending instead.

        Args:
            answer: The provider's answer.
            invite: Token of an invitation, for a new account; empty for none.
            replaced_token: Token of a session to end; empty for none.
            device_token: Device token from an earlier log-in; empty for none.
            by: The caller.

        Raises:
            PermissionDenied: The answer is invalid, or the sign-up policy does not allow a new account.
            FailedPrecondition: The provider states no verified address, or the identity must be linked by the owner.
            AlreadyExists: The mailbox already has an account with another address.
            Throttled: There were too many attempts.
            Unavailable: The provider cannot be reached.
        """
        authorization = self._authorizations.check(answer)
        await self._log_in.check_client(device_token, by=by)
        stated = await self._identity(answer, authorization, by)
        identity = await self._store.find(stated.issuer, stated.subject)
        if identity is None:
            identity = await self._link_or_sign_up(stated, invite, by)
        proof = Proof(identity.account_id, identity_id=identity.id)
        return await self._log_in.finish(proof, replaced_token=replaced_token, device_token=device_token, by=by)

    async def of_account(self, session: Session) -> tuple[Sequence[Identity], bool]:
        """Return the identities of the session's account, and whether it has a password."""
        credentials = await self._accounts.credentials(session.account.id)
        has_password = credentials is not None and credentials.password_hash is not None
        return await self._store.of_account(session.account.id), has_password

    async def authorize_link(
        self, session: Session, provider: str, password: str, *, by: Actor
    ) -> tuple[str, Authorization]:
        """Return the URL of a log-in that links an identity to the session's account, and the authorization request.

        Raises:
            PermissionDenied: The password is wrong.
            FailedPrecondition: The account has no password, and the session is not new.
            NotFound: The provider is not configured.
            Throttled: There were too many attempts.
            Unavailable: The provider cannot be reached.
        """
        chosen = self._provider(provider)
        await self._log_in.prove(session, password, by=by)
        return await self._authorize(chosen, self._authorizations.start(provider, session_id=session.id), by)

    async def link(self, session: Session, answer: AuthorizationAnswer, *, by: Actor) -> Identity:
        """Link the identity of an answer to the session's account.

        Raises:
            PermissionDenied: The answer is invalid.
            AlreadyExists: The identity is linked to another account.
            FailedPrecondition: The account has the maximum number of identities.
            Unavailable: The provider cannot be reached.
        """
        authorization = self._authorizations.check(answer, session_id=session.id)
        stated = await self._identity(answer, authorization, by)
        return await self._store.link(session.proof, stated, by=by, at=utc_now(self._clock))

    async def unlink(self, session: Session, identity_id: str, password: str, *, by: Actor) -> None:
        """Unlink an identity of the session's account. Raises the exceptions of `LogIn.prove` and the store."""
        proof = await self._log_in.prove(session, password, by=by)
        await self._store.unlink(proof, identity_id, by=by, at=utc_now(self._clock))

    async def _link_or_sign_up(self, stated: ProviderIdentity, invite: str, by: Actor) -> Identity:
        """Link an identity to the account with its address, or create one."""
        label = self._provider(stated.provider).label
        if not stated.is_email_verified or not stated.email:
            raise FailedPrecondition(
                f"{label} states no verified e-mail address for you. Verify your address there, or sign up with a "
                "password.",
                reason="provider_email_unverified",
            )
        email = normalized_email(stated.email)
        credentials = await self._accounts.credentials(email)
        if credentials is None:
            return await self._sign_up(replace(stated, email=email), invite, by)
        if credentials.account.email_verified_at is None:
            raise not_linked()
        return await self._store.link_by_email(credentials.account.id, email, stated, by=by, at=utc_now(self._clock))

    async def _sign_up(self, stated: ProviderIdentity, invite: str, by: Actor) -> Identity:
        await self._registration.sign_up_with_identity(stated, invite=invite, by=by)
        identity = await self._store.find(stated.issuer, stated.subject)
        if identity is None:  # The account was deleted at once.
            raise NotFound("The new account was deleted. Log in again.", reason="account_not_found")
        return identity

    async def _authorize(
        self, provider: IdentityProvider, authorization: Authorization, by: Actor
    ) -> tuple[str, Authorization]:
        with self._bulkhead.enter(address_prefix(by.address)):
            return await provider.authorization_url(authorization), authorization

    async def _identity(self, answer: AuthorizationAnswer, authorization: Authorization, by: Actor) -> ProviderIdentity:
        provider = self._provider(answer.provider)
        with self._bulkhead.enter(address_prefix(by.address)):
            return await provider.identity(authorization, code=answer.code, issuer=answer.issuer)

    def _provider(self, name: str) -> IdentityProvider:
        if name not in self._providers:
            raise NotFound("Log-in with this provider is not set up. Log in with your password.", reason="no_provider")
        return self._providers[name]
