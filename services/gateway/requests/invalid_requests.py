"""Rate limit of invalid requests: token buckets for each key and each address.

Each rejected request costs one token, plus one for each 64 KiB of its body. An address has four times as many tokens as
a key. An empty bucket of an address does not affect keys without recent rejections, so that valid clients that share an
address with an invalid one are not limited.
"""

import asyncio
import math
from collections import OrderedDict

from services.common.address_prefix import address_prefix
from services.common.errors import ErrorDetails, Throttled
from services.common.runtime.clock import Clock

_BURST_SECONDS = 20.0
"""Capacity of a bucket, as the time in which an empty one becomes full."""
_ADDRESS_FACTOR = 4
_BYTES_PER_TOKEN = 65_536
_BUCKETS_MAX = 10_000
_DELAY_SECONDS = 1.0
_DELAYED_MAX = 256


class TokenBuckets:
    """Token buckets by name, all of the same capacity and rate.

    Missing buckets are full. The least recently used bucket is evicted when there are too many.
    """

    def __init__(self, clock: Clock, *, per_second: float) -> None:
        self._clock = clock
        self._per_second = per_second
        self._size = per_second * _BURST_SECONDS
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """For each name: the tokens, and the monotonic time of that count."""

    def tokens(self, name: str) -> float:
        """Return the number of tokens; negative if more were taken than there were."""
        bucket = self._buckets.get(name)
        if bucket is None:
            return self._size
        tokens, counted_at = bucket
        return min(self._size, tokens + (self._clock.monotonic() - counted_at) * self._per_second)

    def is_full(self, name: str) -> bool:
        """Return whether the bucket is full: nothing was taken recently."""
        return self.tokens(name) >= self._size

    def seconds_until_one(self, name: str) -> float:
        """Return the seconds until one token is available; 0 if there is one."""
        return max(0.0, (1 - self.tokens(name)) / self._per_second)

    def take(self, name: str, count: float) -> None:
        """Take `count` tokens, even if the bucket has fewer."""
        self._buckets[name] = (self.tokens(name) - count, self._clock.monotonic())
        self._buckets.move_to_end(name)
        if len(self._buckets) > _BUCKETS_MAX:
            self._buckets.popitem(last=False)


class InvalidRequestLimiter:
    """A limiter for clients that send many invalid requests. It rejects their valid requests as well."""

    def __init__(self, clock: Clock, *, per_second: float) -> None:
        """Create a limiter that refills the bucket of a key with `per_second` tokens per second; 0 disables it."""
        self._is_on = per_second > 0
        self._keys = TokenBuckets(clock, per_second=per_second)
        self._addresses = TokenBuckets(clock, per_second=per_second * _ADDRESS_FACTOR)
        self._delayed = 0

    async def admit(self, key_id: str, address: str) -> None:
        """Check whether a request may be read, and delay a rejection by one second.

        The delay slows down clients that retry immediately. At most 256 rejections are delayed at the same time.

        Raises:
            Throttled: Too many requests of the client were invalid.
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
        """Check whether a request may be read.

        Raises:
            Throttled: Too many requests of the client were invalid.
        """
        if not self._is_on:
            return
        seconds = self._keys.seconds_until_one(key_id)
        if not seconds and not self._keys.is_full(key_id):
            seconds = self._addresses.seconds_until_one(address_prefix(address))
        if seconds:
            raise Throttled(
                "Too many of your requests were invalid. Fix the errors of the last ones, and retry more slowly.",
                reason="too_many_invalid_requests",
                details=ErrorDetails(retry_after_seconds=math.ceil(seconds)),
            )

    def count(self, key_id: str, address: str, size: int) -> None:
        """Count a rejected request, of whose body `size` bytes were read."""
        if self._is_on:
            cost = 1 + size // _BYTES_PER_TOKEN
            self._keys.take(key_id, cost)
            self._addresses.take(address_prefix(address), cost)
