"""A value that is fetched over the network and cached."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from services.common.errors import Unavailable
from services.common.runtime.clock import Clock

T = TypeVar("T")

_FRESH_SECONDS = 3_600.0
_MIN_AGE_SECONDS = 60.0
"""Minimum age at which a value is fetched again on request, so that callers cannot cause a flood of requests."""
_FAILURE_SECONDS = 5.0


class Cached(Generic[T]):
    """A value that is fetched when it is needed and at most an hour old. One fetch runs at a time.

    A failure is kept for five seconds, so that callers who waited for it do not each wait for another.
    """

    def __init__(self, fetch: Callable[[], Awaitable[T]], clock: Clock) -> None:
        """Fetch with `fetch`, which may raise `Unavailable`."""
        self._fetch = fetch
        self._clock = clock
        self._lock = asyncio.Lock()
        self._known: tuple[T, float] | None = None
        self._failure: tuple[Unavailable, float] | None = None

    async def get(self) -> T:
        """Return the value.

        Raises:
            Unavailable: It cannot be fetched.
        """
        return await self._at_most(_FRESH_SECONDS)

    async def newer(self) -> T:
        """Return a value that is at most a minute old. Raises the exceptions of `get`."""
        return await self._at_most(_MIN_AGE_SECONDS)

    async def _at_most(self, seconds: float) -> T:
        async with self._lock:
            now = self._clock.monotonic()
            if self._known is not None and now - self._known[1] < seconds:
                return self._known[0]
            if self._failure is not None and now - self._failure[1] < _FAILURE_SECONDS:
                raise self._failure[0]
            try:
                value = await self._fetch()
            except Unavailable as exc:
                self._failure = (exc, self._clock.monotonic())
                raise
            self._known, self._failure = (value, now), None
            return value
