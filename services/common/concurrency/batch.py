"""Batching: items submitted at about the same time share one call.

An idle batcher adds no delay: it sends a batch at the end of the current iteration of the event loop. While the maximum
number of batches is in flight, items wait for the next batch.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

from prometheus_client import Counter

from services.common.errors import Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")
Call = Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]]
"""Processes a batch and returns one result per item, in order. An exception as a result fails only that item."""

_log = logging.getLogger(__name__)
_ITEMS_FAILED = Counter(
    "stack_batch_items_failed_total",
    "Items that failed individually, without failing the rest of their batch.",
    ["batch"],
)


async def run_isolated(call: Call[Item, Result], items: Sequence[Item], *, name: str) -> list[Result | Exception]:
    """Return each item's result or the exception it caused, in order.

    A batch that raises is split in half and retried until the failing items are isolated, so `call` must be safe to
    repeat. A batch that raises `Unavailable` is not split, because a dependency is down for all items.

    Args:
        call: Processes a batch.
        items: The batch.
        name: Label of the batch in logs and metrics, such as `reserve`.
    """
    try:
        results = list(await call(items))
        if len(results) != len(items):
            raise ValueError(f"{len(items)} items and {len(results)} results")
    except Unavailable as exc:
        return [exc] * len(items)
    except Exception as exc:  # noqa: BLE001 - any exception must fail only the item that causes it
        if len(items) == 1:
            return [_count_failure(exc, name)]
        middle = len(items) // 2
        first = await run_isolated(call, items[:middle], name=name)
        return first + await run_isolated(call, items[middle:], name=name)
    return results


class Batcher(Generic[Item, Result]):
    """Collects items into batches and returns to each caller the result of its item.

    Safe for concurrent callers on one event loop. Cancelling a caller does not withdraw its item, which may already
    have been sent. A batch runs in the context of the first item that waited, and is part of that item's trace.
    """

    def __init__(
        self,
        call: Call[Item, Result],
        *,
        name: str,
        max_items: int,
        max_concurrent_batches: int,
        gather_seconds: float = 0,
        overlap_seconds: float = 0,
    ) -> None:
        """Create a batcher.

        Args:
            call: Processes a batch. It must enforce its own deadline and be safe to repeat (see `run_isolated`).
            name: Label of the batch in logs and metrics, such as `reserve`.
            max_items: Maximum items in one batch.
            max_concurrent_batches: Maximum batches in flight; 1 preserves the order of items.
            gather_seconds: How long the first item of a batch waits for others. For work that no caller waits for.
            overlap_seconds: How long items wait for a batch in flight before a concurrent one is sent. Set it longer
                than a batch usually takes, so that one call carries all waiting items; a batch that hangs delays them
                no further.
        """
        self._call = call
        self._name = name
        self._max_items = max_items
        self._max_concurrent_batches = max_concurrent_batches
        self._gather_seconds = gather_seconds
        self._overlap_seconds = overlap_seconds
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._context = Context()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._items_in_flight = 0
        self._timer: asyncio.Handle | None = None

    @property
    def load(self) -> int:
        """Number of items that are waiting or in flight."""
        return len(self._waiting) + self._items_in_flight

    async def submit(self, item: Item) -> Result:
        """Send an item with the next batch and return its result, or raise the exception it failed with."""
        return await self.send(item)

    def send(self, item: Item) -> "asyncio.Future[Result]":
        """Send an item with the next batch. The future receives its result, or the exception it failed with."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            self._context = copy_context()
        self._waiting.append((item, future))
        self._schedule()
        return future

    async def flush(self) -> None:
        """Send waiting items immediately, and return when every item sent so far has succeeded or failed."""
        sent: list[asyncio.Future[Any]] = [*self._in_flight, *(future for _, future in self._waiting)]
        self._send_batches()
        if sent:
            await asyncio.wait(sent)

    async def drain(self) -> None:
        """Send all items, and return when none is waiting or in flight."""
        while self._in_flight or self._waiting:
            self._send_batches()
            await asyncio.wait(self._in_flight)

    def _schedule(self) -> None:
        if self._timer or not self._waiting or len(self._in_flight) >= self._max_concurrent_batches:
            return
        loop = asyncio.get_running_loop()
        seconds = max(self._gather_seconds, self._overlap_seconds if self._in_flight else 0)
        self._timer = loop.call_later(seconds, self._send_batches) if seconds else loop.call_soon(self._send_batches)

    def _send_batches(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while self._waiting and len(self._in_flight) < self._max_concurrent_batches:
            batch, self._waiting = self._waiting[: self._max_items], self._waiting[self._max_items :]
            task = asyncio.get_running_loop().create_task(self._run(batch), context=self._context)
            self._in_flight.add(task)
            task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if self._gather_seconds:
            self._schedule()
        else:
            self._send_batches()

    async def _run(self, batch: "list[tuple[Item, asyncio.Future[Result]]]") -> None:
        self._items_in_flight += len(batch)
        try:
            results = await run_isolated(self._call, [item for item, _ in batch], name=self._name)
            for (_, future), result in zip(batch, results, strict=True):
                _resolve(future, result)
        except BaseException:  # Only a cancellation: `run_isolated` returns exceptions as results.
            for _, future in batch:
                _resolve(future, asyncio.CancelledError())
            raise
        finally:
            self._items_in_flight -= len(batch)


def _resolve(future: "asyncio.Future[Result]", result: Result | BaseException) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)


def _count_failure(exc: Exception, name: str) -> Exception:
    _ITEMS_FAILED.labels(name).inc()
    _log.error("A batch item failed", extra={"batch": name, "error": type(exc).__name__})
    return exc
