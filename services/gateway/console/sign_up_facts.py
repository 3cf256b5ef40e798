"""What pages for everybody say of sign-up: who may, and how many requests a day a new account's keys have."""

import logging

from services.common.errors import ServiceError
from services.common.runtime.clock import Clock
from services.gateway.console.ports import SessionClient, SignUp

_FRESH_SECONDS = 10.0
_log = logging.getLogger(__name__)


class SignUpFacts:
    """Remembers auth's description of sign-up for a few seconds, and longer while auth is away."""

    def __init__(self, session_client: SessionClient, clock: Clock) -> None:
        """Ask `session_client`."""
        self._session_client = session_client
        self._clock = clock
        self._known: SignUp | None = None
        self._asked_at = float("-inf")

    async def daily_limit(self) -> int | None:
        """Return the requests a UTC day of a new account's keys; None while auth never said so."""
        now = self._clock.monotonic()
        if now - self._asked_at >= _FRESH_SECONDS:
            self._asked_at = now
            try:
                self._known = await self._session_client.describe_sign_up("")
            except ServiceError as exc:
                _log.info("pages say what was known of sign-up before", extra={"reason": exc.reason})
        return self._known.daily_limit if self._known else None
