"""A time-out that is the same for many waits, with one timer for all of them."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from services.common.concurrency.stall_tolerant_timer import StallTolerantTimer

WaitT = TypeVar("WaitT")


class FixedTimeout(Generic[WaitT]):
    """Calls a function with each wait that was not forgotten in time."""

    def __init__(self, seconds: float, on_timeout: Callable[[WaitT], None]) -> None:
        """Call `on_timeout` with waits that take `seconds`."""
        self._seconds = seconds
        self._on_timeout = on_timeout
        self._deadlines: dict[WaitT, float] = {}
        """In order, since all waits have the same time-out."""
        self._timer: StallTolerantTimer | None = None

    def watch(self, wait: WaitT) -> None:
        """Watch a wait that begins now."""
        loop = asyncio.get_running_loop()
        deadline = self._deadlines[wait] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = StallTolerantTimer(deadline, self._expire)

    def forget(self, wait: WaitT) -> None:
        """Watch a wait no longer; it may have timed out before."""
        self._deadlines.pop(wait, None)

    def close(self) -> None:
        """Forget all waits."""
        self._deadlines.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        try:
            while self._deadlines and self._next_deadline() <= loop.time():
                wait = next(iter(self._deadlines))
                del self._deadlines[wait]
                self._on_timeout(wait)
        finally:
            if self._deadlines and self._timer is None:
                self._timer = StallTolerantTimer(self._next_deadline(), self._expire)

    def _next_deadline(self) -> float:
        return next(iter(self._deadlines.values()))
