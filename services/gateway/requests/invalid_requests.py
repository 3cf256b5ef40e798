"""Requests that are refused after their body was read: a token bucket for each key and each address bounds that work.

A refusal costs a token, and one more for each 64 KiB that had to be looked at. An address has four times as many tokens
as a key. When they are used up, keys that had nothing refused lately go on: of many people behind one address, only
those wait who send what is refused.
"""

import asyncio
import math
from collections import OrderedDict

from services.common.address_prefix import address_prefix
from services.common.errors import Throttled
from services.common.runtime.clock import Clock

_BURST_SECONDS = 20.0
"""A bucket holds what flows into it in this time."""
_ADDRESS_FACTOR = 4
_BYTES_PER_TOKEN = 65_536
_BUCKETS_MAX = 10_000
_DELAY_SECONDS = 1.0
_DELAYED_MAX = 256


class TokenBuckets:
    """Buckets by name, all of one size and rate; a full one is not kept, and the longest unused makes room."""

    def __init__(self, clock: Clock, *, per_second: float) -> None:
        self._clock = clock
        self._per_second = per_second
        self._size = per_second * _BURST_SECONDS
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Tokens, and when they were counted."""

    def tokens(self, name: str) -> float:
        """Return how many tokens there are; below zero after a take that was larger."""
        bucket = self._buckets.get(name)
        if bucket is None:
            return self._size
        tokens, counted_at = bucket
        return min(self._size, tokens + (self._clock.monotonic() - counted_at) * self._per_second)

    def is_full(self, name: str) -> bool:
        """Whether nothing was taken lately."""
        return self.tokens(name) >= self._size

    def seconds_until_one(self, name: str) -> float:
        """Return after which time there is a token; 0 when there is one."""
        return max(0.0, (1 - self.tokens(name)) / self._per_second)

    def take(self, name: str, count: float) -> None:
        """Take tokens, whether they are there or not."""
        self._buckets[name] = (self.tokens(name) - count, self._clock.monotonic())
        self._buckets.move_to_end(name)
        if len(self._buckets) > _BUCKETS_MAX:
            self._buckets.popitem(last=False)


class InvalidRequestLimiter:
    """Stops clients that send one request after the other that is refused; their valid ones wait with them."""

    def __init__(self, clock: Clock, *, per_second: float) -> None:
        """Refill a key's bucket with `per_second` tokens a second; 0 limits nothing."""
        self._is_on = per_second > 0
        self._keys = TokenBuckets(clock, per_second=per_second)
        self._addresses = TokenBuckets(clock, per_second=per_second * _ADDRESS_FACTOR)
        self._delayed = 0

    async def admit(self, key_id: str, address: str) -> None:
        """Return when a request may be read; a client that is stopped is told after a second.

        One that sends the next request as soon as it is told would otherwise keep us busy with refusing it.

        Raises:
            Throttled: As `check`.
        """
        try:
            self.check(key_id, address)
        except Throttled:
            if self._delayed < _DELAYED_MAX:
                self._delayed += 1
                try:
                    await asyncio.sleep(_DELAY_SECONDS)
                finally:
                    self._delayed -= 1
            raise

    def check(self, key_id: str, address: str) -> None:
        """Return when a request may be read.

        Raises:
            Throttled: Too many were refused.
        """
        if not self._is_on:
            return
        seconds = self._keys.seconds_until_one(key_id)
        if not seconds and not self._keys.is_full(key_id):
            seconds = self._addresses.seconds_until_one(address_prefix(address))
        if seconds:
            raise Throttled(
                "Too many invalid requests came from you; see the errors of the last ones, and slow down.",
                reason="too_many_invalid_requests",
                metadata={"retry_after_seconds": str(math.ceil(seconds))},
            )

    def count(self, key_id: str, address: str, size: int) -> None:
        """Count a request that was refused, after `size` bytes of its body were looked at."""
        if self._is_on:
            cost = 1 + size // _BYTES_PER_TOKEN
            self._keys.take(key_id, cost)
            self._addresses.take(address_prefix(address), cost)
