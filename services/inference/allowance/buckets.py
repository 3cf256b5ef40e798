"""The allowance of one Groq key and model: a token bucket for each of its limits.

Groq's limits refill continuously: after a 429 with `Limit 6000, Used 5034, Requested 1443` it asks to wait 4.77 s,
which is what is missing at 6,000 tokens a minute.
"""

import math
from collections.abc import Iterable, Mapping

from services.inference.allowance.model import Limits, Observation, Window

USABLE = 0.98
"""Part of a minute's limit that is used. The rest covers the time until a request reaches Groq, which counts it
later."""
_DAILY_SLACK = 0.05
"""By which part of a daily limit this count may exceed Groq's: requests in flight, which Groq does not count yet."""


class _Bucket:
    """The use of one limit, which falls at a constant rate. Times are monotonic, in seconds."""

    __slots__ = ("_at", "_used", "limit", "rate", "size")

    def __init__(self, window: Window, limit: int, seconds: float, now: float) -> None:
        self.limit = limit
        self.rate = limit / seconds
        self.size = float(limit) if window.is_daily else max(1.0, limit * USABLE)
        """What may be used at once."""
        self._used = 0.0
        self._at = now

    def used(self, now: float) -> float:
        """Return what is used."""
        return max(0.0, self._used - max(0.0, now - self._at) * self.rate)

    def set_used(self, used: float, now: float) -> None:
        """Set what is used."""
        self._used, self._at = max(0.0, used), now

    def missing(self, amount: float, now: float) -> float:
        """Return how much more than is left an amount needs; at most 0 if there is enough.

        A request larger than the limit needs the whole bucket: Groq refuses it with an error of its own.
        """
        return self.used(now) + min(amount, self.size) - self.size


class Buckets:
    """The limits of one key and model."""

    __slots__ = ("_buckets", "_configured", "_seconds")

    def __init__(self, configured: Limits, seconds: Mapping[Window, float], now: float) -> None:
        """Create full buckets of the configured limits. Others follow from observations."""
        self._configured = configured
        self._seconds = seconds
        self._buckets = {window: _Bucket(window, limit, seconds[window], now) for window, limit in configured.items()}

    def seconds_until(self, tokens: float, now: float) -> float:
        """Return the time until a request of `tokens` may be sent; 0 if it may now."""
        seconds = 0.0
        for window, bucket in self._buckets.items():
            missing = bucket.missing(tokens if window.counts_tokens else 1.0, now)
            if missing > 0:
                seconds = max(seconds, missing / bucket.rate)
        return seconds

    def left(self, now: float) -> float:
        """Return which part of the tightest limit is left, from 0 to 1."""
        return min((1 - bucket.used(now) / bucket.size for bucket in self._buckets.values()), default=1.0)

    def tokens_max(self) -> float:
        """Return the most tokens that one request can have by the known limits; infinite without any."""
        return min(
            (float(one.limit) for window, one in self._buckets.items() if window.counts_tokens), default=math.inf
        )

    def take(self, tokens: float, now: float) -> None:
        """Count a request of `tokens`, at most the whole of each bucket: others must not wait for more."""
        for window, bucket in self._buckets.items():
            bucket.set_used(bucket.used(now) + (min(tokens, bucket.size) if window.counts_tokens else 1), now)

    def settle(self, estimated: float, used: float, requests: int, now: float) -> None:
        """Replace the estimate of a request that was taken by what it has used; see `Settlement`."""
        for window, bucket in self._buckets.items():
            difference = used - min(estimated, bucket.size) if window.counts_tokens else requests - 1
            bucket.set_used(bucket.used(now) + difference, now)

    def seconds_for(self, tokens: float, requests: float, now: float) -> float:
        """Return how long requests of a total size take at the rate of the tightest limit.

        A daily limit counts only while it is exhausted: until then its rate does not matter.
        """
        seconds = 0.0
        for window, bucket in self._buckets.items():
            amount = tokens if window.counts_tokens else requests
            if not window.is_daily or bucket.missing(amount, now) > 0:
                seconds = max(seconds, amount / bucket.rate)
        return seconds

    def observe(self, observations: Iterable[Observation], now: float) -> None:
        """Record what Groq reports. A configured limit stays; what Groq has counted is never less than what is used.

        Requests in flight are counted here before they are counted there, so a lower count of Groq's changes nothing,
        except that of a day: what a lost request took of it would be missing until its end.
        """
        for window, limit, used in observations:
            bucket = self._buckets.get(window)
            if bucket is None or (window not in self._configured and bucket.limit != limit):
                bucket = self._replace(window, limit, now)
            # Groq's count is of a later time than this one's, and needs no reserve.
            counted = max(bucket.used(now), used - (bucket.limit - bucket.size))
            if window.is_daily:
                counted = min(counted, used + bucket.limit * _DAILY_SLACK + 1)
            bucket.set_used(counted, now)

    def replace(self, counts: Mapping[Window, tuple[int, float]], now: float) -> None:
        """Take over limits and what is used of them; a limit of 0 is not known."""
        for window, (limit, used) in counts.items():
            if limit:
                self._replace(window, limit, now).set_used(used, now)

    def allowances(self, now: float) -> dict[Window, tuple[int, float]]:
        """Return each limit, and what is left of it."""
        limits = {window: bucket.limit for window, bucket in self._buckets.items()}
        return {window: (limits[window], left) for window, left in self.remaining(now).items()}

    def remaining(self, now: float) -> dict[Window, float]:
        """Return what is left of each limit."""
        return {window: max(0.0, bucket.limit - bucket.used(now)) for window, bucket in self._buckets.items()}

    def _replace(self, window: Window, limit: int, now: float) -> _Bucket:
        old = self._buckets.get(window)
        bucket = self._buckets[window] = _Bucket(window, max(1, limit), self._seconds[window], now)
        if old is not None:
            bucket.set_used(min(old.used(now), bucket.limit), now)
        return bucket
