"""The auth cache: as good as auth's own answer while the watch runs, and stale by 5 s at most."""

import asyncio
from dataclasses import replace

import pytest

from services.common import checksummed_token
from services.common.errors import Unauthenticated, Unavailable
from services.gateway.keys.auth_cache import AuthCache
from services.gateway.keys.auth_client import Authentication
from services.gateway.keys.revocation import RevocationRegistry
from tests.unit.gateway.auth_client import KEY, OTHER, PRINCIPAL, ManualClock, ScriptedAuthClient, settle, watching


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def auth_client() -> ScriptedAuthClient:
    return ScriptedAuthClient()


@pytest.fixture
def cache(auth_client: ScriptedAuthClient, clock: ManualClock) -> AuthCache:
    return AuthCache(auth_client, clock, RevocationRegistry(clock), auth_cache_max=2)


async def test_a_key_is_looked_up_once(cache: AuthCache, auth_client: ScriptedAuthClient) -> None:
    assert await cache.authenticate(KEY) == PRINCIPAL
    assert await cache.authenticate(KEY) == PRINCIPAL
    assert auth_client.asked == [KEY]


async def test_callers_with_the_same_new_key_share_one_look_up(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    auth_client.gate.clear()
    waiting = [asyncio.create_task(cache.authenticate(KEY)) for _ in range(50)]
    await settle()
    auth_client.gate.set()
    assert set(await asyncio.gather(*waiting)) == {PRINCIPAL}
    assert auth_client.asked == [KEY]


@pytest.mark.parametrize(
    "api_key",
    ["", "sk_stk_", "sk_stk_short", "x" * 10_000, KEY[:-1] + "!", "sk_stk_é" + KEY],
    ids=["empty", "prefix", "short", "long", "punctuation", "not ASCII"],
)
async def test_a_malformed_key_is_never_sent_to_auth(
    cache: AuthCache, auth_client: ScriptedAuthClient, api_key: str
) -> None:
    with pytest.raises(Unauthenticated):
        await cache.authenticate(api_key)
    assert auth_client.asked == []


async def test_a_refusal_shows_only_a_short_prefix_of_the_key(cache: AuthCache) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await cache.authenticate(OTHER)
    assert OTHER not in refused.value.message
    assert OTHER[-4:] in refused.value.message


async def test_a_change_takes_effect_at_once(
    cache: AuthCache, auth_client: ScriptedAuthClient, clock: ManualClock
) -> None:
    async with watching(cache):
        await auth_client.emit(1)
        await cache.authenticate(KEY)
        auth_client.answers[KEY] = Authentication(None, "revoked", 2)
        await auth_client.emit(2, "key_1")
        with pytest.raises(Unauthenticated) as refused:
            await cache.authenticate(KEY)
    assert refused.value.reason == "revoked"


async def test_an_event_that_the_cached_answer_already_includes_causes_no_look_up(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    """A key is used before the watch reports it: if it were dropped then, an outage of auth would stop it at once."""
    async with watching(cache):
        await auth_client.emit(1)
        auth_client.answers[KEY] = Authentication(PRINCIPAL, "", 2)
        await cache.authenticate(KEY)
        await auth_client.emit(2, "key_1")
        await cache.authenticate(KEY)
        assert auth_client.asked == [KEY]
        await auth_client.emit(3, "key_1")
        auth_client.answers[KEY] = Authentication(None, "revoked", 3)
        with pytest.raises(Unauthenticated):
            await cache.authenticate(KEY)


async def test_an_answer_older_than_the_last_change_seen_is_dropped(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    """The look-up read before the revocation and arrives after it: if cached, it would outlive the revocation."""
    async with watching(cache):
        await auth_client.emit(1)
        auth_client.gate.clear()
        asking = asyncio.create_task(cache.authenticate(KEY))
        await settle()
        auth_client.answers[KEY] = Authentication(None, "revoked", 2)
        await auth_client.emit(2, "key_1")
        auth_client.gate.set()
        with pytest.raises(Unauthenticated):
            await asking
    assert len(auth_client.asked) == 2


async def test_an_answer_read_before_the_first_watch_began_is_not_cached(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    """The revocation fell between the look-up and the watch's first event, so the watch never reports it."""
    auth_client.gate.clear()
    asking = asyncio.create_task(cache.authenticate(KEY))
    await settle()
    auth_client.answers[KEY] = Authentication(None, "revoked", 2)
    async with watching(cache):
        await auth_client.emit(2)
        auth_client.gate.set()
        with pytest.raises(Unauthenticated):
            await asking


async def test_an_answer_as_recent_as_the_first_watch_stays_cached(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    """A gateway answers before its watch begins: an outage of auth must not invalidate what it looked up then."""
    auth_client.answers[KEY] = Authentication(PRINCIPAL, "", 2)
    await cache.authenticate(KEY)
    async with watching(cache):
        await auth_client.emit(2)
        assert await cache.authenticate(KEY) == PRINCIPAL
    assert auth_client.asked == [KEY]


async def test_an_auth_that_never_catches_up_is_an_outage_and_not_an_endless_loop(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    async with watching(cache):
        await auth_client.emit(9, "key_1")
        with pytest.raises(Unavailable):
            await cache.authenticate(KEY)
    assert len(auth_client.asked) < 20


async def test_heartbeats_keep_all_cached_keys_valid(
    cache: AuthCache, auth_client: ScriptedAuthClient, clock: ManualClock
) -> None:
    async with watching(cache):
        await auth_client.emit(1)
        await cache.authenticate(KEY)
        for _ in range(100):
            clock.seconds += 0.5
            await auth_client.emit(1)
        await cache.authenticate(KEY)
    assert auth_client.asked == [KEY]


async def test_without_a_heartbeat_a_cached_key_expires_after_five_seconds(
    cache: AuthCache, auth_client: ScriptedAuthClient, clock: ManualClock
) -> None:
    await cache.authenticate(KEY)
    clock.seconds += 4.4
    await cache.authenticate(KEY)
    assert auth_client.asked == [KEY]
    clock.seconds += 0.2
    await cache.authenticate(KEY)
    assert auth_client.asked == [KEY, KEY]


async def test_with_auth_down_an_unconfirmed_key_is_unavailable_and_never_refused(
    cache: AuthCache, auth_client: ScriptedAuthClient, clock: ManualClock
) -> None:
    await cache.authenticate(KEY)
    auth_client.is_down = True
    clock.seconds += 4.4
    assert await cache.authenticate(KEY) == PRINCIPAL
    clock.seconds += 0.2
    with pytest.raises(Unavailable):
        await cache.authenticate(KEY)


async def test_a_broken_watch_resumes_at_its_last_revision(cache: AuthCache, auth_client: ScriptedAuthClient) -> None:
    async with watching(cache):
        await auth_client.emit(7)
        await auth_client.end_watch()
        async with asyncio.timeout(2):
            while len(auth_client.resumed_from) < 2:
                await asyncio.sleep(0.01)
    assert auth_client.resumed_from == [None, 7]


async def test_when_any_key_may_have_changed_all_keys_are_looked_up_again_and_older_answers_are_dropped(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    """A plan's new limit: an answer read before it would keep the old limit in use."""
    new = replace(PRINCIPAL, daily_limit=5)
    async with watching(cache):
        await auth_client.emit(1)
        await cache.authenticate(KEY)
        await auth_client.emit(2, all_keys_changed=True)
        auth_client.gate.clear()
        asking = asyncio.create_task(cache.authenticate(KEY))
        await settle()
        auth_client.answers[KEY] = Authentication(new, "", 2)
        auth_client.gate.set()
        assert await asking == new
    assert auth_client.asked == [KEY] * 3


async def test_when_auth_loses_revisions_the_cache_is_cleared(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    async with watching(cache):
        auth_client.answers[KEY] = Authentication(PRINCIPAL, "", 7)
        await auth_client.emit(7)
        await cache.authenticate(KEY)
        auth_client.answers[KEY] = Authentication(PRINCIPAL, "", 3)
        await auth_client.emit(3)
        await cache.authenticate(KEY)
    assert auth_client.asked == [KEY, KEY]


async def test_a_revocation_takes_effect_even_if_the_cached_answer_seems_newer(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    """The answer was read at a revision that a failover lost before the watch reported it, and that was then reused."""
    async with watching(cache):
        await auth_client.emit(4)
        auth_client.answers[KEY] = Authentication(PRINCIPAL, "", 5)
        await cache.authenticate(KEY)
        auth_client.answers[KEY] = Authentication(None, "revoked", 5)
        await auth_client.emit(5, "key_1", is_revoked=True)
        with pytest.raises(Unauthenticated):
            await cache.authenticate(KEY)


async def test_an_expired_key_is_refused_although_it_is_cached(
    cache: AuthCache, auth_client: ScriptedAuthClient, clock: ManualClock
) -> None:
    auth_client.answers[KEY] = Authentication(replace(PRINCIPAL, expires_at=clock.seconds + 2), "", 1)
    await cache.authenticate(KEY)
    clock.seconds += 2
    with pytest.raises(Unauthenticated) as refused:
        await cache.authenticate(KEY)
    assert refused.value.reason == "expired"


async def test_the_least_recently_used_key_is_evicted_first(cache: AuthCache, auth_client: ScriptedAuthClient) -> None:
    keys = [checksummed_token.mint("sk_stk_") for _ in range(3)]
    for number, key in enumerate(keys):
        auth_client.answers[key] = Authentication(replace(PRINCIPAL, key_id=f"key_{number}"), "", 1)
    for key in (keys[0], keys[1], keys[0], keys[2], keys[0]):
        await cache.authenticate(key)
    assert auth_client.asked == keys
    await cache.authenticate(keys[1])
    assert auth_client.asked == [*keys, keys[1]]
