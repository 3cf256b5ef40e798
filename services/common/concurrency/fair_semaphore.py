"""A semaphore with a limit per client, whose slots go to waiting clients in turn."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class QueueFull(Exception):
    """The queue of waiters is full."""


class FairSemaphore:
    """Limits concurrent holders in total and per client. For use on one event loop.

    Waiting clients take turns, so a client with a thousand waiters delays another client by one turn only. An empty
    client name means an unknown client, to which only the total limit applies.
    """

    def __init__(self, total: int, *, per_client: int, waiting_max: int, waiting_per_client_max: int) -> None:
        """Create a semaphore.

        Args:
            total: Maximum holders.
            per_client: Maximum holders per client.
            waiting_max: Maximum waiters.
            waiting_per_client_max: Maximum waiters per client.
        """
        self._total = total
        self._per_client = per_client
        self._waiting_max = waiting_max
        self._waiting_per_client_max = waiting_per_client_max
        self._held: Counter[str] = Counter()
        self._waiting = 0
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}
        """Waiters by client, in order of the clients' turns."""

    @asynccontextmanager
    async def hold(self, client: str) -> "AsyncIterator[Slot]":
        """Hold a slot until the end of the block, or until `Slot.release`.

        Raises:
            QueueFull: Too many are waiting, in total or for this client.
        """
        slot = await self.acquire(client)
        try:
            yield slot
        finally:
            slot.release()

    async def acquire(self, client: str) -> "Slot":
        """Return a slot, which the caller must release.

        Raises:
            QueueFull: Too many are waiting, in total or for this client.
        """
        if self._has_room(client):
            self._held[client] += 1
        else:
            await self._wait(client)
        return Slot(self, client)

    def release(self, client: str) -> None:
        """Release a slot of `client` and give it to the next client in turn."""
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]
        while (next_client := next(filter(self._has_room, self._queues), None)) is not None:
            queue = self._queues.pop(next_client)
            turn = queue.popleft()
            if queue:
                self._queues[next_client] = queue  # Reinserted at the end, behind the other clients.
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
        if not turn.cancelled():  # It received the slot just before the cancellation.
            self.release(client)
        elif turn in queue:
            self._queues[client].remove(turn)
            self._waiting -= 1
            if not queue:
                del self._queues[client]

    def _has_room(self, client: str) -> bool:
        return self._held.total() < self._total and (not client or self._held[client] < self._per_client)


class Slot:
    """One slot of a semaphore, released at most once."""

    __slots__ = ("_client", "_semaphore")

    def __init__(self, semaphore: FairSemaphore, client: str) -> None:
        """Create a slot that `client` holds. Called by `FairSemaphore`."""
        self._semaphore: FairSemaphore | None = semaphore
        self._client = client

    def release(self) -> None:
        """Release the slot. Further calls do nothing."""
        if self._semaphore is not None:
            self._semaphore.release(self._client)
            self._semaphore = None
