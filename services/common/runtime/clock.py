"""Clocks that tests can replace."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of time."""

    def now(self) -> float:
        """Unix time in seconds."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary fixed time. Never decreases, so use it to measure durations."""


class SystemClock:
    """The system clock."""

    def now(self) -> float:
        """Unix time in seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since an arbitrary fixed time. Never decreases."""
        return time.monotonic()


def utc_now(clock: Clock) -> datetime:
    """Return the current time as an aware `datetime` in UTC."""
    return datetime.fromtimestamp(clock.now(), UTC)
