"""Throttles: how often somebody may try something that guesses could abuse.

The counts are kept in the database, so that all replicas share them and a restart forgets none. Counting is a write
that strangers cause, so only so many may wait for it: a crowd at the log-in must not stand in a revocation's way.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from services.auth.crowd import Crowd
from services.auth.pepper import Pepper
from services.common.clock import Clock, utc_now
from services.common.errors import Throttled

_WAITING_MAX = 32


@dataclass(frozen=True, slots=True)
class Rule:
    """At most so many tries within a window."""

    name: str
    tries_max: int
    window_seconds: int


@dataclass(frozen=True, slots=True)
class Tries:
    """What was counted."""

    count: int
    """Tries in the window, this one included."""
    window_ends_at: datetime


class ThrottleStore(Protocol):
    """Where tries are counted. Raises `Unavailable` when the store cannot be reached."""

    async def count(self, subject: str, *, window: timedelta, now: datetime) -> Tries:
        """Count one more try of a subject; a window that is over begins anew."""


class Throttle:
    """Refuses who tries too often."""

    def __init__(self, store: ThrottleStore, *, pepper: Pepper, clock: Clock) -> None:
        """Count in `store`."""
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._crowd = Crowd(_WAITING_MAX)

    async def demand(self, rule: Rule, who: str) -> None:
        """Count a try and return while the rule allows it.

        Args:
            rule: What is tried, and how often it may be.
            who: E-mail address, network address, or both; only a digest of it is kept.

        Raises:
            Throttled: That is one too many, or too many wait to be counted; the metadata says for how many seconds.
        """
        now = utc_now(self._clock)
        subject = self._pepper.digest(f"throttle {rule.name} {who}")
        with self._crowd.joined():
            tries = await self._store.count(subject, window=timedelta(seconds=rule.window_seconds), now=now)
        if tries.count > rule.tries_max:
            raise _too_often(math.ceil((tries.window_ends_at - now).total_seconds()))


def _too_often(seconds: int) -> Throttled:
    minutes = max(1, math.ceil(seconds / 60))
    return Throttled(
        f"too many attempts; try again in {minutes} minute{'s' if minutes > 1 else ''}",
        reason="too_many_attempts",
        metadata={"retry_after_seconds": str(max(1, seconds))},
    )
