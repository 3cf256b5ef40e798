"""How many requests may be under way at the same time, in all and of one API key, with a short fair queue.

Who finds no place waits a moment; keys take turns, so that one key's crowd never keeps the others out. A short wait
hides a burst; a long one would only make the client give up with its request still queued.
"""

import asyncio
from collections import Counter, deque
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from services.common.errors import ServiceError, Throttled, Unavailable

_RETRY_AFTER = {"retry_after_seconds": "1"}


class Places:
    """The places for requests under way."""

    def __init__(self, *, places_max: int, per_key_max: int, queue_seconds: float) -> None:
        """Allow so many in all and of each key (0: as many as in all), each after so long a wait at most."""
        self._places_max = places_max
        self._per_key_max = per_key_max
        self._queue_seconds = queue_seconds
        self._taken: Counter[str] = Counter()
        self._taken_in_all = 0
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}
        """Who waits, by key; the key whose turn is next comes first. Nobody waits who could have a place."""

    def take(self, key_id: str) -> AbstractAsyncContextManager[None]:
        """Hold a place for the block. Calls without a key are bounded only in all.

        Raises:
            Throttled: The key has as many requests under way as it may have.
            Unavailable: The service has.
        """
        return _Place(self, key_id)

    async def _wait_for_room(self, key_id: str) -> None:
        if self._has_room(key_id):
            self._enter(key_id)
        else:
            await self._queue(key_id)

    async def _queue(self, key_id: str) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(key_id, deque()).append(place)
        try:
            await asyncio.wait({place}, timeout=self._queue_seconds)
        except asyncio.CancelledError:
            self._withdraw(key_id, place)
            raise
        if not place.done():
            self._withdraw(key_id, place)
            raise self._full(key_id)

    def _withdraw(self, key_id: str, place: "asyncio.Future[None]") -> None:
        if place.done():  # Granted in the same moment.
            self._leave(key_id)
            return
        queue = self._queues[key_id]
        queue.remove(place)
        if not queue:
            del self._queues[key_id]

    def _enter(self, key_id: str) -> None:
        self._taken[key_id] += 1
        self._taken_in_all += 1

    def _leave(self, key_id: str) -> None:
        self._taken_in_all -= 1
        self._taken[key_id] -= 1
        if not self._taken[key_id]:
            del self._taken[key_id]
        while (next_key := next(filter(self._has_room, self._queues), None)) is not None:
            queue = self._queues.pop(next_key)
            queue.popleft().set_result(None)
            self._enter(next_key)
            if queue:
                self._queues[next_key] = queue  # Behind the other keys.

    def _has_room(self, key_id: str) -> bool:
        return self._taken_in_all < self._places_max and not self._is_at_bound(key_id)

    def _is_at_bound(self, key_id: str) -> bool:
        return bool(key_id and self._per_key_max) and self._taken[key_id] >= self._per_key_max

    def _full(self, key_id: str) -> ServiceError:
        if self._is_at_bound(key_id):
            message = f"this API key has {self._per_key_max} requests under way, the most at the same time; try again"
            return Throttled(message, reason="concurrency_limit_exceeded", metadata=_RETRY_AFTER)
        return Unavailable("too many requests are under way; try again", reason="overloaded", metadata=_RETRY_AFTER)


class _Place(AbstractAsyncContextManager[None]):
    """A place for a block."""

    __slots__ = ("_key_id", "_places")

    def __init__(self, places: Places, key_id: str) -> None:
        self._places, self._key_id = places, key_id

    async def __aenter__(self) -> None:
        await self._places._wait_for_room(self._key_id)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self._places._leave(self._key_id)
