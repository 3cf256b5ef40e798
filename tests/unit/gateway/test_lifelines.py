"""Live streams of a revoked key: told by the watch, or found by asking where the watch tells nothing."""

import asyncio
import gc
from dataclasses import replace

import pytest

from services.common import checked_token
from services.gateway import principals
from services.gateway.authority import Authentication
from services.gateway.lifelines import Lifelines
from services.gateway.principals import PrincipalCache
from tests.unit.gateway.authority import KEY, OTHER, PRINCIPAL, ManualClock, ScriptedAuthority, settle, watching


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def authority() -> ScriptedAuthority:
    return ScriptedAuthority()


@pytest.fixture
def lifelines() -> Lifelines:
    return Lifelines()


@pytest.fixture
def cache(
    authority: ScriptedAuthority, clock: ManualClock, lifelines: Lifelines, monkeypatch: pytest.MonkeyPatch
) -> PrincipalCache:
    monkeypatch.setattr(principals, "_STREAMS_SECONDS", 0.02)
    return PrincipalCache(authority, clock, lifelines, principals_max=10)


async def _asked(authority: ScriptedAuthority, count: int) -> None:
    async with asyncio.timeout(5):
        while len(authority.asked) < count:
            await asyncio.sleep(0.005)


async def test_a_revocation_cuts_the_keys_streams_and_no_others(
    cache: PrincipalCache, authority: ScriptedAuthority, lifelines: Lifelines
) -> None:
    authority.answers[OTHER] = Authentication(replace(PRINCIPAL, key_id="key_2"), "", 2)
    own, same, other = lifelines.of("key_1", KEY), lifelines.of("key_1", KEY), lifelines.of("key_2", OTHER)
    async with watching(cache):
        await authority.tell(1)
        await authority.tell(2, "key_1", is_revoked=True)
    assert (own.is_cut, same.is_cut, other.is_cut) == (True, True, False)
    assert "This API key has been revoked" in own.refusal.message
    assert KEY not in own.refusal.message


async def test_another_change_of_a_key_cuts_nothing(
    cache: PrincipalCache, authority: ScriptedAuthority, lifelines: Lifelines
) -> None:
    lifeline = lifelines.of("key_1", KEY)
    async with watching(cache):
        await authority.tell(1)
        await authority.tell(2, "key_1")
    assert not lifeline.is_cut


def test_a_stream_that_begins_after_its_key_was_revoked_is_cut_from_the_start(lifelines: Lifelines) -> None:
    """The revocation came between the key's look-up and the stream, while the body was sent or a slot was held."""
    lifelines.cut("key_1")
    assert lifelines.of("key_1", KEY).is_cut
    assert not lifelines.of("key_2", OTHER).is_cut


def test_a_lifeline_is_kept_for_as_long_as_a_stream_holds_it(lifelines: Lifelines) -> None:
    lifeline = lifelines.of("key_1", KEY)
    assert lifelines.of("key_1", KEY) is lifeline
    del lifeline
    gc.collect()
    assert not lifelines._lifelines


@pytest.mark.parametrize(("denial", "is_cut"), [("revoked", True), ("unknown", True), ("expired", False), ("", False)])
async def test_with_the_watch_silent_auth_itself_is_asked_about_keys_with_live_streams(
    cache: PrincipalCache, authority: ScriptedAuthority, lifelines: Lifelines, denial: str, is_cut: bool
) -> None:
    lifeline = lifelines.of("key_1", KEY)
    authority.answers[KEY] = Authentication(None if denial else PRINCIPAL, denial, 1)
    async with watching(cache):
        await _asked(authority, 1)
        await settle()
        assert lifeline.is_cut == is_cut


async def test_auths_being_away_cuts_nothing(
    cache: PrincipalCache, authority: ScriptedAuthority, lifelines: Lifelines
) -> None:
    lifeline = lifelines.of("key_1", KEY)
    authority.is_away = True
    async with watching(cache):
        await _asked(authority, 3)
        assert not lifeline.is_cut
        authority.is_away = False
        authority.answers[KEY] = Authentication(None, "revoked", 1)
        async with asyncio.timeout(5):
            await lifeline.until_cut()


async def test_while_the_watch_lives_nobody_is_asked(
    cache: PrincipalCache, authority: ScriptedAuthority, lifelines: Lifelines
) -> None:
    held = lifelines.of("key_1", KEY)
    async with watching(cache):
        await authority.tell(1)
        await _asked(authority, 1)  # The watch began: what came before it was never told.
        for _ in range(10):
            await authority.tell(1)
            await asyncio.sleep(0.02)
    assert not held.is_cut
    assert len(authority.asked) <= 3


async def test_where_changes_are_not_told_one_by_one_live_streams_are_looked_at_at_once(
    cache: PrincipalCache, authority: ScriptedAuthority, lifelines: Lifelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(principals, "_STREAMS_SECONDS", 60)
    lifeline = lifelines.of("key_1", KEY)
    async with watching(cache):
        await authority.tell(1)
        await _asked(authority, 1)
        authority.answers[KEY] = Authentication(None, "revoked", 2)
        await authority.tell(2, all_keys_changed=True)
        async with asyncio.timeout(5):
            await lifeline.until_cut()


async def test_live_keys_are_asked_about_a_bounded_number_at_the_same_time(
    cache: PrincipalCache, authority: ScriptedAuthority, lifelines: Lifelines
) -> None:
    keys = {f"key_{number}": checked_token.mint("sk_stk_") for number in range(120)}
    authority.answers |= {key: Authentication(replace(PRINCIPAL, key_id=id), "", 1) for id, key in keys.items()}
    held = [lifelines.of(id, key) for id, key in keys.items()]
    authority.gate.clear()
    async with watching(cache):
        await _asked(authority, 50)
        await settle()
        assert len(authority.asked) == 50
        authority.gate.set()
        await _asked(authority, len(held))


async def test_with_the_watch_silent_auth_is_asked_with_the_owners_session_about_streams_of_the_playground(
    cache: PrincipalCache, lifelines: Lifelines
) -> None:
    """No key is shown there, so the key itself cannot be asked about."""
    answers = [False, True]

    async def owner_says() -> bool:
        return answers.pop(0)

    lifeline = lifelines.of("key_1", "", owner_says)
    async with watching(cache), asyncio.timeout(5):
        await lifeline.until_cut()
    assert answers == []
