"""Streams of revoked keys are cancelled by the watch, or by polling auth when the watch is silent."""

import asyncio
import gc
from dataclasses import replace

import pytest

from services.common import checksummed_token
from services.gateway.keys import auth_cache
from services.gateway.keys.auth_cache import AuthCache
from services.gateway.keys.auth_client import Authentication
from services.gateway.keys.revocation import IdentityCheck, IdentityState, RevocationRegistry
from tests.unit.gateway.auth_client import KEY, OTHER, PRINCIPAL, ManualClock, ScriptedAuthClient, settle, watching


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def auth_client() -> ScriptedAuthClient:
    return ScriptedAuthClient()


@pytest.fixture
def revocations(clock: ManualClock) -> RevocationRegistry:
    return RevocationRegistry(clock)


@pytest.fixture
def cache(
    auth_client: ScriptedAuthClient,
    clock: ManualClock,
    revocations: RevocationRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> AuthCache:
    monkeypatch.setattr(auth_cache, "_STREAMS_SECONDS", 0.02)
    monkeypatch.setattr(auth_cache, "_SESSIONS_SECONDS", 0.02)
    return AuthCache(auth_client, clock, revocations, auth_cache_max=10)


async def _asked(auth_client: ScriptedAuthClient, count: int) -> None:
    async with asyncio.timeout(5):
        while len(auth_client.asked) < count:
            await asyncio.sleep(0.005)


def _says(standing: IdentityState) -> IdentityCheck:
    async def ask() -> IdentityState:
        return standing

    return ask


def _checks_of(answers: dict[str, IdentityState], session_id: str) -> IdentityCheck:
    async def ask() -> IdentityState:
        return answers[session_id]

    return ask


async def test_a_revocation_cancels_the_keys_streams_and_no_others(
    cache: AuthCache, auth_client: ScriptedAuthClient, revocations: RevocationRegistry
) -> None:
    auth_client.answers[OTHER] = Authentication(replace(PRINCIPAL, key_id="key_2"), "", 2)
    own, same = await revocations.of_key("key_1", KEY), await revocations.of_key("key_1", KEY)
    other = await revocations.of_key("key_2", OTHER)
    async with watching(cache):
        await auth_client.emit(1)
        await auth_client.emit(2, "key_1", is_revoked=True)
    assert (own.is_revoked, same.is_revoked, other.is_revoked) == (True, True, False)
    assert "This API key has been revoked" in own.refusal.message
    assert KEY not in own.refusal.message


async def test_another_change_of_a_key_cancels_nothing(
    cache: AuthCache, auth_client: ScriptedAuthClient, revocations: RevocationRegistry
) -> None:
    revocation = await revocations.of_key("key_1", KEY)
    async with watching(cache):
        await auth_client.emit(1)
        await auth_client.emit(2, "key_1")
    assert not revocation.is_revoked


@pytest.mark.parametrize("auth", ["agrees", "is down"])
async def test_a_stream_that_begins_after_the_revocation_is_cancelled_at_once(
    cache: AuthCache, auth_client: ScriptedAuthClient, revocations: RevocationRegistry, auth: str
) -> None:
    """The revocation came between the look-up of the key and the stream, during the upload of the body or the
    reserve.
    """
    auth_client.answers[KEY] = Authentication(None, "revoked", 1)
    auth_client.is_down = auth == "is down"
    revocations.cancel("key_1")
    assert (await revocations.of_key("key_1", KEY)).is_revoked
    assert not (await revocations.of_key("key_2", OTHER)).is_revoked
    assert (await revocations.of_session("ses_1", "key_1", _says(IdentityState.UNKNOWN))).is_revoked


async def test_a_key_that_auth_finds_valid_is_not_refused_for_a_remembered_revocation(
    cache: AuthCache, auth_client: ScriptedAuthClient, revocations: RevocationRegistry
) -> None:
    auth_client.answers[KEY] = Authentication(PRINCIPAL, "", 1)
    held = await revocations.of_key("key_1", KEY)
    revocations.cancel("key_1")
    assert held.is_revoked
    assert not (await revocations.of_key("key_1", KEY)).is_revoked
    assert len(auth_client.asked) == 1
    assert not (await revocations.of_key("key_1", KEY)).is_revoked
    assert len(auth_client.asked) == 1, "auth has already answered"


async def test_a_revocation_reported_during_a_look_up_is_not_lost(
    cache: AuthCache, auth_client: ScriptedAuthClient, revocations: RevocationRegistry, clock: ManualClock
) -> None:
    revocations.cancel("key_1")
    auth_client.answers[KEY] = Authentication(PRINCIPAL, "", 1)
    auth_client.gate.clear()
    asking = asyncio.ensure_future(revocations.of_key("key_1", KEY))
    await _asked(auth_client, 1)
    clock.seconds += 1
    revocations.cancel("key_1")
    auth_client.gate.set()
    assert (await asking).is_revoked


async def test_a_remembered_revocation_expires(
    cache: AuthCache, auth_client: ScriptedAuthClient, revocations: RevocationRegistry, clock: ManualClock
) -> None:
    auth_client.is_down = True
    revocations.cancel("key_1")
    clock.seconds += 119
    revocation = await revocations.of_key("key_1", KEY)
    assert revocation.is_revoked
    del revocation
    clock.seconds += 2
    assert not (await revocations.of_key("key_1", KEY)).is_revoked
    assert not revocations._revoked


async def test_the_end_of_a_session_cancels_its_own_streams_only(
    cache: AuthCache, auth_client: ScriptedAuthClient, revocations: RevocationRegistry
) -> None:
    """Earlier, the key was remembered as revoked, and refused for streams until the gateway restarted."""
    answers = {"ses_1": IdentityState.VALID, "ses_2": IdentityState.VALID}
    ended, other = [
        await revocations.of_session(session_id, "key_1", _checks_of(answers, session_id)) for session_id in answers
    ]
    by_key = await revocations.of_key("key_1", KEY)
    async with watching(cache):
        await auth_client.emit(1)  # The watch is alive, but reports keys only, never sessions.
        answers["ses_1"] = IdentityState.SESSION_ENDED
        async with asyncio.timeout(5):
            await ended.until_revoked()
        assert "Your session has ended" in ended.refusal.message
        assert [other.is_revoked, by_key.is_revoked] == [False, False]
        assert not (await revocations.of_key("key_1", KEY)).is_revoked
        assert not (await revocations.of_session("ses_3", "key_1", _says(IdentityState.VALID))).is_revoked


async def test_a_revocation_cancels_the_streams_of_every_session_that_uses_the_key(
    revocations: RevocationRegistry,
) -> None:
    mine = await revocations.of_session("ses_1", "key_1", _says(IdentityState.VALID))
    other = await revocations.of_session("ses_1", "key_2", _says(IdentityState.VALID))
    revocations.cancel("key_1")
    assert (mine.is_revoked, other.is_revoked) == (True, False)
    assert "revoked" in mine.refusal.message


async def test_an_entry_is_kept_as_long_as_a_stream_uses_it(revocations: RevocationRegistry) -> None:
    of_key = await revocations.of_key("key_1", KEY)
    of_session = await revocations.of_session("ses_1", "key_1", _says(IdentityState.VALID))
    assert await revocations.of_key("key_1", KEY) is of_key
    assert await revocations.of_session("ses_1", "key_1", _says(IdentityState.VALID)) is of_session
    del of_key, of_session
    gc.collect()
    assert [len(revocations._of_keys), len(revocations._of_sessions)] == [0, 0]


@pytest.mark.parametrize(
    ("denial", "is_revoked"), [("revoked", True), ("unknown", True), ("expired", False), ("", False)]
)
async def test_without_watch_events_auth_is_polled_for_keys_with_live_streams(
    cache: AuthCache, auth_client: ScriptedAuthClient, revocations: RevocationRegistry, denial: str, is_revoked: bool
) -> None:
    revocation = await revocations.of_key("key_1", KEY)
    auth_client.answers[KEY] = Authentication(None if denial else PRINCIPAL, denial, 1)
    async with watching(cache):
        await _asked(auth_client, 1)
        await settle()
        assert revocation.is_revoked == is_revoked


async def test_an_outage_of_auth_cancels_nothing(
    cache: AuthCache, auth_client: ScriptedAuthClient, revocations: RevocationRegistry
) -> None:
    revocation = await revocations.of_key("key_1", KEY)
    auth_client.is_down = True
    async with watching(cache):
        await _asked(auth_client, 3)
        assert not revocation.is_revoked
        auth_client.is_down = False
        auth_client.answers[KEY] = Authentication(None, "revoked", 1)
        async with asyncio.timeout(5):
            await revocation.until_revoked()


async def test_while_the_watch_is_alive_auth_is_not_polled(
    cache: AuthCache, auth_client: ScriptedAuthClient, revocations: RevocationRegistry
) -> None:
    held = await revocations.of_key("key_1", KEY)
    async with watching(cache):
        await auth_client.emit(1)
        await _asked(auth_client, 1)  # The watch has begun; earlier changes were never reported.
        for _ in range(10):
            await auth_client.emit(1)
            await asyncio.sleep(0.02)
    assert not held.is_revoked
    assert len(auth_client.asked) <= 3


async def test_live_streams_are_checked_at_once_when_changes_are_not_reported_individually(
    cache: AuthCache, auth_client: ScriptedAuthClient, revocations: RevocationRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth_cache, "_STREAMS_SECONDS", 60)
    revocation = await revocations.of_key("key_1", KEY)
    async with watching(cache):
        await auth_client.emit(1)
        await _asked(auth_client, 1)
        auth_client.answers[KEY] = Authentication(None, "revoked", 2)
        await auth_client.emit(2, all_keys_changed=True)
        async with asyncio.timeout(5):
            await revocation.until_revoked()


async def test_concurrent_checks_of_live_keys_are_bounded(
    cache: AuthCache, auth_client: ScriptedAuthClient, revocations: RevocationRegistry
) -> None:
    keys = {f"key_{number}": checksummed_token.mint("sk_stk_") for number in range(120)}
    auth_client.answers |= {key: Authentication(replace(PRINCIPAL, key_id=id), "", 1) for id, key in keys.items()}
    held = [await revocations.of_key(id, key) for id, key in keys.items()]
    auth_client.gate.clear()
    async with watching(cache):
        await _asked(auth_client, 50)
        await settle()
        assert len(auth_client.asked) == 50
        auth_client.gate.set()
        await _asked(auth_client, len(held))


async def test_a_check_that_fails_unexpectedly_does_not_stop_the_others(
    revocations: RevocationRegistry,
) -> None:
    async def broken() -> IdentityState:
        raise OverflowError("odd")

    odd = await revocations.of_session("session_odd", "key_1", broken)
    ended = await revocations.of_session("session_ended", "key_2", _says(IdentityState.SESSION_ENDED))

    await revocations.check_sessions()

    assert (odd.is_revoked, ended.is_revoked) == (False, True)
