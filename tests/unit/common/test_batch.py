"""Many concurrent callers share one batch."""

import asyncio
from collections.abc import Sequence

import pytest
from prometheus_client import REGISTRY

from services.common.concurrency.batch import Batcher
from services.common.errors import Unavailable


class ManualBatches:
    """Batches that complete when the test allows it; a result is ten times its item."""

    def __init__(self) -> None:
        self.flights: list[list[int]] = []
        self.most_at_once = 0
        self.failure: Exception | None = None
        self._out = 0
        self._landing = asyncio.Semaphore(0)

    async def run_batch(self, items: Sequence[int]) -> Sequence[int]:
        """Run a batch, wait until the test lets it complete, and return its results."""
        self.flights.append(list(items))
        self._out += 1
        self.most_at_once = max(self.most_at_once, self._out)
        try:
            await self._landing.acquire()
        finally:
            self._out -= 1
        if self.failure is not None:
            raise self.failure
        return [10 * item for item in items]

    def complete(self, count: int = 1) -> None:
        """Let running batches complete."""
        for _ in range(count):
            self._landing.release()


def submitted(batcher: Batcher[int, int], items: Sequence[int]) -> list["asyncio.Task[int]"]:
    """Submit each item from a separate caller."""
    return [asyncio.create_task(batcher.submit(item)) for item in items]


def failed_items(name: str) -> float:
    """Return how many items of a batch are counted as failed."""
    return REGISTRY.get_sample_value("stack_batch_items_failed_total", {"batch": name}) or 0.0


