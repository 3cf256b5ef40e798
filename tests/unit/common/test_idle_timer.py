"""A timer fires when nothing has happened for its time, however often it was reset before."""

import asyncio

from services.common.concurrency.idle_timer import IdleTimer


class Fired:
    """Notes when a timer fired."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self) -> None:
        self.at.append(asyncio.get_running_loop().time())


async def test_it_fires_once_when_its_time_has_passed() -> None:
    fired, began = Fired(), asyncio.get_running_loop().time()
    with IdleTimer(0.05, fired):
        await asyncio.sleep(0.2)

    assert len(fired.at) == 1
    assert fired.at[0] - began >= 0.049


async def test_resets_put_it_off_and_its_time_counts_from_the_last_one() -> None:
    fired = Fired()
    with IdleTimer(0.1, fired) as timer:
        for _ in range(15):
            await asyncio.sleep(0.02)
            timer.reset()
        last = asyncio.get_running_loop().time()
        assert not fired.at
        await asyncio.sleep(0.3)

    assert fired.at[0] - last >= 0.099


async def test_a_restart_takes_another_time_at_once() -> None:
    fired = Fired()
    with IdleTimer(60, fired) as timer:
        timer.restart(0.02)
        await asyncio.sleep(0.2)

    assert len(fired.at) == 1


async def test_nothing_fires_after_the_block() -> None:
    fired = Fired()
    with IdleTimer(0.02, fired):
        pass
    await asyncio.sleep(0.1)

    assert not fired.at
