"""A time-out that is the same for many waits, with one timer for all of them."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Wait(Protocol):
    """Something that ends, such as a future."""

    def done(self) -> bool:
        """Return whether it has ended."""


WaitT = TypeVar("WaitT", bound=Wait)


class FixedTimeout(Generic[WaitT]):
    """Calls a function with each wait that has not ended in time."""

    def __init__(self, seconds: float, on_timeout: Callable[[WaitT], None]) -> None:
        """Call `on_timeout` with waits that take `seconds`."""
        self._seconds = seconds
        self._on_timeout = on_timeout
        self._waits: deque[tuple[float, WaitT]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, wait: WaitT) -> None:
        """Watch a wait that begins now."""
        loop = asyncio.get_running_loop()
        self._waits.append((loop.time() + self._seconds, wait))
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._expire)

    def close(self) -> None:
        """Watch no longer."""
        self._waits.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._waits and (self._waits[0][0] <= loop.time() or self._waits[0][1].done()):
            _, wait = self._waits.popleft()
            if not wait.done():
                self._on_timeout(wait)
        if self._waits:
            self._timer = loop.call_at(self._waits[0][0], self._expire)
