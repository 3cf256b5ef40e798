"""Auth as the gateway sees it: what it says of a key, and what it tells of changes."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from services.gateway.requests.types import Principal


@dataclass(frozen=True, slots=True)
class Authentication:
    """Auth's answer about one API key."""

    principal: Principal | None
    """None when the key is not good."""
    denial: str
    """Why it is not good, in lower case: `unknown`, `revoked` or `expired`; empty when it is."""
    revision: int
    """The revision of the key table that was read."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One event of the watch; without any change it is a heartbeat."""

    revision: int
    changed_key_id: str = ""
    """The one key that changed; empty for none."""
    is_revoked: bool = False
    """Whether that key is revoked now."""
    all_keys_changed: bool = False
    """Whether any key may have changed."""


class AuthClient(Protocol):
    """Auth, over the wire."""

    async def authenticate(self, api_key: str) -> Authentication:
        """Ask about a key.

        Raises:
            Unavailable: Auth is away.
        """

    def watch(self, after_revision: int | None) -> AsyncIterator[WatchEvent]:
        """Yield changes after a revision, or from now on when None, and heartbeats."""
