"""The models that can be asked for, with a clock and a list that the test moves by hand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import pytest

from services.common.errors import Unavailable
from services.inference.catalogue import Catalogue
from services.inference.chat import Members, Reply

ALIASES = {"old": "new", "listed-alias": "elsewhere"}


@dataclass
class ManualClock:
    """Time that stands still until the test moves it."""

    seconds: float = 1_000.0

    def now(self) -> float:
        """Return the time."""
        return self.seconds

    def monotonic(self) -> float:
        """Return the time."""
        return self.seconds


@dataclass
class Listing:
    """A provider that only lists."""

    names: list[str] = field(default_factory=lambda: ["new", "listed-alias"])
    is_away: bool = False
    asked: int = 0

    async def list_models(self) -> list[Members]:
        """List, or fail."""
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise Unavailable("away")
        return [{"id": name} for name in self.names]

    async def complete(self, body: bytes) -> Reply:
        """Answer nothing."""
        raise NotImplementedError

    def stream(self, body: bytes) -> AbstractAsyncContextManager[AsyncIterator[list[Members]]]:
        """Answer nothing."""
        raise NotImplementedError


@pytest.fixture
def listing() -> Listing:
    """A list of two models."""
    return Listing()


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


@pytest.fixture
def catalogue(listing: Listing, clock: ManualClock) -> Catalogue:
    """A catalogue with two aliases."""
    return Catalogue(listing, ALIASES, clock)


async def test_an_alias_is_used_only_for_a_name_that_is_not_listed(catalogue: Catalogue) -> None:
    assert await catalogue.resolve("old") == "new"
    assert await catalogue.resolve("listed-alias") == "listed-alias"


async def test_a_name_without_an_alias_goes_to_groq_as_it_is_and_asks_for_no_list(
    catalogue: Catalogue, listing: Listing
) -> None:
    assert await catalogue.resolve("whatever") == "whatever"
    assert listing.asked == 0


async def test_the_list_is_asked_for_once_a_minute_however_many_want_it(
    catalogue: Catalogue, listing: Listing, clock: ManualClock
) -> None:
    await asyncio.gather(*(catalogue.models() for _ in range(5)))
    clock.seconds += 59
    await catalogue.models()
    assert listing.asked == 1

    clock.seconds += 1
    listing.names = ["old"]

    assert [model["id"] for model in await catalogue.models()] == ["old"]
    assert await catalogue.resolve("old") == "old"


async def test_an_old_list_serves_while_groq_is_away(
    catalogue: Catalogue, listing: Listing, clock: ManualClock
) -> None:
    await catalogue.models()
    clock.seconds += 60
    listing.is_away = True

    assert len(await catalogue.models()) == 2
    assert await catalogue.resolve("listed-alias") == "listed-alias"


async def test_a_list_that_was_never_had_fails_every_time_and_never_looks_empty(
    catalogue: Catalogue, listing: Listing
) -> None:
    listing.is_away = True

    for _ in range(3):
        with pytest.raises(Unavailable):
            await catalogue.models()

    assert listing.asked == 1


async def test_aliases_are_used_while_the_list_is_not_known(catalogue: Catalogue, listing: Listing) -> None:
    listing.is_away = True

    assert await catalogue.resolve("old") == "new"


async def test_a_list_that_failed_is_asked_for_again_after_two_seconds(
    catalogue: Catalogue, listing: Listing, clock: ManualClock
) -> None:
    listing.is_away = True
    await catalogue.resolve("old")
    listing.is_away = False
    clock.seconds += 1.9
    assert await catalogue.resolve("listed-alias") == "elsewhere"

    clock.seconds += 0.1

    assert await catalogue.resolve("listed-alias") == "listed-alias"
    assert len(await catalogue.models()) == 2
