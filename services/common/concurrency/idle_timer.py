"""An idle timer that is cheap to reset."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from services.common.concurrency.stall_tolerant_timer import StallTolerantTimer


class IdleTimer:
    """A context manager that calls a callback once when it has not been reset for some time."""

    def __init__(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` after `seconds` without a reset."""
        self._seconds = seconds
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._reset_at = 0.0
        self._handle: StallTolerantTimer | None = None

    def reset(self) -> None:
        """Restart the idle time. Only stores the time: the scheduled call is moved when it is due."""
        self._reset_at = self._loop.time()

    def restart(self, seconds: float) -> None:
        """Restart with a different idle time."""
        self._seconds = seconds
        self.reset()
        self._schedule(seconds)

    def __enter__(self) -> Self:
        self.restart(self._seconds)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._callback = _do_nothing  # Breaks the reference cycle of a callback that refers to the timer.

    def _schedule(self, seconds: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = StallTolerantTimer(self._loop.time() + seconds, self._on_due)

    def _on_due(self) -> None:
        seconds = self._reset_at + self._seconds - self._loop.time()
        if seconds > 0:
            self._schedule(seconds)
        else:
            self._callback()


def _do_nothing() -> None:
    pass
