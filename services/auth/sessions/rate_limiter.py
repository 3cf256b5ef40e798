"""Throttles: how often somebody may try something that guesses could abuse.

Tries are counted in the database, so that all replicas share them and a restart forgets none. Counting is a write that
strangers cause: what was refused is remembered in memory until its window ends and costs no further write, and one
client never takes all the places of those that wait to be counted.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from services.auth.bulkhead import Bulkhead
from services.auth.keys.pepper import Pepper
from services.common.errors import Throttled
from services.common.runtime.clock import Clock, utc_now

_PLACES = 32
_REFUSED_MAX = 100_000


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


class RateLimitStore(Protocol):
    """Where tries are counted. Raises `Unavailable` when the store cannot be reached."""

    async def count(self, subject: str, *, window: timedelta, now: datetime) -> Tries:
        """Count one more try of a subject.

        A window that is over starts again, and so does one that ends later than a whole window from now: then the clock
        went back.
        """


class RateLimiter:
    """Limits how often a subject may try something."""

    def __init__(self, store: RateLimitStore, *, pepper: Pepper, clock: Clock) -> None:
        """Count in `store`."""
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._places = Bulkhead(_PLACES)
        self._refused: OrderedDict[str, float] = OrderedDict()
        """Subjects that were refused, and until when (monotonic seconds)."""

    async def check(self, rule: Rule, who: str, *, client: str) -> None:
        """Count a try and return while the rule allows it.

        Args:
            rule: What is tried, and how often it may be.
            who: Whose tries are counted, such as an e-mail address and a network address; only a digest is kept.
            client: The network address or device that the try comes from; empty when it is not known.

        Raises:
            Throttled: That is one too many, or too many wait to be counted. The metadata says for how many seconds, and
                has `scope` = `client` where the rule counts nothing but the client.
        """
        scope = "client" if who == client else "other"
        subject = self._subject(rule, who)
        self._check_refused(subject, scope)
        tries = await self._count(rule, subject, client)
        if tries.count > rule.tries_max:
            left = (tries.window_ends_at - utc_now(self._clock)).total_seconds()
            self._remember(subject, min(max(left, 1.0), float(rule.window_seconds)))
            self._check_refused(subject, scope)

    async def count(self, rule: Rule, who: str, *, client: str) -> int:
        """Count a try that the rule never refuses, and return how many there were in the window; raises as `check`."""
        return (await self._count(rule, self._subject(rule, who), client)).count

    def _subject(self, rule: Rule, who: str) -> str:
        return self._pepper.digest(f"throttle {rule.name} {who}")

    async def _count(self, rule: Rule, subject: str, client: str) -> Tries:
        with self._places.enter(client):
            window = timedelta(seconds=rule.window_seconds)
            return await self._store.count(subject, window=window, now=utc_now(self._clock))

    def _check_refused(self, subject: str, scope: str) -> None:
        until = self._refused.get(subject)
        if until is None:
            return
        seconds = until - self._clock.monotonic()
        if seconds <= 0:
            del self._refused[subject]
        else:
            raise _too_often(math.ceil(seconds), scope)

    def _remember(self, subject: str, seconds: float) -> None:
        self._refused[subject] = self._clock.monotonic() + seconds
        self._refused.move_to_end(subject)
        if len(self._refused) > _REFUSED_MAX:
            self._refused.popitem(last=False)


def _too_often(seconds: int, scope: str) -> Throttled:
    minutes = math.ceil(seconds / 60)
    return Throttled(
        f"Too many attempts. Try again in {minutes} minute{'s' if minutes > 1 else ''}.",
        reason="too_many_attempts",
        metadata={"retry_after_seconds": str(seconds), "scope": scope},
    )
