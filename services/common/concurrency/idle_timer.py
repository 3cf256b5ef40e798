"""A timer that fires when nothing has happened for a while, and that is cheap to reset."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self


class IdleTimer:
    """Calls back once when it was not reset for some time; runs for the block that it is entered for."""

    def __init__(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` after `seconds` without a reset."""
        self._seconds = seconds
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._reset_at = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def reset(self) -> None:
        """Start the time again. Costs a look at the clock: the scheduled call moves only when it is due."""
        self._reset_at = self._loop.time()

    def restart(self, seconds: float) -> None:
        """Start again with another time."""
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
        self._callback = _do_nothing  # It may refer to the timer, which would keep both.

    def _schedule(self, seconds: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(seconds, self._on_due)

    def _on_due(self) -> None:
        seconds = self._reset_at + self._seconds - self._loop.time()
        if seconds > 0:
            self._schedule(seconds)
        else:
            self._callback()


def _do_nothing() -> None:
    pass
