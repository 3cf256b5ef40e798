"""What pages without a session show about the service: the sign-up policy and the models."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from services.common.errors import ServiceError
from services.common.runtime.clock import Clock
from services.gateway.console.ports import ModelList, ModelsClient, SessionClient, SignUp

T = TypeVar("T")
_FRESH_SECONDS = 10.0
_log = logging.getLogger(__name__)


class Facts:
    """Caches of both, which pages read without waiting.

    Attributes:
        sign_up: The sign-up policy; None while it is not known.
        models: The models; None while they are not known.
    """

    def __init__(self, session_client: SessionClient, models_client: ModelsClient, clock: Clock) -> None:
        """Read the facts with the clients."""
        self._sign_up = _Cached(lambda: session_client.describe_sign_up(""), clock)
        self._models = _Cached(models_client.list_models, clock)

    @property
    def sign_up(self) -> SignUp | None:
        """The sign-up policy; None while it is not known."""
        return self._sign_up.value

    @property
    def models(self) -> ModelList | None:
        """The models; None while they are not known."""
        return self._models.value

    async def refresh(self) -> None:
        """Read the facts again if they are older than 10 s. While a service is unavailable, the last ones are kept."""
        await asyncio.gather(self._sign_up.refresh(), self._models.refresh())


class _Cached(Generic[T]):
    """The last answer of a service."""

    def __init__(self, read: Callable[[], Awaitable[T]], clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._asked_at = float("-inf")
        self._reading = asyncio.Lock()
        self.value: T | None = None

    async def refresh(self) -> None:
        """Read the value if it is old. Meanwhile, other callers use the old one, or wait for the first."""
        if self._is_fresh() or (self._reading.locked() and self.value is not None):
            return
        async with self._reading:
            if self._is_fresh():
                return
            try:
                self.value = await self._read()
            except ServiceError as exc:
                _log.info("The facts on public pages could not be refreshed.", extra={"reason": exc.reason})
            self._asked_at = self._clock.monotonic()

    def _is_fresh(self) -> bool:
        return self._clock.monotonic() - self._asked_at < _FRESH_SECONDS
