"""The model catalogue, with a list controlled by the test."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from services.common.errors import ErrorDetails, NotFound, PermissionDenied, Unavailable
from services.common.runtime.tasks import restarting, running
from services.inference.catalogue import Catalogue
from services.inference.chat import JSONObject
from tests.unit.inference.manual_clock import ManualClock

ALIASES = {"old": "new", "listed-alias": "elsewhere"}


@dataclass
class Listing:
    """A lister."""

    names: list[str] = field(default_factory=lambda: ["new", "listed-alias"])
    is_down: bool = False
    hangs: bool = False
    extra: JSONObject = field(default_factory=dict)
    asked: int = 0

    async def list_models(self) -> list[JSONObject]:
        """List, or fail."""
        self.asked += 1
        await asyncio.sleep(60 if self.hangs else 0)
        if self.is_down:
            raise Unavailable("away")
        return [{"id": name, **self.extra} for name in self.names]


@pytest.fixture
def listing() -> Listing:
    """A list of two models."""
    return Listing()


@pytest.fixture
async def catalogue(listing: Listing) -> Catalogue:
    """A catalogue with two aliases and the list loaded."""
    return await known(listing)


async def known(listing: Listing, aliases: Mapping[str, str] = ALIASES, **options: Any) -> Catalogue:
    """Return a catalogue with the list loaded."""
    catalogue = Catalogue(listing, aliases, **options)
    assert await catalogue.refresh()
    return catalogue


def test_an_alias_is_used_only_for_a_name_that_is_not_listed(catalogue: Catalogue) -> None:
    assert catalogue.resolve("old") == "new"
    assert catalogue.resolve("listed-alias") == "listed-alias"
    assert catalogue.resolve("whatever") == "whatever"


async def test_the_list_is_refreshed_every_minute_and_sooner_after_a_failure(listing: Listing) -> None:
    clock = ManualClock()
    ends_after = 8

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        listing.is_down = 2 <= len(clock.sleeps) < ends_after
        if len(clock.sleeps) > ends_after + 1:
            raise asyncio.CancelledError

    catalogue = Catalogue(listing, ALIASES, sleep=sleep)
    with pytest.raises(asyncio.CancelledError):
        await catalogue.refresh_periodically()

    assert clock.sleeps == [60, 60, 2, 4, 8, 16, 32, 60, 60, 60]


async def test_an_unexpected_answer_does_not_stop_the_refresh(listing: Listing) -> None:
    async def odd() -> list[JSONObject]:
        listing.asked += 1
        if listing.asked == 1:
            raise RecursionError("odd")
        return [{"id": "fresh"}]

    listing.list_models = odd  # type: ignore[method-assign]
    catalogue = Catalogue(listing, {})
    async with running(restarting(catalogue.refresh_periodically, pause_seconds=0)), asyncio.timeout(5):
        while not listing.asked > 1:
            await asyncio.sleep(0)

    assert names_of(catalogue.list_models()) == ["fresh"]


async def test_the_last_list_is_used_while_groq_is_unavailable(catalogue: Catalogue, listing: Listing) -> None:
    listing.is_down = True

    assert not await catalogue.refresh()

    assert names_of(catalogue.list_models()) == ["new", "listed-alias", "old"]
    assert catalogue.resolve("listed-alias") == "listed-alias"


async def test_a_built_in_list_is_used_until_groq_has_answered_once(listing: Listing) -> None:
    listing.is_down = True
    catalogue = Catalogue(listing, {"llama-3.1-8b-instant": "openai/gpt-oss-20b"})
    assert not await catalogue.refresh()

    assert catalogue.candidates("llama-3.1-8b-instant") == ["openai/gpt-oss-20b"]
    listed = names_of(catalogue.list_models())
    assert {"openai/gpt-oss-20b", "openai/gpt-oss-120b", "llama-3.1-8b-instant"} <= set(listed)


async def test_no_request_waits_for_a_hanging_list(listing: Listing) -> None:
    catalogue = await known(listing)
    listing.hangs = True
    refreshing = asyncio.create_task(catalogue.refresh())
    await asyncio.sleep(0)

    assert catalogue.candidates("old") == ["new"]
    assert len(catalogue.list_models()) == 3
    refreshing.cancel()


def names_of(listed: list[JSONObject]) -> list[str]:
    """Return the models' names."""
    return [str(model["id"]) for model in listed]


