"""Groq's rate limits, for each key and model: requests and tokens of a minute and of a day.

Each limit is a token bucket that refills continuously, as Groq's messages imply: with `Limit 6000, Used 5034, Requested
1443` a minute, Groq asks to wait 4.77 s. A request counts its prompt and its `max_completion_tokens` when it arrives,
and what it used when it ends.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tools.groq_standin.errors import Refused, rate_limited
from tools.groq_standin.wire import Headers, go_duration

_NAMES = {
    "requests_per_minute": "requests per minute (RPM)",
    "requests_per_day": "requests per day (RPD)",
    "tokens_per_minute": "tokens per minute (TPM)",
    "tokens_per_day": "tokens per day (TPD)",
}


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """The enforced limits; 0 enforces none."""

    requests_per_minute: int = 0
    requests_per_day: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0
    minute_seconds: float = 60.0
    """Length of a minute, so that tests need not wait for one."""

    @property
    def windows(self) -> dict[str, tuple[int, float]]:
        """Limit and length in seconds of each enforced window, by name."""
        found = {name: getattr(self, name) for name in _NAMES}
        seconds = {name: self.minute_seconds if name.endswith("minute") else 86_400.0 for name in _NAMES}
        return {name: (limit, seconds[name]) for name, limit in found.items() if limit}


@dataclass(slots=True)
class _Bucket:
    limit: int
    seconds: float
    used: float
    at: float

    def refill(self, now: float) -> None:
        self.used = max(0.0, self.used - (now - self.at) * self.limit / self.seconds)
        self.at = now

    def seconds_until(self, amount: float) -> float:
        return max(0.0, self.used + amount - self.limit) * self.seconds / self.limit


@dataclass(slots=True)
class Reservation:
    """What a request counts, until it ends."""

    tokens: int
    headers: Headers
    _buckets: dict[str, _Bucket] = field(repr=False)
    _clock: Callable[[], float] = field(repr=False)

    def settle(self, used: int) -> None:
        """Replace what the request counted on its arrival with what it used."""
        for name, bucket in self._buckets.items():
            bucket.refill(self._clock())
            if name.startswith("tokens"):
                bucket.used = max(0.0, bucket.used + used - self.tokens)


class RateLimits:
    """The rate limits of all keys and models."""

    def __init__(self, settings: LimitSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._windows = settings.windows
        self._clock = clock
        self._buckets: dict[tuple[str, str], dict[str, _Bucket]] = {}

    def reserve(self, key: str, model: str, tokens: int) -> Reservation | None:
        """Count a request that arrives; None if no limits are enforced.

        Raises:
            Refused: A limit is reached.
        """
        if not self._windows:
            return None
        now = self._clock()
        buckets = self._buckets.setdefault((key, model), self._full(now))
        for name, bucket in buckets.items():
            bucket.refill(now)
            amount = tokens if name.startswith("tokens") else 1
            if seconds := bucket.seconds_until(amount):
                limit = f"{_NAMES[name]}: Limit {bucket.limit}, Used {round(bucket.used)}"
                raise Refused(rate_limited(model, limit, amount, seconds, self._headers(buckets)))
        for name, bucket in buckets.items():
            bucket.used += tokens if name.startswith("tokens") else 1
        return Reservation(tokens, self._headers(buckets), buckets, self._clock)

    def _full(self, now: float) -> dict[str, _Bucket]:
        return {name: _Bucket(limit, seconds, 0.0, now) for name, (limit, seconds) in self._windows.items()}

    def _headers(self, buckets: dict[str, _Bucket]) -> Headers:
        """Return the headers: Groq reports the requests of a day and the tokens of a minute only."""
        headers: Headers = []
        for name, unit in (("requests_per_day", b"requests"), ("tokens_per_minute", b"tokens")):
            if bucket := buckets.get(name):
                left = max(0, int(bucket.limit - bucket.used))
                reset = go_duration(bucket.used * bucket.seconds / bucket.limit).encode()
                headers.append((b"x-ratelimit-limit-" + unit, b"%d" % bucket.limit))
                headers.append((b"x-ratelimit-remaining-" + unit, b"%d" % left))
                headers.append((b"x-ratelimit-reset-" + unit, reset))
        return headers
