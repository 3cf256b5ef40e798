"""The console's port to the second factor. All calls may raise a `ServiceError` with a message for the user."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.gateway.console.ports import OpenSession


@dataclass(frozen=True, slots=True)
class TOTPState:
    """The second factor of an account."""

    is_enabled: bool
    recovery_codes: int
    """Number of unused recovery codes."""


@dataclass(frozen=True, slots=True)
class TOTPSecret:
    """A new secret for an authenticator app."""

    text: str = field(repr=False)
    url: str = field(repr=False)


class TOTPClient(Protocol):
    """The second factor. `token` is the token of the owner's session."""

    async def complete(
        self, pending_token: str, code: str, *, replaced_token: str, device_token: str, address: str
    ) -> OpenSession:
        """Create the session of a pending log-in."""

    async def state(self, token: str) -> TOTPState:
        """Return whether the owner's account has a second factor."""

    async def enrol(self, token: str, password: str, *, address: str) -> TOTPSecret:
        """Create a secret."""

    async def enable(self, token: str, code: str, *, address: str) -> Sequence[str]:
        """Put the secret into force, and return recovery codes."""

    async def disable(self, token: str, password: str, code: str, *, address: str) -> None:
        """Remove the second factor."""

    async def replace_recovery_codes(self, token: str, password: str, code: str, *, address: str) -> Sequence[str]:
        """Return new recovery codes."""
