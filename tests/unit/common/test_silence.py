"""A silence ends its block when it has lasted, however often it was broken before."""

import asyncio

import pytest

from services.common.silence import Silence


async def test_a_block_in_which_nothing_is_heard_ends_after_the_bound_and_a_sixteenth_at_most() -> None:
    began = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        async with Silence(0.16):
            await asyncio.Event().wait()
    assert 0.15 < asyncio.get_running_loop().time() - began < 1


async def _hear(silence: Silence, times: int) -> float:
    """Hear something so often; return when it was last."""
    for _ in range(times):
        await asyncio.sleep(0.02)
        silence.broken()
    return asyncio.get_running_loop().time()


async def test_what_is_heard_again_and_again_goes_on_past_the_bound() -> None:
    async with Silence(0.3) as silence:
        await _hear(silence, 25)


async def test_it_is_counted_from_what_was_heard_last() -> None:
    last = 0.0

    async def stall() -> None:
        nonlocal last
        async with Silence(0.3) as silence:
            last = await _hear(silence, 20)
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await stall()
    assert asyncio.get_running_loop().time() - last > 0.28, "a stream must never be cut before its time"


async def test_what_fails_inside_fails_as_it_would_without() -> None:
    with pytest.raises(KeyError):
        async with Silence(1):
            raise KeyError
