"""Cached sign-up information for public pages."""

import logging

from services.common.errors import ServiceError
from services.common.runtime.clock import Clock
from services.gateway.console.ports import SessionClient, SignUp

_FRESH_SECONDS = 10.0
_log = logging.getLogger(__name__)


class SignUpCache:
    """Caches auth's sign-up policy for 10 s, and longer while auth is unavailable."""

    def __init__(self, session_client: SessionClient, clock: Clock) -> None:
        """Read the policy with `session_client`."""
        self._session_client = session_client
        self._clock = clock
        self._known: SignUp | None = None
        self._asked_at = float("-inf")

    async def daily_limit(self) -> int | None:
        """Return the requests per UTC day of a new account's keys; None if unknown."""
        now = self._clock.monotonic()
        if now - self._asked_at >= _FRESH_SECONDS:
            self._asked_at = now
            try:
                self._known = await self._session_client.describe_sign_up("")
            except ServiceError as exc:
                _log.info("cannot refresh the sign-up policy", extra={"reason": exc.reason})
        return self._known.daily_limit if self._known else None
