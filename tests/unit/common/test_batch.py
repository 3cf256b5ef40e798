"""Many concurrent callers share one batch."""

import asyncio
from collections.abc import Sequence

import pytest
from prometheus_client import REGISTRY

from services.common.concurrency.batch import Batcher
from services.common.errors import Unavailable


class Airline:
    """Batches that complete when the test allows it; a result is ten times its item."""

    def __init__(self) -> None:
        self.flights: list[list[int]] = []
        self.most_at_once = 0
        self.failure: Exception | None = None
        self._out = 0
        self._landing = asyncio.Semaphore(0)

    async def fly(self, items: Sequence[int]) -> Sequence[int]:
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

    def land(self, count: int = 1) -> None:
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
    airline = Airline()
    (caller,) = submitted(Batcher(airline.fly, name="test", max_items=9, max_concurrent_batches=1), [1])

    await turns(3)

    assert airline.flights == [[1]]
    airline.land()
    assert await caller == 10


async def test_items_of_one_turn_share_a_batch_and_each_gets_its_own_result() -> None:
    airline = Airline()
    callers = submitted(Batcher(airline.fly, name="test", max_items=9, max_concurrent_batches=1), [1, 2, 3])
    airline.land()

    assert await asyncio.gather(*callers) == [10, 20, 30]

    assert airline.flights == [[1, 2, 3]]


async def test_items_queue_in_order_while_all_batches_are_in_flight() -> None:
    airline = Airline()
    batcher = Batcher(airline.fly, name="test", max_items=9, max_concurrent_batches=1)
    first = submitted(batcher, [1])
    await turns()
    second = submitted(batcher, [2, 3])
    await turns()
    third = submitted(batcher, [4])
    await turns()
    assert airline.flights == [[1]]

    airline.land(2)

    assert await asyncio.gather(*first, *second, *third) == [10, 20, 30, 40]
    assert airline.flights == [[1], [2, 3, 4]]


async def test_batch_size_and_concurrent_batches_stay_within_their_limits() -> None:
    airline = Airline()
    callers = submitted(Batcher(airline.fly, name="test", max_items=3, max_concurrent_batches=2), range(20))
    await turns()
    assert airline.flights == [[0, 1, 2], [3, 4, 5]]
    airline.land(20)

    assert await asyncio.gather(*callers) == [10 * item for item in range(20)]

    assert airline.most_at_once == 2
    assert max(map(len, airline.flights)) == 3
    assert [item for flight in airline.flights for item in flight] == list(range(20))


async def test_a_failed_batch_fails_each_of_its_items_once_and_no_others() -> None:
    airline = Airline()
    batcher = Batcher(airline.fly, name="test", max_items=2, max_concurrent_batches=1)
    callers = submitted(batcher, [1, 2, 3])
    await turns()
    airline.failure = Unavailable("crashed", reason="crashed")
    airline.land()
    results = await asyncio.gather(*callers[:2], return_exceptions=True)
    airline.failure = None
    airline.land()

    assert [str(result) for result in results] == ["crashed", "crashed"]
    assert await callers[2] == 30
    assert airline.flights == [[1, 2], [3]]
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
    airline = Airline()
    batcher = Batcher(airline.fly, name="test", max_items=9, max_concurrent_batches=1)
    ahead = submitted(batcher, [0]) if is_waiting else []
    await turns()
    leaver, stayer = submitted(batcher, [1, 2])
    await turns()
    leaver.cancel()
    await turns()
    airline.land(2)

    assert await stayer == 20

    assert airline.flights[-1] == [1, 2]
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
    airline = Airline()
    batcher = Batcher(airline.fly, name="test", max_items=2, max_concurrent_batches=1)
    assert batcher.load == 0
    callers = submitted(batcher, range(5))
    await turns()
    assert batcher.load == 5

    airline.land()
    await asyncio.gather(*callers[:2])
    assert batcher.load == 3
    airline.land(2)
    await asyncio.gather(*callers)
    assert batcher.load == 0


async def test_a_drain_ends_when_nothing_is_queued_or_in_flight() -> None:
    airline = Airline()
    batcher = Batcher(airline.fly, name="test", max_items=1, max_concurrent_batches=1)
    await batcher.drain()
    callers = submitted(batcher, [1, 2])
    await turns(1)
    draining = asyncio.create_task(batcher.drain())
    await turns()
    airline.land()
    await callers[0]
    await turns()
    assert not draining.done()

    airline.land()
    await draining

    assert callers[1].done()


async def test_queued_items_are_sent_together_and_a_drain_does_not_wait_for_the_timer() -> None:
    airline = Airline()
    airline.land(2)
    batcher = Batcher(airline.fly, name="test", max_items=9, max_concurrent_batches=1, gather_seconds=0.05)
    first = submitted(batcher, [1])
    await turns()
    assert airline.flights == []
    callers = first + submitted(batcher, [2, 3])
    assert await asyncio.gather(*callers) == [10, 20, 30]
    assert airline.flights == [[1, 2, 3]]

    (late,) = submitted(batcher, [4])
    await turns()
    async with asyncio.timeout(0.04):
        await batcher.drain()
        assert await late == 40


async def test_items_queued_behind_a_batch_keep_queueing_when_it_completes() -> None:
    airline = Airline()
    batcher = Batcher(airline.fly, name="test", max_items=9, max_concurrent_batches=1, gather_seconds=0.02)
    first = submitted(batcher, [1])
    await asyncio.sleep(0.03)
    behind = submitted(batcher, [2])
    await turns()
    airline.land()
    await asyncio.gather(*first)
    behind += submitted(batcher, [3])
    airline.land()
    assert await asyncio.gather(*behind) == [20, 30]
    assert airline.flights == [[1], [2, 3]]


async def test_items_wait_for_a_batch_of_usual_duration_and_overtake_a_stuck_one() -> None:
    airline = Airline()
    batcher = Batcher(airline.fly, name="test", max_items=9, max_concurrent_batches=4, overlap_seconds=0.02)
    usual = submitted(batcher, [1])
    await turns()
    behind = submitted(batcher, [2, 3])
    await turns()
    assert airline.flights == [[1]]
    airline.land()
    await asyncio.gather(*usual)
    await turns()
    assert airline.flights == [[1], [2, 3]], "queued items are sent as soon as the batch has completed"

    overtaking = submitted(batcher, [4])
    async with asyncio.timeout(1):
        while len(airline.flights) < 3:
            await asyncio.sleep(0.005)
    assert airline.most_at_once == 2
    airline.land(2)
    assert await asyncio.gather(*behind, *overtaking) == [20, 30, 40]


async def test_a_flush_waits_for_earlier_items_and_nothing_else() -> None:
    airline = Airline()
    batcher = Batcher(airline.fly, name="test", max_items=9, max_concurrent_batches=1, gather_seconds=10)
    first = submitted(batcher, [1])
    await turns()
    flushing = asyncio.create_task(batcher.flush())
    await turns()
    later = submitted(batcher, [2])
    await turns()
    assert not flushing.done()
    airline.land()
    async with asyncio.timeout(1):
        await flushing
    assert first[0].done()
    assert not later[0].done()
    assert airline.flights == [[1]]

    flushing = asyncio.create_task(batcher.flush())
    await turns()
    airline.land()
    async with asyncio.timeout(1):
        await flushing
    assert await asyncio.gather(*first, *later) == [10, 20]


async def test_flushing_an_empty_batcher_returns_at_once() -> None:
    async with asyncio.timeout(0.05):
        await Batcher(Airline().fly, name="test", max_items=9, max_concurrent_batches=1).flush()
