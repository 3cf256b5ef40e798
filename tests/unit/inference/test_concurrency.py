"""Slots for calls to Groq: limits, fairness, and no lost slot."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from services.common.errors import ErrorDetails, Throttled, Unavailable
from services.inference.requests.concurrency import ConcurrencyLimiter


class Calls:
    """Calls that hold their slot until the test ends them."""

    def __init__(self, limiter: ConcurrencyLimiter) -> None:
        self.limiter = limiter
        self.begun: list[str] = []
        self._end: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(self, *names: str) -> None:
        """Begin calls in this order; a name's first letter is its account."""
        for name in names:
            self._end[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._call(name))
            await self.settle()

    async def end(self, *names: str) -> None:
        """End calls."""
        for name in names:
            self._end[name].set()
            await self._tasks[name]
            await self.settle()

    async def cancel(self, name: str) -> None:
        """Cancel a call."""
        self._tasks[name].cancel()
        await asyncio.gather(self._tasks[name], return_exceptions=True)
        await self.settle()

    async def settle(self) -> None:
        """Run everything that is ready to run."""
        for _ in range(8):
            await asyncio.sleep(0)

    async def _call(self, name: str) -> None:
        async with self.limiter.permit(name[0]):
            self.begun.append(name)
            await self._end[name].wait()


def calls(*, calls_max: int = 100, per_account_max: int = 100, is_shared: bool = True) -> Calls:
    """Return calls that wait for a slot without a time-out."""
    limiter = ConcurrencyLimiter(
        calls_max=calls_max, per_account_max=per_account_max, queue_seconds=60, is_shared=is_shared
    )
    return Calls(limiter)


def is_unused(limiter: ConcurrencyLimiter) -> bool:
    """Return whether a limiter holds no state of any call."""
    return (limiter._calls_in_total, dict(limiter._calls), limiter._queues) == (0, {}, {})


async def test_a_call_waits_for_a_free_slot() -> None:
    one = calls(calls_max=2)
    await one.begin("a1", "a2", "a3")
    assert one.begun == ["a1", "a2"]

    await one.end("a1")

    assert one.begun == ["a1", "a2", "a3"]
    await one.end("a2", "a3")


async def test_accounts_take_turns_however_many_calls_one_has_waiting() -> None:
    one = calls(calls_max=1)
    await one.begin("a1", "a2", "a3", "a4", "b1", "c1")

    await one.end("a1", "a2", "b1", "c1", "a3", "a4")

    assert one.begun == ["a1", "a2", "b1", "c1", "a3", "a4"]


async def test_an_account_at_its_limit_does_not_block_others() -> None:
    one = calls(calls_max=3, per_account_max=2)

    await one.begin("a1", "a2", "a3", "b1")

    assert one.begun == ["a1", "a2", "b1"]
    await one.end("b1")
    assert "a3" not in one.begun
    await one.end("a1", "a2", "a3")
    assert one.begun[-1] == "a3"


async def test_a_single_account_may_use_every_slot_until_another_one_arrives() -> None:
    one = calls(calls_max=3, per_account_max=1, is_shared=False)

    await one.begin("a1", "a2", "a3")
    assert one.begun == ["a1", "a2", "a3"]
    await one.begin("b1")
    await one.end("a1")
    assert one.begun[-1] == "b1"
    await one.begin("a4")
    await one.end("a2")

    assert "a4" not in one.begun, "there are two accounts now, and it has one slot of three"
    await one.end("a3")
    assert one.begun[-1] == "a4"
    await one.end("b1", "a4")


async def test_a_cancelled_waiting_call_takes_no_slot() -> None:
    one = calls(calls_max=1)
    await one.begin("a1", "a2", "b1")

    await one.cancel("a2")
    await one.end("a1")

    assert one.begun == ["a1", "b1"]
    await one.end("b1")


async def test_a_slot_granted_to_a_call_as_it_is_cancelled_goes_to_the_next() -> None:
    one = calls(calls_max=1)
    await one.begin("a1", "a2", "b1")

    one._end["a1"].set()
    await asyncio.sleep(0)  # Its slot is granted to a2, which has not run yet.
    await one.cancel("a2")

    assert one.begun[-1] == "b1"
    await one.end("b1")
    assert is_unused(one.limiter)


async def test_calls_beyond_the_total_limit_are_unavailable_and_beyond_their_own_rate_limited() -> None:
    limiter = ConcurrencyLimiter(calls_max=2, per_account_max=1, queue_seconds=0, is_shared=True)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(limiter.permit("a"))
        with pytest.raises(Throttled) as throttled:
            await stack.enter_async_context(limiter.permit("a"))
        await stack.enter_async_context(limiter.permit("b"))
        with pytest.raises(Unavailable) as full:
            await stack.enter_async_context(limiter.permit("c"))

    assert throttled.value.reason == "concurrency_limit_exceeded"
    assert full.value.reason == "overloaded"
    assert throttled.value.details == full.value.details == ErrorDetails(retry_after_seconds=1)
    assert is_unused(limiter)


async def test_calls_without_an_account_have_no_limit_per_account() -> None:
    limiter = ConcurrencyLimiter(calls_max=3, per_account_max=1, queue_seconds=0, is_shared=True)
    async with limiter.permit(""), limiter.permit(""), limiter.permit(""):
        pass
