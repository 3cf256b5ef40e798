"""One time-out for many waits."""

import asyncio

from services.common.concurrency.fixed_timeout import FixedTimeout


async def test_each_wait_times_out_in_its_own_time() -> None:
    loop = asyncio.get_running_loop()
    began, ended = loop.time(), dict[str, float]()

    def end(wait: str) -> None:
        ended[wait] = loop.time() - began

    timeout: FixedTimeout[str] = FixedTimeout(0.1, end)
    timeout.watch("first")
    await asyncio.sleep(0.05)
    timeout.watch("second")
    async with asyncio.timeout(5):
        while len(ended) < 2:
            await asyncio.sleep(0.01)
    assert ended["first"] >= 0.1
    assert ended["second"] >= 0.15


async def test_a_forgotten_wait_takes_no_memory_and_does_not_time_out() -> None:
    ended: list[str] = []
    timeout: FixedTimeout[str] = FixedTimeout(0.02, ended.append)
    for wait in ("a", "b", "c"):
        timeout.watch(wait)
    timeout.forget("b")
    timeout.forget("unknown")
    async with asyncio.timeout(5):
        while len(ended) < 2:
            await asyncio.sleep(0.01)
    assert ended == ["a", "c"]
    timeout.watch("d")
    timeout.close()
    await asyncio.sleep(0.05)
    assert ended == ["a", "c"]


async def test_waits_that_begin_after_all_have_ended_time_out() -> None:
    ended: list[str] = []
    timeout: FixedTimeout[str] = FixedTimeout(0.02, ended.append)
    timeout.watch("a")
    timeout.forget("a")
    await asyncio.sleep(0.05)
    timeout.watch("b")
    async with asyncio.timeout(5):
        while not ended:
            await asyncio.sleep(0.01)
    assert ended == ["b"]
