"""Invalid keys are cached briefly, never beyond a change, and cannot be used to flood auth."""

import asyncio
from dataclasses import replace

import pytest

from services.common import checksummed_token
from services.common.errors import ErrorDetails, Throttled, Unauthenticated, Unavailable
from services.gateway.keys import negative_cache
from services.gateway.keys.auth_cache import AuthCache
from services.gateway.keys.auth_client import Authentication
from services.gateway.keys.revocation import RevocationRegistry
from services.gateway.requests.types import CountedKey
from tests.unit.gateway.auth_client import KEY, OTHER, PRINCIPAL, ManualClock, ScriptedAuthClient, settle, watching

_HERE, _ELSEWHERE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def auth_client() -> ScriptedAuthClient:
    return ScriptedAuthClient()


@pytest.fixture
def cache(auth_client: ScriptedAuthClient, clock: ManualClock) -> AuthCache:
    return AuthCache(auth_client, clock, RevocationRegistry(clock), auth_cache_max=1000)


async def _denial(cache: AuthCache, key: str, address: str = _HERE) -> str:
    with pytest.raises(Unauthenticated) as refused:
        await cache.authenticate(key, address=address)
    return refused.value.reason


async def _guess(cache: AuthCache, count: int, address: str = _HERE) -> list[str]:
    """Try unknown keys one after the other; return the reasons of the refusals."""
    reasons = []
    for _ in range(count):
        with pytest.raises((Unauthenticated, Throttled)) as refused:
            await cache.authenticate(checksummed_token.mint("sk_stk_"), address=address)
        reasons.append(refused.value.reason)
    return reasons


@pytest.mark.parametrize("reason", ["unknown", "revoked", "expired"])
async def test_an_invalid_key_is_looked_up_once_in_ten_seconds(
    cache: AuthCache, auth_client: ScriptedAuthClient, clock: ManualClock, reason: str
) -> None:
    auth_client.answers[KEY] = Authentication(None, reason, 1)
    assert [await _denial(cache, KEY) for _ in range(5)] == [reason] * 5
    assert auth_client.asked == [KEY]
    clock.seconds += 10
    await _denial(cache, KEY)
    assert auth_client.asked == [KEY, KEY]


