"""Time as a dependency, so that tests move it by hand."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> float:
        """Unix time in seconds."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back, so that ages are measured with it."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Unix time in seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        return time.monotonic()


def utc_now(clock: Clock) -> datetime:
    """Return the present as an aware time in UTC."""
    return datetime.fromtimestamp(clock.now(), UTC)
