"""A timer fires when nothing has happened for its interval, however often it was reset before."""

import asyncio

from services.common.concurrency.idle_timer import IdleTimer


class Fired:
    """Records when a timer fired."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self) -> None:
        self.at.append(asyncio.get_running_loop().time())


async def test_it_fires_once_after_its_interval() -> None:
    fired, began = Fired(), asyncio.get_running_loop().time()
    with IdleTimer(0.05, fired):
        await asyncio.sleep(0.2)

    assert len(fired.at) == 1
    assert fired.at[0] - began >= 0.049


async def test_each_reset_restarts_the_interval() -> None:
    fired = Fired()
    with IdleTimer(0.1, fired) as timer:
        for _ in range(15):
            await asyncio.sleep(0.02)
            timer.reset()
        last = asyncio.get_running_loop().time()
        assert not fired.at
        await asyncio.sleep(0.3)

    assert fired.at[0] - last >= 0.099


async def test_restarting_with_another_interval_takes_effect_at_once() -> None:
    fired = Fired()
    with IdleTimer(60, fired) as timer:
        timer.restart(0.02)
        await asyncio.sleep(0.2)

    assert len(fired.at) == 1


async def test_nothing_fires_after_the_block_has_ended() -> None:
    fired = Fired()
    with IdleTimer(0.02, fired):
        pass
    await asyncio.sleep(0.1)

    assert not fired.at
