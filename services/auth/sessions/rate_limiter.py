"""Rate limits for operations that could be abused for guessing.

Attempts are counted in the database, so that all replicas share the counters and restarts keep them. Because anonymous
clients cause these writes, refusals are cached in memory until their window ends, and one client cannot take all slots
for concurrent counting.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from services.auth.bulkhead import Bulkhead
from services.auth.keys.pepper import Pepper
from services.common.errors import ErrorDetails, Throttled
from services.common.runtime.clock import Clock, utc_now

_CONCURRENT_MAX = 32
_REFUSED_MAX = 100_000


@dataclass(frozen=True, slots=True)
class RateLimitRule:
    """A maximum number of attempts in a time window."""

    name: str
    tries_max: int
    window_seconds: int


@dataclass(frozen=True, slots=True)
class Tries:
    """The state of a counter."""

    count: int
    """Attempts in the window, including this one."""
    window_ends_at: datetime


class RateLimitStore(Protocol):
    """Interface for counting attempts. Methods raise `Unavailable` if the store cannot be reached."""

    async def count(self, subject: str, *, window: timedelta, now: datetime) -> Tries:
        """Count an attempt by a subject.

        A new window starts if the last one has ended, or if it ends later than a whole window from now, which means
        that the clock was set back.
        """


class RateLimiter:
    """Limits the number of attempts per subject and rule."""

    def __init__(self, store: RateLimitStore, *, pepper: Pepper, clock: Clock) -> None:
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._bulkhead = Bulkhead(_CONCURRENT_MAX)
        self._refused: OrderedDict[str, float] = OrderedDict()
        """Refused subjects, and the monotonic time in seconds at which each refusal ends."""

    async def check(self, rule: RateLimitRule, key: str, *, client: str) -> None:
        """Count an attempt, and raise `Throttled` if it exceeds the rule.

        Args:
            rule: The limit to apply.
            key: Identifies the counter, such as an e-mail address and a network address. Only its digest is stored.
            client: Network address or device of the caller; empty if unknown.

        Raises:
            Throttled: The limit is exceeded, or too many attempts are being counted.
        """
        is_client_limit = key == client
        subject = self._subject(rule, key)
        self._check_refused(subject, is_client_limit=is_client_limit)
        tries = await self._count(rule, subject, client)
        if tries.count > rule.tries_max:
            left = (tries.window_ends_at - utc_now(self._clock)).total_seconds()
            self._cache_refusal(subject, min(max(left, 1.0), float(rule.window_seconds)))
            self._check_refused(subject, is_client_limit=is_client_limit)

    async def count(self, rule: RateLimitRule, key: str, *, client: str) -> int:
        """Count an attempt and return the number in the window, without enforcing the limit.

        Raises:
            Throttled: Too many attempts are being counted.
        """
        return (await self._count(rule, self._subject(rule, key), client)).count

    def _subject(self, rule: RateLimitRule, key: str) -> str:
        return self._pepper.digest(f"rate limit {rule.name} {key}")

    async def _count(self, rule: RateLimitRule, subject: str, client: str) -> Tries:
        with self._bulkhead.enter(client):
            window = timedelta(seconds=rule.window_seconds)
            return await self._store.count(subject, window=window, now=utc_now(self._clock))

    def _check_refused(self, subject: str, *, is_client_limit: bool) -> None:
        until = self._refused.get(subject)
        if until is None:
            return
        seconds = until - self._clock.monotonic()
        if seconds <= 0:
            del self._refused[subject]
        else:
            raise _throttled(math.ceil(seconds), is_client_limit=is_client_limit)

    def _cache_refusal(self, subject: str, seconds: float) -> None:
        self._refused[subject] = self._clock.monotonic() + seconds
        self._refused.move_to_end(subject)
        if len(self._refused) > _REFUSED_MAX:
            self._refused.popitem(last=False)


def _throttled(seconds: int, *, is_client_limit: bool) -> Throttled:
    minutes = math.ceil(seconds / 60)
    return Throttled(
        f"Too many attempts. Try again in {minutes} minute{'s' if minutes > 1 else ''}.",
        reason="too_many_attempts",
        details=ErrorDetails(retry_after_seconds=seconds, is_client_limit=is_client_limit),
    )
