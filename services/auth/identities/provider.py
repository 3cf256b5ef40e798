"""Identity providers: the interface, and what they state about a user."""

from dataclasses import dataclass
from typing import Protocol

from services.auth.identities.authorization import Authorization
from services.common.errors import FailedPrecondition, Unavailable


@dataclass(frozen=True, slots=True)
class ProviderIdentity:
    """A user as a provider states it. The issuer and the subject identify the user; addresses can change."""

    provider: str
    """Name of the provider, such as `oidc`."""
    issuer: str
    subject: str
    email: str
    """Address as the provider states it, not normalized; empty if it states none."""
    is_email_verified: bool
    """Whether the provider states that the user owns the address."""


class IdentityProvider(Protocol):
    """Interface of a provider. Methods raise `Unavailable` if the provider cannot be reached."""

    @property
    def name(self) -> str:
        """Name in URLs, such as `oidc`."""

    @property
    def label(self) -> str:
        """Name to show to users, such as `Google`."""

    async def authorization_url(self, authorization: Authorization) -> str:
        """Return the URL at which the user logs in to the provider."""

    async def identity(self, authorization: Authorization, *, code: str, issuer: str) -> ProviderIdentity:
        """Exchange a code and return the user's identity. `issuer` is that of the answer; empty if it has none.

        Raises:
            PermissionDenied: The code or the provider's answer is invalid, or does not belong to `authorization`.
            FailedPrecondition: The provider does not accept the client id or secret.
        """


def provider_unavailable(label: str) -> Unavailable:
    """Return the error for a provider that cannot be reached or sends an answer that cannot be read."""
    return Unavailable(
        f"{label} cannot be reached at the moment. Try again in a minute, or log in with your password.",
        reason="identity_provider_unavailable",
    )


def provider_misconfigured(label: str) -> FailedPrecondition:
    """Return the error for a provider that rejects the operator's settings."""
    return FailedPrecondition(
        f"Log-in with {label} is not set up correctly. Tell the operator, or log in with your password.",
        reason="identity_provider_misconfigured",
    )