async def turns(count: int = 5) -> None:
    """Run the event loop for a few turns."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_an_idle_batcher_sends_an_item_at_the_end_of_the_event_loops_turn() -> None:
    batches = ManualBatches()
    (caller,) = submitted(Batcher(batches.run_batch, name="test", max_items=9, max_concurrent_batches=1), [1])

    await turns(3)

    assert batches.flights == [[1]]
    batches.complete()
    assert await caller == 10


async def test_items_of_one_turn_share_a_batch_and_each_gets_its_own_result() -> None:
    batches = ManualBatches()
    callers = submitted(Batcher(batches.run_batch, name="test", max_items=9, max_concurrent_batches=1), [1, 2, 3])
    batches.complete()

    assert await asyncio.gather(*callers) == [10, 20, 30]

    assert batches.flights == [[1, 2, 3]]


async def test_items_queue_in_order_while_all_batches_are_in_flight() -> None:
    batches = ManualBatches()
    batcher = Batcher(batches.run_batch, name="test", max_items=9, max_concurrent_batches=1)
    first = submitted(batcher, [1])
    await turns()
    second = submitted(batcher, [2, 3])
    await turns()
    third = submitted(batcher, [4])
    await turns()
    assert batches.flights == [[1]]

    batches.complete(2)

    assert await asyncio.gather(*first, *second, *third) == [10, 20, 30, 40]
    assert batches.flights == [[1], [2, 3, 4]]


async def test_batch_size_and_concurrent_batches_stay_within_their_limits() -> None:
    batches = ManualBatches()
    callers = submitted(Batcher(batches.run_batch, name="test", max_items=3, max_concurrent_batches=2), range(20))
    await turns()
    assert batches.flights == [[0, 1, 2], [3, 4, 5]]
    batches.complete(20)

    assert await asyncio.gather(*callers) == [10 * item for item in range(20)]

    assert batches.most_at_once == 2
    assert max(map(len, batches.flights)) == 3
    assert [item for flight in batches.flights for item in flight] == list(range(20))


async def test_a_failed_batch_fails_each_of_its_items_once_and_no_others() -> None:
    batches = ManualBatches()
    batcher = Batcher(batches.run_batch, name="test", max_items=2, max_concurrent_batches=1)
    callers = submitted(batcher, [1, 2, 3])
    await turns()
    batches.failure = Unavailable("crashed", reason="crashed")
    batches.complete()
    results = await asyncio.gather(*callers[:2], return_exceptions=True)
    batches.failure = None
    batches.complete()

    assert [str(result) for result in results] == ["crashed", "crashed"]
    assert await callers[2] == 30
    assert batches.flights == [[1, 2], [3]]
    assert batcher.load == 0


@pytest.mark.parametrize("poisoned", [{1}, {3}, {7}, {2, 5}, {1, 2, 3, 4, 5, 6, 7}])
async def test_an_item_that_makes_its_batch_raise_fails_alone_and_is_counted(poisoned: set[int]) -> None:
    calls = []

    async def call(items: Sequence[int]) -> Sequence[int]:
        calls.append(list(items))
        if poisoned & set(items):
            raise TypeError("a defect")
        return [10 * item for item in items]

    before = failed_items("poisoned")
    callers = submitted(Batcher(call, name="poisoned", max_items=9, max_concurrent_batches=1), range(1, 8))

    results = await asyncio.gather(*callers, return_exceptions=True)

    for item, result in zip(range(1, 8), results, strict=True):
        assert isinstance(result, TypeError) if item in poisoned else result == 10 * item
    assert failed_items("poisoned") - before == len(poisoned)
    assert len(calls) <= 2 * 7 - 1


async def test_an_item_whose_result_is_an_exception_fails_alone() -> None:
    async def call(items: Sequence[int]) -> Sequence[int | Exception]:
        return [ValueError("odd") if item % 2 else item for item in items]

    callers = submitted(Batcher(call, name="test", max_items=9, max_concurrent_batches=1), [1, 2])

    results = await asyncio.gather(*callers, return_exceptions=True)

    assert (str(results[0]), results[1]) == ("odd", 2)


async def test_a_batch_with_a_missing_result_fails_instead_of_misassigning_results() -> None:
    async def lossy(items: Sequence[int]) -> Sequence[int]:
        return items[1:]

    callers = submitted(Batcher(lossy, name="test", max_items=9, max_concurrent_batches=1), [1, 2])

    results = await asyncio.gather(*callers, return_exceptions=True)

    assert isinstance(results[1], ValueError)


@pytest.mark.parametrize("is_waiting", [False, True])
async def test_a_cancelled_caller_cancels_no_other_and_its_item_is_still_sent(is_waiting: bool) -> None:
    batches = ManualBatches()
    batcher = Batcher(batches.run_batch, name="test", max_items=9, max_concurrent_batches=1)
    ahead = submitted(batcher, [0]) if is_waiting else []
    await turns()
    leaver, stayer = submitted(batcher, [1, 2])
    await turns()
    leaver.cancel()
    await turns()
    batches.complete(2)

    assert await stayer == 20

    assert batches.flights[-1] == [1, 2]
    assert leaver.cancelled()
    await asyncio.gather(*ahead)


async def test_a_cancelled_batch_cancels_its_callers() -> None:
    async def cancelled(items: Sequence[int]) -> Sequence[int]:
        raise asyncio.CancelledError

    batcher = Batcher(cancelled, name="test", max_items=9, max_concurrent_batches=1)

    with pytest.raises(asyncio.CancelledError):
        await batcher.submit(1)

    assert batcher.load == 0


async def test_the_load_counts_queued_and_in_flight_items() -> None:
    batches = ManualBatches()
    batcher = Batcher(batches.run_batch, name="test", max_items=2, max_concurrent_batches=1)
    assert batcher.load == 0
    callers = submitted(batcher, range(5))
    await turns()
    assert batcher.load == 5

    batches.complete()
    await asyncio.gather(*callers[:2])
    assert batcher.load == 3
    batches.complete(2)
    await asyncio.gather(*callers)
    assert batcher.load == 0


async def test_a_drain_ends_when_nothing_is_queued_or_in_flight() -> None:
    batches = ManualBatches()
    batcher = Batcher(batches.run_batch, name="test", max_items=1, max_concurrent_batches=1)
    await batcher.drain()
    callers = submitted(batcher, [1, 2])
    await turns(1)
    draining = asyncio.create_task(batcher.drain())
    await turns()
    batches.complete()
    await callers[0]
    await turns()
    assert not draining.done()

    batches.complete()
    await draining

    assert callers[1].done()


async def test_queued_items_are_sent_together_and_a_drain_does_not_wait_for_the_timer() -> None:
    batches = ManualBatches()
    batches.complete(2)
    batcher = Batcher(batches.run_batch, name="test", max_items=9, max_concurrent_batches=1, gather_seconds=0.05)
    first = submitted(batcher, [1])
    await turns()
    assert batches.flights == []
    callers = first + submitted(batcher, [2, 3])
    assert await asyncio.gather(*callers) == [10, 20, 30]
    assert batches.flights == [[1, 2, 3]]

    (late,) = submitted(batcher, [4])
    await turns()
    async with asyncio.timeout(0.04):
        await batcher.drain()
        assert await late == 40


async def test_items_queued_behind_a_batch_keep_queueing_when_it_completes() -> None:
    batches = ManualBatches()
    batcher = Batcher(batches.run_batch, name="test", max_items=9, max_concurrent_batches=1, gather_seconds=0.02)
    first = submitted(batcher, [1])
    await asyncio.sleep(0.03)
    behind = submitted(batcher, [2])
    await turns()
    batches.complete()
    await asyncio.gather(*first)
    behind += submitted(batcher, [3])
    batches.complete()
    assert await asyncio.gather(*behind) == [20, 30]
    assert batches.flights == [[1], [2, 3]]


async def test_items_wait_for_a_batch_of_usual_duration_and_overtake_a_stuck_one() -> None:
    batches = ManualBatches()
    batcher = Batcher(batches.run_batch, name="test", max_items=9, max_concurrent_batches=4, overlap_seconds=0.02)
    usual = submitted(batcher, [1])
    await turns()
    behind = submitted(batcher, [2, 3])
    await turns()
    assert batches.flights == [[1]]
    batches.complete()
    await asyncio.gather(*usual)
    await turns()
    assert batches.flights == [[1], [2, 3]], "queued items are sent as soon as the batch has completed"

    overtaking = submitted(batcher, [4])
    async with asyncio.timeout(1):
        while len(batches.flights) < 3:
            await asyncio.sleep(0.005)
    assert batches.most_at_once == 2
    batches.complete(2)
    assert await asyncio.gather(*behind, *overtaking) == [20, 30, 40]


async def test_a_flush_waits_for_earlier_items_and_nothing_else() -> None:
    batches = ManualBatches()
    batcher = Batcher(batches.run_batch, name="test", max_items=9, max_concurrent_batches=1, gather_seconds=10)
    first = submitted(batcher, [1])
    await turns()
    flushing = asyncio.create_task(batcher.flush())
    await turns()
    later = submitted(batcher, [2])
    await turns()
    assert not flushing.done()
    batches.complete()
    async with asyncio.timeout(1):
        await flushing
    assert first[0].done()
    assert not later[0].done()
    assert batches.flights == [[1]]

    flushing = asyncio.create_task(batcher.flush())
    await turns()
    batches.complete()
    async with asyncio.timeout(1):
        await flushing
    assert await asyncio.gather(*first, *later) == [10, 20]


async def test_flushing_an_empty_batcher_returns_at_once() -> None:
    async with asyncio.timeout(0.05):
        await Batcher(ManualBatches().run_batch, name="test", max_items=9, max_concurrent_batches=1).flush()
