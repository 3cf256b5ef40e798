"""The console's port to log-in with identity providers.

All calls may raise a `ServiceError` with a message for the user; it is `Unavailable` if auth or the provider cannot be
reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.gateway.console.ports import OpenSession, PendingLogIn


@dataclass(frozen=True, slots=True)
class Provider:
    """An identity provider."""

    name: str
    label: str


@dataclass(frozen=True, slots=True)
class Identity:
    """An identity that is linked to an account."""

    id: str
    provider: str
    email: str
    """Address that the provider stated; empty if none."""
    created_at: float
    """Unix seconds of the link."""


@dataclass(frozen=True, slots=True)
class Identities:
    """How the owner of an account can log in."""

    identities: Sequence[Identity]
    has_password: bool


@dataclass(frozen=True, slots=True)
class Authorization:
    """An authorization request to a provider."""

    url: str
    state_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuthorizationAnswer:
    """What the browser brings back from a provider."""

    provider: str
    state_token: str = field(repr=False)
    state: str = field(repr=False)
    code: str = field(repr=False)
    issuer: str


class IdentityClient(Protocol):
    """Log-in with providers, and an owner's links. `token` is the token of the owner's session."""

    async def providers(self) -> Sequence[Provider]:
        """Return the configured providers."""

    async def authorize_log_in(self, provider: str, *, address: str) -> Authorization:
        """Start a log-in."""

    async def log_in(
        self, answer: AuthorizationAnswer, *, invite: str, replaced_token: str, device_token: str, address: str
    ) -> OpenSession | PendingLogIn:
        """Create a session for the account of an identity, or a pending log-in if it has a second factor."""

    async def identities(self, token: str) -> Identities:
        """Return the identities of the owner's account."""

    async def authorize_link(self, token: str, provider: str, password: str, *, address: str) -> Authorization:
        """Start a log-in that links an identity."""

    async def link(self, token: str, answer: AuthorizationAnswer, *, address: str) -> Identity:
        """Link an identity."""

    async def unlink(self, token: str, identity_id: str, password: str, *, address: str) -> None:
        """Unlink an identity."""
