"""A semaphore that is fair to clients."""

import asyncio
from contextlib import suppress

import pytest

from services.common.concurrency.fair_semaphore import FairSemaphore, QueueFull


def _semaphore(
    total: int = 2, *, per_client: int = 2, waiting_max: int = 100, waiting_per_client_max: int = 100
) -> FairSemaphore:
    return FairSemaphore(
        total, per_client=per_client, waiting_max=waiting_max, waiting_per_client_max=waiting_per_client_max
    )


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_holders_than_the_total_and_every_waiter_is_served() -> None:
    semaphore, inside, most = _semaphore(3, per_client=3), 0, 0

    async def work(number: int) -> None:
        nonlocal inside, most
        async with semaphore.hold(str(number % 5)):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(work(number) for number in range(50)))
    assert most == 3
    async with semaphore.hold("after"), semaphore.hold("after"), semaphore.hold("after"):
        pass


async def test_a_client_holds_no_more_than_its_share_and_another_is_admitted_at_once() -> None:
    semaphore = _semaphore(4, per_client=2)
    places = [await semaphore.acquire("greedy") for _ in range(2)]
    third = asyncio.ensure_future(semaphore.acquire("greedy"))
    await _settle()
    assert not third.done()
    (await semaphore.acquire("other")).release()
    places[0].release()
    await asyncio.wait_for(third, 1)


async def test_waiting_clients_take_turns() -> None:
    semaphore, order = _semaphore(1), []
    first = await semaphore.acquire("x")

    async def work(client: str) -> None:
        async with semaphore.hold(client):
            order.append(client)

    tasks = [asyncio.ensure_future(work("busy")) for _ in range(4)]
    await _settle()
    tasks.append(asyncio.ensure_future(work("one")))
    await _settle()
    first.release()
    await asyncio.gather(*tasks)
    assert order == ["busy", "one", "busy", "busy", "busy"]


async def test_an_unidentified_client_is_bounded_by_the_total_only() -> None:
    semaphore = _semaphore(3, per_client=1)
    for _ in range(3):
        await asyncio.wait_for(semaphore.acquire(""), 1)


@pytest.mark.parametrize("bounds", [{"waiting_max": 2}, {"waiting_per_client_max": 2}])
async def test_a_waiter_beyond_the_queue_is_refused_at_once(bounds: dict[str, int]) -> None:
    semaphore = _semaphore(1, **bounds)
    place = await semaphore.acquire("a")
    waiting = [asyncio.ensure_future(semaphore.acquire("a")) for _ in range(2)]
    await _settle()
    with pytest.raises(QueueFull):
        await semaphore.acquire("a")
    place.release()
    (await waiting[0]).release()
    (await waiting[1]).release()
    (await semaphore.acquire("a")).release()


@pytest.mark.parametrize("moment", ["while it waits", "as its turn comes", "when its turn has come"])
async def test_a_cancelled_waiter_leaves_its_turn_to_the_next(moment: str) -> None:
    semaphore = _semaphore(1)
    place = await semaphore.acquire("a")
    leaver, stayer = (asyncio.ensure_future(semaphore.acquire(client)) for client in ("b", "c"))
    await _settle()
    if moment == "when its turn has come":
        place.release()
    leaver.cancel()
    if moment == "while it waits":
        await _settle()
    place.release()
    with suppress(asyncio.CancelledError):
        await leaver
    (await asyncio.wait_for(stayer, 1)).release()
    assert semaphore._waiting == 0
    assert not semaphore._queues
    assert not semaphore._held


async def test_a_slot_is_released_once() -> None:
    semaphore = _semaphore(1)
    async with semaphore.hold("a") as place:
        place.release()
        place.release()
        other = await semaphore.acquire("b")
    third = asyncio.ensure_future(semaphore.acquire("c"))
    await _settle()
    assert not third.done(), "a second release freed another holder's slot"
    other.release()
    await third
