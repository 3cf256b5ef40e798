"""A lock that serves urgent waiters first."""

import asyncio
from contextlib import suppress

import pytest

from services.common.concurrency.priority_lock import PriorityLock


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_there_is_one_holder_at_a_time() -> None:
    lock, inside = PriorityLock(), 0

    async def work(is_urgent: bool) -> None:
        nonlocal inside
        async with lock.hold(is_urgent=is_urgent):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(work(number % 3 == 0) for number in range(30)))


async def test_an_urgent_waiter_is_served_first_and_all_others_in_order() -> None:
    lock, order = PriorityLock(), []

    async def work(name: str) -> None:
        async with lock.hold(is_urgent=name.startswith("urgent")):
            order.append(name)
            await asyncio.sleep(0)

    names = ("first", "second", "third", "urgent 1", "urgent 2")
    await asyncio.gather(*(work(name) for name in names))
    assert order == ["first", "urgent 1", "urgent 2", "second", "third"]


@pytest.mark.parametrize("moment", ["while it waits", "as its turn comes", "when its turn has come"])
async def test_a_cancelled_waiter_leaves_its_turn_to_the_next(moment: str) -> None:
    lock = PriorityLock()

    async def work() -> None:
        async with lock.hold(is_urgent=True):
            pass

    async with lock.hold(is_urgent=False):
        leaver, stayer = asyncio.ensure_future(work()), asyncio.ensure_future(work())
        await _settle()
        if moment != "when its turn has come":
            leaver.cancel()
        if moment == "while it waits":
            await _settle()
    leaver.cancel()
    with suppress(asyncio.CancelledError):
        await leaver
    await asyncio.wait_for(stayer, 1)
    await asyncio.wait_for(work(), 1)


async def test_the_lock_is_free_after_a_block_that_raised() -> None:
    lock = PriorityLock()
    with pytest.raises(ValueError, match="x"):
        async with lock.hold(is_urgent=False):
            raise ValueError("x")
    async with asyncio.timeout(1), lock.hold(is_urgent=True):
        pass
