"""Many awaiting callers, one flight: what waits together travels together.

An idle batcher that is not told to gather adds no wait: an item leaves at the end of the loop's turn in which it came.
While all flights are out, items gather and leave together with the next one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Gathers items into flights and hands each caller its own result.

    Safe for many concurrent callers of one event loop. A caller that is cancelled does not call its item back: it may
    be on its way. A flight runs in the context of its first caller, and so belongs to that one's trace.
    """

    def __init__(
        self,
        flight: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        items_max: int,
        flights_max: int,
        gather_seconds: float = 0,
        overtake_seconds: float = 0,
    ) -> None:
        """Prepare a batcher.

        Args:
            flight: Carries items and returns one result each, in order. What it raises goes to all of its callers. It
                must have a deadline of its own.
            items_max: Most items in one flight.
            flights_max: Most flights out at the same time; 1 keeps the order of items.
            gather_seconds: How long an item waits for others, for items that nobody is in a hurry for.
            overtake_seconds: How long items wait for a flight that is out before another leaves beside it: long enough
                that flights of the usual length take all together, short enough that one that is stuck holds up none.
        """
        self._flight = flight
        self._items_max = items_max
        self._flights_max = flights_max
        self._gather_seconds = gather_seconds
        self._overtake_seconds = overtake_seconds
        self._waiting: list[tuple[Item, asyncio.Future[Result], Context]] = []
        self._flying: set[asyncio.Task[None]] = set()
        self._departure: asyncio.Handle | None = None
        self._aloft = 0

    @property
    def load(self) -> int:
        """Items that wait or fly."""
        return len(self._waiting) + self._aloft

    async def submit(self, item: Item) -> Result:
        """Send `item` with the next flight and return its result, or raise what its flight raised."""
        return await self.send(item)

    def send(self, item: Item) -> "asyncio.Future[Result]":
        """Send `item` with the next flight; the future gets its result, or what its flight raised."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future, copy_context()))
        self._plan_departure()
        return future

    async def flush(self) -> None:
        """Return when all that was sent until now has landed, however it ended; none of it waits for more."""
        sent: list[asyncio.Future[Any]] = [*self._flying, *(future for _, future, _ in self._waiting)]
        self._depart()
        if sent:
            await asyncio.wait(sent)

    async def drain(self) -> None:
        """Return when nothing waits and nothing flies."""
        while self._flying or self._waiting:
            self._depart()
            await asyncio.wait(self._flying)

    def _plan_departure(self) -> None:
        if self._departure or not self._waiting or len(self._flying) >= self._flights_max:
            return
        loop = asyncio.get_running_loop()
        wait_seconds = max(self._gather_seconds, self._overtake_seconds if self._flying else 0)
        self._departure = loop.call_later(wait_seconds, self._depart) if wait_seconds else loop.call_soon(self._depart)

    def _depart(self) -> None:
        if self._departure:
            self._departure.cancel()
            self._departure = None
        while self._waiting and len(self._flying) < self._flights_max:
            load, self._waiting = self._waiting[: self._items_max], self._waiting[self._items_max :]
            task = asyncio.get_running_loop().create_task(self._fly(load), context=load[0][2])
            self._flying.add(task)
            task.add_done_callback(self._land)

    def _land(self, task: asyncio.Task[None]) -> None:
        self._flying.discard(task)
        if self._gather_seconds:
            self._plan_departure()
        else:
            self._depart()

    async def _fly(self, load: list[tuple[Item, asyncio.Future[Result], Context]]) -> None:
        self._aloft += len(load)
        try:
            results = await self._flight([item for item, _, _ in load])
            for (_, future, _), result in zip(load, results, strict=True):
                if not future.done():
                    future.set_result(result)
        except BaseException as exc:
            for _, future, _ in load:
                if not future.done():
                    future.set_exception(exc if isinstance(exc, Exception) else asyncio.CancelledError())
            if not isinstance(exc, Exception):
                raise
        finally:
            self._aloft -= len(load)
