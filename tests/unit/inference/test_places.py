"""Places for requests under way: bounds, turns, and nothing lost."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from services.common.errors import Throttled, Unavailable
from services.inference.places import Places


class Crowd:
    """Requests that hold their place until they are told to leave."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.seated: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def arrive(self, *names: str) -> None:
        """Let requests arrive in this order; a name's first letter is its key."""
        for name in names:
            self._leave[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._sit(name))
            await self.settle()

    async def leave(self, *names: str) -> None:
        """Let requests end."""
        for name in names:
            self._leave[name].set()
            await self._tasks[name]
            await self.settle()

    async def give_up(self, name: str) -> None:
        """Cancel a request."""
        self._tasks[name].cancel()
        await asyncio.gather(self._tasks[name], return_exceptions=True)
        await self.settle()

    async def settle(self) -> None:
        """Let everything happen that can."""
        for _ in range(5):
            await asyncio.sleep(0)

    async def _sit(self, name: str) -> None:
        async with self.places.take(name[0]):
            self.seated.append(name)
            await self._leave[name].wait()


def crowd(*, places_max: int = 100, per_key_max: int = 0) -> Crowd:
    """Return a crowd that waits as long as it takes."""
    return Crowd(Places(places_max=places_max, per_key_max=per_key_max, queue_seconds=60))


async def test_who_finds_no_place_waits_for_one() -> None:
    one = crowd(places_max=2)
    await one.arrive("a1", "a2", "a3")
    assert one.seated == ["a1", "a2"]

    await one.leave("a1")

    assert one.seated == ["a1", "a2", "a3"]
    await one.leave("a2", "a3")


async def test_keys_take_turns_however_many_wait_of_one() -> None:
    one = crowd(places_max=1)
    await one.arrive("a1", "a2", "a3", "a4", "b1", "c1")

    await one.leave("a1", "a2", "b1", "c1", "a3", "a4")

    assert one.seated == ["a1", "a2", "b1", "c1", "a3", "a4"]


async def test_a_key_at_its_bound_does_not_keep_others_waiting() -> None:
    one = crowd(places_max=3, per_key_max=2)

    await one.arrive("a1", "a2", "a3", "b1")

    assert one.seated == ["a1", "a2", "b1"]
    await one.leave("b1")
    assert "a3" not in one.seated
    await one.leave("a1", "a2", "a3")
    assert one.seated[-1] == "a3"


async def test_who_gives_up_waiting_is_forgotten_and_takes_no_place() -> None:
    one = crowd(places_max=1)
    await one.arrive("a1", "a2", "b1")

    await one.give_up("a2")
    await one.leave("a1")

    assert one.seated == ["a1", "b1"]
    await one.leave("b1")


async def test_a_place_granted_to_who_gives_up_in_the_same_moment_goes_to_the_next() -> None:
    one = crowd(places_max=1)
    await one.arrive("a1", "a2", "b1")

    one._leave["a1"].set()
    await asyncio.sleep(0)  # Its place is granted to a2, which has not run yet.
    await one.give_up("a2")

    assert one.seated[-1] == "b1"
    await one.leave("b1")
    assert (one.places._taken_in_all, dict(one.places._taken), one.places._queues) == (0, {}, {})


async def test_a_full_house_is_unavailable_and_a_full_key_is_throttled() -> None:
    places = Places(places_max=2, per_key_max=1, queue_seconds=0)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(places.take("a"))
        with pytest.raises(Throttled) as throttled:
            await stack.enter_async_context(places.take("a"))
        await stack.enter_async_context(places.take("b"))
        with pytest.raises(Unavailable) as full:
            await stack.enter_async_context(places.take("c"))

    assert throttled.value.reason == "concurrency_limit_exceeded"
    assert full.value.reason == "overloaded"
    assert throttled.value.metadata == full.value.metadata == {"retry_after_seconds": "1"}
    assert (places._taken_in_all, dict(places._taken), places._queues) == (0, {}, {})


async def test_direct_callers_share_no_keys_bound() -> None:
    places = Places(places_max=3, per_key_max=1, queue_seconds=0)
    async with places.take(""), places.take(""), places.take(""):
        pass
