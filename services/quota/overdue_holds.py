"""Overdue holds that the sweeper may close, and those that only seem overdue.

Redis' clock may step and return between two sweeps of a replica that was frozen or disconnected in between. A hold that
another replica reserved during the step has a time that this replica never read: it seems long overdue, or in the
future.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OverdueHold:
    """A hold older than the lifetime of a hold."""

    request_id: str
    key_id: str
    account_id: str
    day: int
    """Day of the reserve, in days since 1970-01-01."""
    reserved_at: float
    """Time of the reserve by Redis' clock, in Unix seconds."""


class OverdueHolds:
    """The holds that a replica's last sweep found overdue.

    A hold that the last sweep should have found, by its time, and did not was reserved since then. It lives for
    `hold_seconds` from the sweep that found it first.
    """

    def __init__(self, monotonic: Callable[[], float], *, hold_seconds: float) -> None:
        """Create without a previous sweep.

        Args:
            monotonic: Returns the time of a clock that never steps, in seconds.
            hold_seconds: Lifetime of a hold.
        """
        self._monotonic = monotonic
        self._hold_seconds = hold_seconds
        self._found: set[str] = set()
        self._before, self._after = -math.inf, math.inf
        self._new_since: dict[str, float] = {}

    def to_close(
        self, found: Sequence[OverdueHold], *, before: float, after: float, is_complete: bool
    ) -> list[OverdueHold]:
        """Return the holds of a sweep that may be closed.

        Args:
            found: Holds whose deadline is at most `before`, or later than `after`.
            before: Unix seconds by Redis' clock.
            after: Unix seconds by Redis' clock.
            is_complete: Whether `found` has all of these holds.
        """
        now = self._monotonic()
        self._new_since = {
            hold.request_id: self._new_since.get(hold.request_id, now)
            for hold in found
            if hold.request_id in self._new_since or self._is_new(hold)
        }
        self._found = {hold.request_id for hold in found}
        self._before, self._after = (before, after) if is_complete else (-math.inf, math.inf)
        return [hold for hold in found if now - self._new_since.get(hold.request_id, -math.inf) >= self._hold_seconds]

    def _is_new(self, hold: OverdueHold) -> bool:
        """Return whether the last sweep should have found a hold and did not."""
        deadline = hold.reserved_at + self._hold_seconds
        return hold.request_id not in self._found and not self._before < deadline <= self._after