async def test_an_alias_is_listed_under_its_own_name_with_the_data_of_its_model(listing: Listing) -> None:
    listing.extra = {"context_window": 7}
    catalogue = await known(listing, ALIASES | {"lost": "not listed"})

    listed = catalogue.list_models()

    assert names_of(listed) == ["new", "listed-alias", "old"]
    assert [model.get("root") for model in listed] == [None, None, "new"]
    assert listed[-1] == {"id": "old", "root": "new", "context_window": 7}


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
async def test_only_allowed_models_are_listed_and_requested(
    listing: Listing, allowed: list[str], listed: list[str], refused: list[str]
) -> None:
    catalogue = await known(listing, ALIASES, allowed=allowed)

    assert names_of(catalogue.list_models()) == listed
    for name in listed:
        assert catalogue.candidates(name) == [ALIASES["old"] if name == "old" else name]
    for name in refused:
        with pytest.raises(NotFound) as raised:
            catalogue.candidates(name)
        assert (raised.value.reason, raised.value.details) == (
            "model_not_found",
            ErrorDetails(code="model_not_found"),
        )


async def test_fallbacks_follow_a_model_in_order_under_its_name_or_alias(listing: Listing) -> None:
    fallbacks = {"new": ["second", "old", "third"], "listed-alias": ["old"]}
    catalogue = await known(listing, ALIASES, fallbacks=fallbacks)

    assert catalogue.candidates("new") == ["new", "second", "third"]
    assert catalogue.candidates("old") == ["new", "second", "third"]
    assert catalogue.candidates("listed-alias") == ["listed-alias", "new"]
    assert catalogue.candidates("second") == ["second"]


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
async def test_a_restricted_key_gets_its_models_by_either_name_and_no_other_fallback(
    listing: Listing, permitted: list[str], candidates: list[str]
) -> None:
    catalogue = await known(listing, ALIASES, fallbacks={"new": ["second", "third"]})

    assert catalogue.candidates("old", permitted=permitted) == candidates


async def test_a_restricted_key_falls_back_to_an_alias_by_either_name(listing: Listing) -> None:
    catalogue = await known(listing, ALIASES, fallbacks={"first": ["old"]})

    for permitted in (["first", "old"], ["first", "new"]):
        assert catalogue.candidates("first", permitted=permitted) == ["first", "new"]


async def test_a_model_outside_a_keys_restriction_is_refused_by_name_with_a_remedy(catalogue: Catalogue) -> None:
    with pytest.raises(PermissionDenied) as refused:
        catalogue.candidates("whatever", permitted=["new", "what"])

    assert refused.value.reason == "model_not_allowed"
    assert "`whatever`" in refused.value.message
    assert "GET /api/v1/models" in refused.value.message


async def test_a_model_that_the_operator_does_not_allow_does_not_exist_for_any_key(listing: Listing) -> None:
    catalogue = await known(listing, ALIASES, allowed=["new"])

    with pytest.raises(NotFound):
        catalogue.candidates("other", permitted=["other"])


async def test_a_name_of_any_length_fits_into_its_refusal(listing: Listing) -> None:
    """The trailers of a gRPC error are bounded; beyond that the caller would receive neither reason nor verdict."""
    name = "\N{GRINNING FACE}" * 1_000_000

    for permitted in (["new"], []):
        catalogue = await known(listing, ALIASES, allowed=[] if permitted else ["new"])
        with pytest.raises(NotFound) as refused:
            catalogue.candidates(name, permitted=permitted)
        assert len(refused.value.message.encode()) < 2_000


@pytest.mark.parametrize(
    ("permitted", "listed"),
    [
        ([], ["new", "listed-alias", "old"]),
        (["new"], ["new", "old"]),
        (["old"], ["old"]),
        (["n*"], ["new", "old"]),
        (["elsewhere"], []),
    ],
)
async def test_a_restricted_key_is_shown_exactly_the_models_it_may_request(
    catalogue: Catalogue, permitted: list[str], listed: list[str]
) -> None:
    assert names_of(catalogue.list_models(permitted=permitted)) == listed
    for name in ("new", "listed-alias", "old"):
        if name in listed:
            assert catalogue.candidates(name, permitted=permitted)
        else:
            with pytest.raises(PermissionDenied):
                catalogue.candidates(name, permitted=permitted)


def test_a_name_that_the_ledger_cannot_store_is_no_model(catalogue: Catalogue) -> None:
    assert catalogue.candidates("m" * 256)
    with pytest.raises(NotFound):
        catalogue.candidates("m" * 257)
