"""Concurrency limits of calls to Groq, in total and per account.

A permit is held only during a call to Groq, not while a request waits for a key. Without a free permit, a request waits
briefly in its account's queue. The queues are served round-robin, so one account cannot starve the others.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.common.errors import ErrorDetails, ServiceError, Throttled, Unavailable

_RETRY_AFTER = ErrorDetails(retry_after_seconds=1)


class ConcurrencyLimiter:
    """A semaphore with a limit per account and a fair queue."""

    def __init__(self, *, calls_max: int, per_account_max: int, queue_seconds: float, is_shared: bool = False) -> None:
        """Create a limiter.

        Args:
            calls_max: Maximum concurrent calls.
            per_account_max: Maximum concurrent calls of one account; applies once several accounts use the service.
            queue_seconds: Maximum wait for a permit.
            is_shared: Whether several accounts already use the service.
        """
        self._calls_max = calls_max
        self._per_account_max = per_account_max
        self._queue_seconds = queue_seconds
        self._is_shared = is_shared
        self._only_account = ""
        self._calls: Counter[str] = Counter()
        self._calls_in_total = 0
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}
        """Waiting calls by account, in round-robin order. A call only waits while a limit prevents it."""

    @asynccontextmanager
    async def permit(self, account_id: str) -> AsyncIterator[None]:
        """Hold a permit for the block. Calls without an account count only towards the total limit.

        Raises:
            Throttled: The account's limit is reached.
            Unavailable: The total limit is reached.
        """
        self._record_account(account_id)
        if self._has_room(account_id):
            self._acquire(account_id)
        else:
            await self._queue(account_id)
        try:
            yield
        finally:
            self._release(account_id)

    def _record_account(self, account_id: str) -> None:
        self._is_shared = self._is_shared or bool(
            account_id and self._only_account and account_id != self._only_account
        )
        self._only_account = self._only_account or account_id

    async def _queue(self, account_id: str) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(account_id, deque()).append(waiter)
        try:
            await asyncio.wait({waiter}, timeout=self._queue_seconds)
        except asyncio.CancelledError:
            self._withdraw(account_id, waiter)
            raise
        if not waiter.done():
            self._withdraw(account_id, waiter)
            raise self._limit_error(account_id)

    def _withdraw(self, account_id: str, waiter: "asyncio.Future[None]") -> None:
        if waiter.done():  # A permit was granted before the cancellation arrived.
            self._release(account_id)
            return
        queue = self._queues[account_id]
        queue.remove(waiter)
        if not queue:
            del self._queues[account_id]

    def _acquire(self, account_id: str) -> None:
        self._calls[account_id] += 1
        self._calls_in_total += 1

    def _release(self, account_id: str) -> None:
        self._calls_in_total -= 1
        self._calls[account_id] -= 1
        if not self._calls[account_id]:
            del self._calls[account_id]
        while (waiting := next(filter(self._has_room, self._queues), None)) is not None:
            queue = self._queues.pop(waiting)
            queue.popleft().set_result(None)
            self._acquire(waiting)
            if queue:
                self._queues[waiting] = queue  # Move to the end of the round-robin order.

    def _has_room(self, account_id: str) -> bool:
        return self._calls_in_total < self._calls_max and not self._is_at_own_limit(account_id)

    def _is_at_own_limit(self, account_id: str) -> bool:
        return bool(account_id) and self._is_shared and self._calls[account_id] >= self._per_account_max

    def _limit_error(self, account_id: str) -> ServiceError:
        if self._is_at_own_limit(account_id):
            message = (
                f"This account has reached its limit of {self._per_account_max:,} concurrent requests. Try again when "
                "one of them has finished."
            )
            return Throttled(message, reason="concurrency_limit_exceeded", details=_RETRY_AFTER)
        message = "The service has reached its limit of concurrent requests. Try again in a moment."
        return Unavailable(message, reason="overloaded", details=_RETRY_AFTER)
