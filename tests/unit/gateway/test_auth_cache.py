"""The cache of principals: as good as auth's own answer while the watch lives, and never wrong for longer than 5 s."""

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


async def test_a_key_is_asked_about_once(cache: AuthCache, auth_client: ScriptedAuthClient) -> None:
    assert await cache.authenticate(KEY) == PRINCIPAL
    assert await cache.authenticate(KEY) == PRINCIPAL
    assert auth_client.asked == [KEY]


async def test_callers_with_the_same_new_key_share_one_question(
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
async def test_a_malformed_key_never_leaves_the_gateway(
    cache: AuthCache, auth_client: ScriptedAuthClient, api_key: str
) -> None:
    with pytest.raises(Unauthenticated):
        await cache.authenticate(api_key)
    assert auth_client.asked == []


async def test_a_refusal_shows_no_more_of_the_key_than_its_owner_needs(cache: AuthCache) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await cache.authenticate(OTHER)
    assert OTHER not in refused.value.message
    assert OTHER[-4:] in refused.value.message


async def test_a_change_is_believed_at_once(
    cache: AuthCache, auth_client: ScriptedAuthClient, clock: ManualClock
) -> None:
    async with watching(cache):
        await auth_client.tell(1)
        await cache.authenticate(KEY)
        auth_client.answers[KEY] = Authentication(None, "revoked", 2)
        await auth_client.tell(2, "key_1")
        with pytest.raises(Unauthenticated) as refused:
            await cache.authenticate(KEY)
    assert refused.value.reason == "revoked"


async def test_the_news_of_a_change_that_the_answer_knew_already_does_not_ask_again(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    """A key is used before the watch tells of it: forgotten then, an outage of auth would stop it at once."""
    async with watching(cache):
        await auth_client.tell(1)
        auth_client.answers[KEY] = Authentication(PRINCIPAL, "", 2)
        await cache.authenticate(KEY)
        await auth_client.tell(2, "key_1")
        await cache.authenticate(KEY)
        assert auth_client.asked == [KEY]
        await auth_client.tell(3, "key_1")
        auth_client.answers[KEY] = Authentication(None, "revoked", 3)
        with pytest.raises(Unauthenticated):
            await cache.authenticate(KEY)


async def test_an_answer_older_than_the_last_change_seen_is_dropped(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    """The look-up read before the revocation and arrives after it: believed, it would outlive the revocation."""
    async with watching(cache):
        await auth_client.tell(1)
        auth_client.gate.clear()
        asking = asyncio.create_task(cache.authenticate(KEY))
        await settle()
        auth_client.answers[KEY] = Authentication(None, "revoked", 2)
        await auth_client.tell(2, "key_1")
        auth_client.gate.set()
        with pytest.raises(Unauthenticated):
            await asking
    assert len(auth_client.asked) == 2


async def test_an_answer_that_was_read_before_the_first_watch_began_is_not_believed(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    """The revoke fell between the look-up and the watch's first event, so that the watch never tells it."""
    auth_client.gate.clear()
    asking = asyncio.create_task(cache.authenticate(KEY))
    await settle()
    auth_client.answers[KEY] = Authentication(None, "revoked", 2)
    async with watching(cache):
        await auth_client.tell(2)
        auth_client.gate.set()
        with pytest.raises(Unauthenticated):
            await asking


async def test_an_answer_that_knew_all_before_the_first_watch_stays_believed(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    """A gateway answers before its watch begins: what it learnt then, an outage of auth may not take from it."""
    auth_client.answers[KEY] = Authentication(PRINCIPAL, "", 2)
    await cache.authenticate(KEY)
    async with watching(cache):
        await auth_client.tell(2)
        assert await cache.authenticate(KEY) == PRINCIPAL
    assert auth_client.asked == [KEY]


async def test_an_auth_that_never_catches_up_is_an_outage_and_no_endless_loop(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    async with watching(cache):
        await auth_client.tell(9, "key_1")
        with pytest.raises(Unavailable):
            await cache.authenticate(KEY)
    assert len(auth_client.asked) < 20


async def test_heartbeats_keep_every_principal_alive(
    cache: AuthCache, auth_client: ScriptedAuthClient, clock: ManualClock
) -> None:
    async with watching(cache):
        await auth_client.tell(1)
        await cache.authenticate(KEY)
        for _ in range(100):
            clock.seconds += 0.5
            await auth_client.tell(1)
        await cache.authenticate(KEY)
    assert auth_client.asked == [KEY]


async def test_without_a_heartbeat_a_principal_lives_five_seconds(
    cache: AuthCache, auth_client: ScriptedAuthClient, clock: ManualClock
) -> None:
    await cache.authenticate(KEY)
    clock.seconds += 4.4
    await cache.authenticate(KEY)
    assert auth_client.asked == [KEY]
    clock.seconds += 0.2
    await cache.authenticate(KEY)
    assert auth_client.asked == [KEY, KEY]


async def test_with_auth_away_an_unconfirmed_key_is_unavailable_and_never_refused(
    cache: AuthCache, auth_client: ScriptedAuthClient, clock: ManualClock
) -> None:
    await cache.authenticate(KEY)
    auth_client.is_away = True
    clock.seconds += 4.4
    assert await cache.authenticate(KEY) == PRINCIPAL
    clock.seconds += 0.2
    with pytest.raises(Unavailable):
        await cache.authenticate(KEY)


async def test_a_broken_watch_is_resumed_where_it_broke(cache: AuthCache, auth_client: ScriptedAuthClient) -> None:
    async with watching(cache):
        await auth_client.tell(7)
        await auth_client.end_watch()
        async with asyncio.timeout(2):
            while len(auth_client.resumed_from) < 2:
                await asyncio.sleep(0.01)
    assert auth_client.resumed_from == [None, 7]


async def test_when_any_key_may_have_changed_everything_is_asked_again_and_older_answers_are_dropped(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    """A plan's new limit: an answer that was read before it would let the old limit live on."""
    new = replace(PRINCIPAL, daily_limit=5)
    async with watching(cache):
        await auth_client.tell(1)
        await cache.authenticate(KEY)
        await auth_client.tell(2, all_keys_changed=True)
        auth_client.gate.clear()
        asking = asyncio.create_task(cache.authenticate(KEY))
        await settle()
        auth_client.answers[KEY] = Authentication(new, "", 2)
        auth_client.gate.set()
        assert await asking == new
    assert auth_client.asked == [KEY] * 3


async def test_when_auth_goes_back_in_time_everything_is_forgotten(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    async with watching(cache):
        auth_client.answers[KEY] = Authentication(PRINCIPAL, "", 7)
        await auth_client.tell(7)
        await cache.authenticate(KEY)
        auth_client.answers[KEY] = Authentication(PRINCIPAL, "", 3)
        await auth_client.tell(3)
        await cache.authenticate(KEY)
    assert auth_client.asked == [KEY, KEY]


async def test_a_revocation_is_believed_though_an_answer_seems_to_know_it(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    """The answer was read at a revision that a failover lost before the watch told of it, and then counted again."""
    async with watching(cache):
        await auth_client.tell(4)
        auth_client.answers[KEY] = Authentication(PRINCIPAL, "", 5)
        await cache.authenticate(KEY)
        auth_client.answers[KEY] = Authentication(None, "revoked", 5)
        await auth_client.tell(5, "key_1", is_revoked=True)
        with pytest.raises(Unauthenticated):
            await cache.authenticate(KEY)


async def test_an_expired_key_is_refused_though_it_is_remembered(
    cache: AuthCache, auth_client: ScriptedAuthClient, clock: ManualClock
) -> None:
    auth_client.answers[KEY] = Authentication(replace(PRINCIPAL, expires_at=clock.seconds + 2), "", 1)
    await cache.authenticate(KEY)
    clock.seconds += 2
    with pytest.raises(Unauthenticated) as refused:
        await cache.authenticate(KEY)
    assert refused.value.reason == "expired"


async def test_the_longest_unused_principal_is_forgotten_first(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    keys = [checksummed_token.mint("sk_stk_") for _ in range(3)]
    for number, key in enumerate(keys):
        auth_client.answers[key] = Authentication(replace(PRINCIPAL, key_id=f"key_{number}"), "", 1)
    for key in (keys[0], keys[1], keys[0], keys[2], keys[0]):
        await cache.authenticate(key)
    assert auth_client.asked == keys
    await cache.authenticate(keys[1])
    assert auth_client.asked == [*keys, keys[1]]
