"""Cached identity providers, for the buttons of the log-in and sign-up pages."""

import logging
from collections.abc import Sequence

from services.common.errors import ServiceError
from services.common.runtime.clock import Clock
from services.gateway.console.identity_ports import IdentityClient, Provider

_FRESH_SECONDS = 10.0
_log = logging.getLogger(__name__)


class ProviderCache:
    """Caches the providers for 10 s, and longer while auth is unavailable."""

    def __init__(self, client: IdentityClient, clock: Clock) -> None:
        """Read the providers with `client`."""
        self._client = client
        self._clock = clock
        self._known: Sequence[Provider] = ()
        self._asked_at = float("-inf")

    def known(self) -> Sequence[Provider]:
        """Return the providers that were read last."""
        return self._known

    async def refresh(self) -> None:
        """Read the providers, unless they are fresh. Auth of the previous version has none."""
        now = self._clock.monotonic()
        if now - self._asked_at < _FRESH_SECONDS:
            return
        self._asked_at = now
        try:
            self._known = await self._client.providers()
        except ServiceError as exc:
            _log.info("cannot refresh the identity providers", extra={"reason": exc.reason})