async def test_a_new_key_works_at_once_although_it_was_just_unknown(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    async with watching(cache):
        await auth_client.emit(1)
        await _denial(cache, OTHER)
        auth_client.answers[OTHER] = Authentication(PRINCIPAL, "", 2)
        await auth_client.emit(2, "key_1")
        assert await cache.authenticate(OTHER) == PRINCIPAL


async def test_a_denial_read_before_a_known_change_is_not_cached(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    async with watching(cache):
        await auth_client.emit(1)
        auth_client.gate.clear()
        asking = asyncio.create_task(_denial(cache, OTHER))
        await settle()
        await auth_client.emit(2, "key_9")
        auth_client.gate.set()
        await asking
        await _denial(cache, OTHER)
    assert auth_client.asked == [OTHER, OTHER]


async def test_denials_of_lost_revisions_are_dropped_when_auth_fails_over(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    auth_client.answers[OTHER] = Authentication(None, "revoked", 7)
    async with watching(cache):
        await auth_client.emit(7)
        await _denial(cache, OTHER)
        auth_client.answers[OTHER] = Authentication(PRINCIPAL, "", 3)
        await auth_client.emit(3)
        assert await cache.authenticate(OTHER) == PRINCIPAL


async def test_an_outage_is_not_cached_as_a_denial(cache: AuthCache, auth_client: ScriptedAuthClient) -> None:
    auth_client.is_down = True
    with pytest.raises(Unavailable):
        await cache.authenticate(KEY)
    auth_client.is_down = False
    assert await cache.authenticate(KEY) == PRINCIPAL


async def test_an_address_with_a_hundred_unknown_keys_is_limited_until_the_window_ends(
    cache: AuthCache, auth_client: ScriptedAuthClient, clock: ManualClock
) -> None:
    assert await _guess(cache, 100) == ["unknown"] * 100
    clock.seconds += 9.5
    assert await _guess(cache, 200) == ["too_many_unknown_keys"] * 200
    assert len(auth_client.asked) == 100
    clock.seconds += 0.5
    assert await _guess(cache, 1) == ["unknown"]


async def test_a_limited_address_receives_retry_after(cache: AuthCache, clock: ManualClock) -> None:
    await _guess(cache, 100)
    clock.seconds += 3.2
    with pytest.raises(Throttled) as stopped:
        await cache.authenticate(OTHER, address=_HERE)
    assert stopped.value.details == ErrorDetails(retry_after_seconds=7)


async def test_valid_keys_of_a_limited_address_and_other_addresses_still_work(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    await cache.authenticate(KEY, address=_HERE)
    await _guess(cache, 150)
    assert await cache.authenticate(KEY, address=_HERE) == PRINCIPAL
    assert await _denial(cache, OTHER, _ELSEWHERE) == "unknown"


async def test_one_wrong_key_used_repeatedly_limits_no_address(cache: AuthCache) -> None:
    for _ in range(300):
        await _denial(cache, OTHER)
    assert await cache.authenticate(KEY, address=_HERE) == PRINCIPAL


async def test_hundreds_of_new_valid_keys_from_one_address_are_not_limited(
    cache: AuthCache, auth_client: ScriptedAuthClient
) -> None:
    keys = [checksummed_token.mint("sk_stk_") for _ in range(300)]
    auth_client.answers |= {key: Authentication(PRINCIPAL, "", 1) for key in keys}
    await asyncio.gather(*(cache.authenticate(key, address=_HERE) for key in keys))


async def test_concurrent_guesses_get_no_more_attempts(cache: AuthCache, auth_client: ScriptedAuthClient) -> None:
    await _guess(cache, 1)
    auth_client.gate.clear()
    guesses = [asyncio.create_task(_guess(cache, 1)) for _ in range(500)]
    await settle()
    auth_client.gate.set()
    await asyncio.gather(*guesses)
    assert len(auth_client.asked) == 100


@pytest.mark.parametrize(
    ("first", "second", "are_one"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("gibberish", "gibberish", True),
    ],
)
async def test_a_client_is_one_ipv4_address_or_one_ipv6_64_prefix(
    cache: AuthCache, first: str, second: str, are_one: bool
) -> None:
    await _guess(cache, 100, first)
    assert await _guess(cache, 1, second) == ["too_many_unknown_keys" if are_one else "unknown"]


async def test_the_memory_for_keys_and_addresses_is_bounded(
    cache: AuthCache, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(negative_cache, "_DENIALS_MAX", 3)
    monkeypatch.setattr(negative_cache, "_ADDRESSES_MAX", 3)
    for number in range(20):
        await _guess(cache, 1, f"192.0.2.{number}")
    assert len(cache._negative_cache._denials) == len(cache._unknown_key_limiter._windows) == 3
    assert not cache._unknown_key_limiter._in_progress


async def test_a_key_is_known_while_it_is_valid_and_after_it_was_denied(
    cache: AuthCache, auth_client: ScriptedAuthClient, clock: ManualClock
) -> None:
    assert cache.known_key(KEY) is None
    await cache.authenticate(KEY)
    assert cache.known_key(KEY) == PRINCIPAL.counted_key
    async with watching(cache):
        await auth_client.emit(1)
        auth_client.answers[KEY] = Authentication(None, "revoked", 2, CountedKey("key_1", "acc_old"))
        await auth_client.emit(2, "key_1", is_revoked=True)
        assert cache.known_key(KEY) == PRINCIPAL.counted_key, "requests in progress can still be refused"
        assert await _denial(cache, KEY) == "revoked"
        assert cache.known_key(KEY) == CountedKey("key_1", "acc_old")
    asked = len(auth_client.asked)
    assert await _denial(cache, OTHER) == "unknown"
    assert cache.known_key(OTHER) is None
    assert len(auth_client.asked) == asked + 1, "no call is made to find out a key"


async def test_a_key_whose_denial_has_expired_is_known(
    cache: AuthCache, auth_client: ScriptedAuthClient, clock: ManualClock
) -> None:
    auth_client.answers[KEY] = Authentication(None, "revoked", 1, PRINCIPAL.counted_key)
    assert await _denial(cache, KEY) == "revoked"
    clock.seconds += 60
    assert cache.known_key(KEY) == PRINCIPAL.counted_key


async def test_an_expired_key_is_known(cache: AuthCache, auth_client: ScriptedAuthClient, clock: ManualClock) -> None:
    expiring = replace(PRINCIPAL, expires_at=clock.now() + 1)
    auth_client.answers[KEY] = Authentication(expiring, "", 1)
    await cache.authenticate(KEY)
    clock.seconds += 2
    assert await _denial(cache, KEY) == "expired"
    assert cache.known_key(KEY) == expiring.counted_key
