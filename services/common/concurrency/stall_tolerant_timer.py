"""Timers that do not fire before what arrived while the event loop stood still has been read.

An event loop that stood still, because its process was paused or a call took long, runs due timers before it reads from
sockets. A time-out would then fail what has been answered in time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_LATE_SECONDS = 0.1
"""Lateness of a timer from which the event loop has stood still."""
_READ_SECONDS = 0.25
"""Time to read what has arrived."""


class StallTolerantTimer:
    """Calls a function once, at a time of the event loop's clock, or shortly after it if the event loop stood still."""

    __slots__ = ("_callback", "_handle", "_loop", "_when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        """Call `callback` at `when`."""
        self._when = when
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_at(when, self._on_due)

    def cancel(self) -> None:
        """Do not call the function."""
        self._handle.cancel()

    def _on_due(self) -> None:
        if self._loop.time() > self._when + _LATE_SECONDS:
            self._handle = self._loop.call_later(_READ_SECONDS, self._callback)
        else:
            self._callback()


@asynccontextmanager
async def stall_tolerant_timeout(seconds: float) -> AsyncIterator[None]:
    """Limit the block to `seconds`, like `asyncio.timeout`, with a `StallTolerantTimer`.

    Raises:
        TimeoutError: The block took longer.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as timeout:
        timer = StallTolerantTimer(loop.time() + seconds, lambda: timeout.reschedule(loop.time()))
        try:
            yield
        finally:
            timer.cancel()
