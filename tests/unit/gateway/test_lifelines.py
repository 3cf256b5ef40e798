"""Live streams of a revoked key: told by the watch, or found by asking where the watch tells nothing."""

import asyncio
import gc
from dataclasses import replace

import pytest

from services.common import checked_token
from services.gateway import principals
from services.gateway.authority import Authentication
from services.gateway.lifelines import Ask, Lifelines, Standing
from services.gateway.principals import PrincipalCache
from tests.unit.gateway.authority import KEY, OTHER, PRINCIPAL, ManualClock, ScriptedAuthority, settle, watching


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def authority() -> ScriptedAuthority:
    return ScriptedAuthority()


@pytest.fixture
def lifelines(clock: ManualClock) -> Lifelines:
    return Lifelines(clock)


@pytest.fixture
def cache(
    authority: ScriptedAuthority, clock: ManualClock, lifelines: Lifelines, monkeypatch: pytest.MonkeyPatch
) -> PrincipalCache:
    monkeypatch.setattr(principals, "_STREAMS_SECONDS", 0.02)
    monkeypatch.setattr(principals, "_SESSIONS_SECONDS", 0.02)
    return PrincipalCache(authority, clock, lifelines, principals_max=10)


async def _asked(authority: ScriptedAuthority, count: int) -> None:
    async with asyncio.timeout(5):
        while len(authority.asked) < count:
            await asyncio.sleep(0.005)


def _says(standing: Standing) -> Ask:
    async def ask() -> Standing:
        return standing

    return ask


def _says_of(answers: dict[str, Standing], session_id: str) -> Ask:
    async def ask() -> Standing:
        return answers[session_id]

    return ask


async def test_a_revocation_cuts_the_keys_streams_and_no_others(
    cache: PrincipalCache, authority: ScriptedAuthority, lifelines: Lifelines
) -> None:
    authority.answers[OTHER] = Authentication(replace(PRINCIPAL, key_id="key_2"), "", 2)
    own, same = await lifelines.of_key("key_1", KEY), await lifelines.of_key("key_1", KEY)
    other = await lifelines.of_key("key_2", OTHER)
    async with watching(cache):
        await authority.tell(1)
        await authority.tell(2, "key_1", is_revoked=True)
    assert (own.is_cut, same.is_cut, other.is_cut) == (True, True, False)
    assert "This API key has been revoked" in own.refusal.message
    assert KEY not in own.refusal.message


async def test_another_change_of_a_key_cuts_nothing(
    cache: PrincipalCache, authority: ScriptedAuthority, lifelines: Lifelines
) -> None:
    lifeline = await lifelines.of_key("key_1", KEY)
    async with watching(cache):
        await authority.tell(1)
        await authority.tell(2, "key_1")
    assert not lifeline.is_cut


@pytest.mark.parametrize("auth", ["agrees", "is away"])
async def test_a_stream_that_begins_after_its_key_was_revoked_is_cut_from_the_start(
    cache: PrincipalCache, authority: ScriptedAuthority, lifelines: Lifelines, auth: str
) -> None:
    """The revocation came between the key's look-up and the stream, while the body was sent or a slot was held."""
    authority.answers[KEY] = Authentication(None, "revoked", 1)
    authority.is_away = auth == "is away"
    lifelines.cut("key_1")
    assert (await lifelines.of_key("key_1", KEY)).is_cut
    assert not (await lifelines.of_key("key_2", OTHER)).is_cut
    assert (await lifelines.of_session("ses_1", "key_1", _says(Standing.UNKNOWN))).is_cut


async def test_a_key_that_auth_finds_good_is_not_refused_for_what_is_remembered_of_it(
    cache: PrincipalCache, authority: ScriptedAuthority, lifelines: Lifelines
) -> None:
    authority.answers[KEY] = Authentication(PRINCIPAL, "", 1)
    held = await lifelines.of_key("key_1", KEY)
    lifelines.cut("key_1")
    assert held.is_cut
    assert not (await lifelines.of_key("key_1", KEY)).is_cut
    assert len(authority.asked) == 1
    assert not (await lifelines.of_key("key_1", KEY)).is_cut
    assert len(authority.asked) == 1, "auth has said so already"


