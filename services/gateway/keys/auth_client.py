"""The gateway's port to auth."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from services.gateway.requests.types import CountedKey, Principal


@dataclass(frozen=True, slots=True)
class Authentication:
    """The result of authenticating an API key."""

    principal: Principal | None
    """The principal of the key; None if it is invalid."""
    denial: str
    """Why the key is invalid: `unknown`, `revoked`, `expired` or `paused`; empty if it is valid."""
    revision: int
    """Revision of the key table that was read."""
    denied_key: CountedKey | None = None
    """The key that is invalid; None if it does not exist, or auth is of a version that does not send it."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """An event of the key watch. An event without a change is a heartbeat."""

    revision: int
    changed_key_id: str = ""
    """Id of the key that changed; empty if none did."""
    is_revoked: bool = False
    """Whether the changed key is revoked."""
    all_keys_changed: bool = False
    """Whether any key may have changed."""


class AuthClient(Protocol):
    """A client of auth."""

    async def authenticate(self, api_key: str) -> Authentication:
        """Authenticate a key.

        Raises:
            Unavailable: Auth is unavailable.
        """

    def watch(self, after_revision: int | None) -> AsyncIterator[WatchEvent]:
        """Yield heartbeats, and the changes after a revision, or future changes if it is None."""
