"""A semaphore whose holders are counted by client and whose waiters take turns by client."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class QueueFull(Exception):
    """Too many wait already."""


class FairSemaphore:
    """At most so many at the same time, in all and of each client. It belongs to one event loop.

    Waiters of different clients take turns, so a client that waits a thousand times delays another one by one turn. A
    client whose name is empty is not known, and is bounded in all only.
    """

    def __init__(self, total: int, *, per_client: int, waiting_max: int, waiting_per_client_max: int) -> None:
        """Let `total` in, `per_client` of each; at most `waiting_max` wait, `waiting_per_client_max` of each."""
        self._total = total
        self._per_client = per_client
        self._waiting_max = waiting_max
        self._waiting_per_client_max = waiting_per_client_max
        self._held: Counter[str] = Counter()
        self._waiting = 0
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}
        """Waiters by client; the client whose turn is next comes first."""

    @asynccontextmanager
    async def hold(self, client: str) -> "AsyncIterator[Place]":
        """Hold a place for the block, or until `Place.release`.

        Raises:
            QueueFull: Too many wait, in all or of this client.
        """
        place = await self.acquire(client)
        try:
            yield place
        finally:
            place.release()

    async def acquire(self, client: str) -> "Place":
        """Return a place, which the caller must release; raises as `hold`."""
        if self._has_room(client):
            self._held[client] += 1
        else:
            await self._wait(client)
        return Place(self, client)

    def release(self, client: str) -> None:
        """Give a place back, and hand it to the client whose turn it is."""
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]
        while (next_client := next(filter(self._has_room, self._queues), None)) is not None:
            queue = self._queues.pop(next_client)
            turn = queue.popleft()
            if queue:
                self._queues[next_client] = queue  # Behind the other clients.
            self._waiting -= 1
            if not turn.cancelled():
                self._held[next_client] += 1
                turn.set_result(None)

    async def _wait(self, client: str) -> None:
        queue = self._queues.get(client, ())
        if self._waiting >= self._waiting_max or len(queue) >= self._waiting_per_client_max:
            raise QueueFull
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(client, deque()).append(turn)
        self._waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            self._withdraw(client, turn)
            raise

    def _withdraw(self, client: str, turn: "asyncio.Future[None]") -> None:
        queue = self._queues.get(client, ())
        if not turn.cancelled():  # Its turn came in the same moment.
            self.release(client)
        elif turn in queue:
            self._queues[client].remove(turn)
            self._waiting -= 1
            if not queue:
                del self._queues[client]

    def _has_room(self, client: str) -> bool:
        return self._held.total() < self._total and (not client or self._held[client] < self._per_client)


class Place:
    """One place, given back once."""

    __slots__ = ("_client", "_semaphore")

    def __init__(self, semaphore: FairSemaphore, client: str) -> None:
        """Hold a place that `semaphore` gave to `client`."""
        self._semaphore: FairSemaphore | None = semaphore
        self._client = client

    def release(self) -> None:
        """Give it back; a second time does nothing."""
        if self._semaphore is not None:
            self._semaphore.release(self._client)
            self._semaphore = None
