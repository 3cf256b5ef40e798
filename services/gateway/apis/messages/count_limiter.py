"""Limits on requests to count tokens, which do not count against the daily limit but take time and memory."""

import asyncio
import math
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request

from services.common.concurrency.byte_budget import ByteBudget
from services.common.concurrency.fair_semaphore import FairSemaphore, QueueFull, Slot
from services.common.errors import ErrorDetails, Throttled
from services.common.runtime.clock import Clock
from services.gateway.requests.disconnect import DisconnectMonitor
from services.gateway.requests.invalid_requests import TokenBuckets

_AT_ONCE_MAX = 2
_WAITING_PER_KEY_MAX = 32
"""Claude Code sends 25 requests at once for `/context`."""
_WAITING_MAX = 256
_BODIES_BYTES_MAX = 64 * 2**20
_BODIES_BYTES_PER_KEY_MAX = 16 * 2**20
"""The largest `GATEWAY_BODY_BYTES_MAX`."""
_PER_SECOND = 10.0
"""Requests of a key per second, with a burst of 20 seconds' worth."""
_BYTES_PER_TOKEN = 65_536
_RETRY = ErrorDetails(retry_after_seconds=1)
T = TypeVar("T")


class CountLimiter:
    """Runs counts in threads, two at the same time and one of each key. Keys whose requests wait take turns."""

    def __init__(self, clock: Clock) -> None:
        """Create a limiter for the requests of all keys."""
        self._buckets = TokenBuckets(clock, per_second=_PER_SECOND)
        self._bodies = ByteBudget(total_max=_BODIES_BYTES_MAX, share_max=_BODIES_BYTES_PER_KEY_MAX)
        self._slots = FairSemaphore(
            _AT_ONCE_MAX, per_client=1, waiting_max=_WAITING_MAX, waiting_per_client_max=_WAITING_PER_KEY_MAX
        )

    def admit(self, key_id: str) -> None:
        """Check whether the body of a request may be read.

        Raises:
            Throttled: The key's counts of the last seconds were too many or too large.
        """
        seconds = self._buckets.seconds_until_one(key_id)
        if seconds:
            raise Throttled(
                "Too many requests to count tokens. Send fewer or smaller ones per second.",
                reason="too_many_token_counts",
                details=ErrorDetails(retry_after_seconds=math.ceil(seconds)),
            )

    async def run(self, request: Request, key_id: str, body: bytes, count: Callable[[bytes], T]) -> T | None:
        """Return the result of `count` for the body of `request`; None if its client left while it waited.

        Raises:
            Throttled: Too many requests of the key wait, or their bodies are too large.
            Unavailable: The bodies that wait are too large in total.
        """
        with self._bodies.take((key_id,), len(body)):
            slot = await self._slot(request, key_id)
            if slot is None:
                return None
            try:
                self._buckets.take(key_id, 1 + len(body) // _BYTES_PER_TOKEN)
                return await asyncio.to_thread(count, body)
            finally:
                slot.release()

    async def _slot(self, request: Request, key_id: str) -> Slot | None:
        client = DisconnectMonitor()
        client.cancel_on_departure()
        try:
            with client.watching(request.scope, request.receive):
                return await self._slots.acquire(key_id)
        except QueueFull:
            raise Throttled(
                "Too many requests of this key to count tokens are waiting. Send fewer at the same time.",
                reason="concurrency_limit_exceeded",
                details=_RETRY,
            ) from None
        return None
