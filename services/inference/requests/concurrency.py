"""How many calls to Groq may be under way at once, in total and for one account.

A place is held only while Groq is called: a request that waits for a key holds none. A request that finds no free place
waits for a moment, and accounts take turns, so that one account's crowd never keeps the others out.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.common.errors import ServiceError, Throttled, Unavailable

_RETRY_AFTER = {"retry_after_seconds": "1"}


class ConcurrencyLimiter:
    """Bounds the calls under way, with a short queue in which accounts take turns."""

    def __init__(self, *, calls_max: int, per_account_max: int, queue_seconds: float, is_shared: bool = False) -> None:
        """Create a limiter.

        Args:
            calls_max: Maximum calls at once.
            per_account_max: Maximum calls of one account at once, from the moment on in which there are several.
            queue_seconds: How long a call waits for a place.
            is_shared: Whether several accounts are known to use the service.
        """
        self._calls_max = calls_max
        self._per_account_max = per_account_max
        self._queue_seconds = queue_seconds
        self._is_shared = is_shared
        self._only_account = ""
        self._calls: Counter[str] = Counter()
        self._calls_in_total = 0
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}
        """Waiting calls by account; the account whose turn is next comes first. No call waits that could be made."""

    @asynccontextmanager
    async def place(self, account_id: str) -> AsyncIterator[None]:
        """Hold a place for the block. Calls without an account are bounded only in total.

        Raises:
            Throttled: The account has as many calls under way as it may have.
            Unavailable: The service has.
        """
        self._note_account(account_id)
        if self._has_room(account_id):
            self._enter(account_id)
        else:
            await self._queue(account_id)
        try:
            yield
        finally:
            self._leave(account_id)

    def _note_account(self, account_id: str) -> None:
        self._is_shared = self._is_shared or bool(
            account_id and self._only_account and account_id != self._only_account
        )
        self._only_account = self._only_account or account_id

    async def _queue(self, account_id: str) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(account_id, deque()).append(place)
        try:
            await asyncio.wait({place}, timeout=self._queue_seconds)
        except asyncio.CancelledError:
            self._withdraw(account_id, place)
            raise
        if not place.done():
            self._withdraw(account_id, place)
            raise self._full(account_id)

    def _withdraw(self, account_id: str, place: "asyncio.Future[None]") -> None:
        if place.done():  # Granted at the same moment.
            self._leave(account_id)
            return
        queue = self._queues[account_id]
        queue.remove(place)
        if not queue:
            del self._queues[account_id]

    def _enter(self, account_id: str) -> None:
        self._calls[account_id] += 1
        self._calls_in_total += 1

    def _leave(self, account_id: str) -> None:
        self._calls_in_total -= 1
        self._calls[account_id] -= 1
        if not self._calls[account_id]:
            del self._calls[account_id]
        while (waiting := next(filter(self._has_room, self._queues), None)) is not None:
            queue = self._queues.pop(waiting)
            queue.popleft().set_result(None)
            self._enter(waiting)
            if queue:
                self._queues[waiting] = queue  # Behind the other accounts.

    def _has_room(self, account_id: str) -> bool:
        return self._calls_in_total < self._calls_max and not self._is_at_own_limit(account_id)

    def _is_at_own_limit(self, account_id: str) -> bool:
        return bool(account_id) and self._is_shared and self._calls[account_id] >= self._per_account_max

    def _full(self, account_id: str) -> ServiceError:
        if self._is_at_own_limit(account_id):
            message = (
                f"This account has {self._per_account_max:,} requests under way, the most at the same time. Try again "
                "when one of them has ended."
            )
            return Throttled(message, reason="concurrency_limit_exceeded", metadata=_RETRY_AFTER)
        message = "Too many requests are under way. Try again in a moment."
        return Unavailable(message, reason="overloaded", metadata=_RETRY_AFTER)
