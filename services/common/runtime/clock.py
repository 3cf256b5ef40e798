"""Clocks that tests can replace."""

import time
from datetime import UTC, datetime
from typing import Protocol

UNIX_SECONDS_MAX = 253_402_300_799
"""End of the year 9999, the last second that `datetime` and protobuf's timestamps have."""


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