async def test_a_revocation_that_is_told_while_auth_is_asked_is_not_forgotten(
    cache: PrincipalCache, authority: ScriptedAuthority, lifelines: Lifelines, clock: ManualClock
) -> None:
    lifelines.cut("key_1")
    authority.answers[KEY] = Authentication(PRINCIPAL, "", 1)
    authority.gate.clear()
    asking = asyncio.ensure_future(lifelines.of_key("key_1", KEY))
    await _asked(authority, 1)
    clock.seconds += 1
    lifelines.cut("key_1")
    authority.gate.set()
    assert (await asking).is_cut


async def test_what_is_remembered_as_revoked_expires(
    cache: PrincipalCache, authority: ScriptedAuthority, lifelines: Lifelines, clock: ManualClock
) -> None:
    authority.is_away = True
    lifelines.cut("key_1")
    clock.seconds += 119
    lifeline = await lifelines.of_key("key_1", KEY)
    assert lifeline.is_cut
    del lifeline
    clock.seconds += 2
    assert not (await lifelines.of_key("key_1", KEY)).is_cut
    assert not lifelines._revoked


async def test_the_end_of_a_session_cuts_its_own_streams_and_says_nothing_of_the_key(
    cache: PrincipalCache, authority: ScriptedAuthority, lifelines: Lifelines
) -> None:
    """Once the key was remembered as revoked, and refused for streams until the gateway was started again."""
    answers = {"ses_1": Standing.GOOD, "ses_2": Standing.GOOD}
    ended, other = [
        await lifelines.of_session(session_id, "key_1", _says_of(answers, session_id)) for session_id in answers
    ]
    by_key = await lifelines.of_key("key_1", KEY)
    async with watching(cache):
        await authority.tell(1)  # The watch is alive: it tells of keys, never of sessions.
        answers["ses_1"] = Standing.SESSION_ENDED
        async with asyncio.timeout(5):
            await ended.until_cut()
        assert "Your session has ended" in ended.refusal.message
        assert [other.is_cut, by_key.is_cut] == [False, False]
        assert not (await lifelines.of_key("key_1", KEY)).is_cut
        assert not (await lifelines.of_session("ses_3", "key_1", _says(Standing.GOOD))).is_cut


async def test_a_revocation_cuts_the_streams_of_every_session_that_uses_the_key(lifelines: Lifelines) -> None:
    mine = await lifelines.of_session("ses_1", "key_1", _says(Standing.GOOD))
    other = await lifelines.of_session("ses_1", "key_2", _says(Standing.GOOD))
    lifelines.cut("key_1")
    assert (mine.is_cut, other.is_cut) == (True, False)
    assert "revoked" in mine.refusal.message


async def test_a_lifeline_is_kept_for_as_long_as_a_stream_holds_it(lifelines: Lifelines) -> None:
    of_key = await lifelines.of_key("key_1", KEY)
    of_session = await lifelines.of_session("ses_1", "key_1", _says(Standing.GOOD))
    assert await lifelines.of_key("key_1", KEY) is of_key
    assert await lifelines.of_session("ses_1", "key_1", _says(Standing.GOOD)) is of_session
    del of_key, of_session
    gc.collect()
    assert [len(lifelines._of_keys), len(lifelines._of_sessions)] == [0, 0]


@pytest.mark.parametrize(("denial", "is_cut"), [("revoked", True), ("unknown", True), ("expired", False), ("", False)])
async def test_with_the_watch_silent_auth_itself_is_asked_about_keys_with_live_streams(
    cache: PrincipalCache, authority: ScriptedAuthority, lifelines: Lifelines, denial: str, is_cut: bool
) -> None:
    lifeline = await lifelines.of_key("key_1", KEY)
    authority.answers[KEY] = Authentication(None if denial else PRINCIPAL, denial, 1)
    async with watching(cache):
        await _asked(authority, 1)
        await settle()
        assert lifeline.is_cut == is_cut


async def test_auths_being_away_cuts_nothing(
    cache: PrincipalCache, authority: ScriptedAuthority, lifelines: Lifelines
) -> None:
    lifeline = await lifelines.of_key("key_1", KEY)
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
    held = await lifelines.of_key("key_1", KEY)
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
    lifeline = await lifelines.of_key("key_1", KEY)
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
    held = [await lifelines.of_key(id, key) for id, key in keys.items()]
    authority.gate.clear()
    async with watching(cache):
        await _asked(authority, 50)
        await settle()
        assert len(authority.asked) == 50
        authority.gate.set()
        await _asked(authority, len(held))
