"""The models that can be asked for, with a clock and a list that the test moves by hand."""

import asyncio
from dataclasses import dataclass, field

import pytest

from services.common.errors import NotFound, PermissionDenied, Unavailable
from services.inference.catalogue import Catalogue
from services.inference.chat import Members
from tests.unit.inference.manual_clock import ManualClock

ALIASES = {"old": "new", "listed-alias": "elsewhere"}


@dataclass
class Listing:
    """A lister."""

    names: list[str] = field(default_factory=lambda: ["new", "listed-alias"])
    is_away: bool = False
    extra: Members = field(default_factory=dict)
    asked: int = 0

    async def list_models(self) -> list[Members]:
        """List, or fail."""
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise Unavailable("away")
        return [{"id": name, **self.extra} for name in self.names]


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


def names_of(listed: list[Members]) -> list[str]:
    """Return the models' names."""
    return [str(model["id"]) for model in listed]


async def test_an_alias_is_listed_under_its_own_name_with_what_is_known_of_its_model(listing: Listing) -> None:
    catalogue = Catalogue(listing, ALIASES | {"lost": "not listed"}, ManualClock())
    listing.extra = {"context_window": 7}

    listed = await catalogue.listed()

    assert names_of(listed) == ["new", "listed-alias", "old"]
    assert listed[-1] == {"id": "old", "context_window": 7}


@pytest.mark.parametrize(
    ("allowed", "listed", "refused"),
    [
        ([], ["new", "listed-alias", "old"], []),
        (["new"], ["new", "old"], ["listed-alias", "whatever", "newer", "ne"]),
        (["old"], ["old"], ["new", "listed-alias", "older"]),
        (["l*d-*", "x"], ["listed-alias"], ["new", "old", "l", "[[x"]),
        (["elsewhere"], [], ["listed-alias", "new"]),
    ],
)
async def test_only_what_is_allowed_is_listed_and_asked_for(
    listing: Listing, allowed: list[str], listed: list[str], refused: list[str]
) -> None:
    catalogue = Catalogue(listing, ALIASES, ManualClock(), allowed=allowed)

    assert names_of(await catalogue.listed()) == listed
    for name in listed:
        assert await catalogue.candidates(name) == [ALIASES["old"] if name == "old" else name]
    for name in refused:
        with pytest.raises(NotFound) as raised:
            await catalogue.candidates(name)
        assert (raised.value.reason, raised.value.metadata) == ("model_not_found", {"code": "model_not_found"})


async def test_fallbacks_follow_a_model_in_their_order_by_its_name_or_its_aliass(listing: Listing) -> None:
    fallbacks = {"new": ["second", "old", "third"], "listed-alias": ["old"]}
    catalogue = Catalogue(listing, ALIASES, ManualClock(), fallbacks=fallbacks)

    assert await catalogue.candidates("new") == ["new", "second", "third"]
    assert await catalogue.candidates("old") == ["new", "second", "third"]
    assert await catalogue.candidates("listed-alias") == ["listed-alias", "new"]
    assert await catalogue.candidates("second") == ["second"]


@pytest.mark.parametrize(
    ("permitted", "candidates"),
    [
        ([], ["new", "second", "third"]),
        (["old"], ["new"]),
        (["new"], ["new"]),
        (["n*", "t*"], ["new", "third"]),
        (["*"], ["new", "second", "third"]),
    ],
)
async def test_a_bound_key_gets_what_it_is_bound_to_by_either_name_and_falls_back_to_nothing_else(
    listing: Listing, permitted: list[str], candidates: list[str]
) -> None:
    catalogue = Catalogue(listing, ALIASES, ManualClock(), fallbacks={"new": ["second", "third"]})

    assert await catalogue.candidates("old", permitted=permitted) == candidates


async def test_a_bound_key_falls_back_to_an_alias_by_either_name(listing: Listing) -> None:
    catalogue = Catalogue(listing, ALIASES, ManualClock(), fallbacks={"first": ["old"]})

    for permitted in (["first", "old"], ["first", "new"]):
        assert await catalogue.candidates("first", permitted=permitted) == ["first", "new"]


async def test_a_model_that_a_key_is_not_bound_to_is_refused_by_name_with_the_remedy(catalogue: Catalogue) -> None:
    with pytest.raises(PermissionDenied) as refused:
        await catalogue.candidates("whatever", permitted=["new", "what"])

    assert refused.value.reason == "model_not_allowed"
    assert "`whatever`" in refused.value.message
    assert "GET /api/v1/models" in refused.value.message


async def test_what_the_operator_does_not_allow_does_not_exist_whatever_a_key_may(listing: Listing) -> None:
    catalogue = Catalogue(listing, ALIASES, ManualClock(), allowed=["new"])

    with pytest.raises(NotFound):
        await catalogue.candidates("other", permitted=["other"])


async def test_a_name_of_any_length_fits_into_its_refusal(listing: Listing) -> None:
    """What goes with a gRPC failure is bounded; beyond that the caller would learn neither reason nor verdict."""
    name = "\N{GRINNING FACE}" * 1_000_000

    for permitted, kind in ((["new"], PermissionDenied), ([], NotFound)):
        catalogue = Catalogue(listing, ALIASES, ManualClock(), allowed=[] if permitted else ["new"])
        with pytest.raises(kind) as refused:
            await catalogue.candidates(name, permitted=permitted)
        assert len(refused.value.message.encode()) < 2_000
