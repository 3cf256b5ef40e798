"""Keys that are no good: remembered for a moment, never for longer than that is right, and no way to flood auth."""

import asyncio

import pytest

from services.common import checked_token
from services.common.errors import Throttled, Unauthenticated, Unavailable
from services.gateway import bad_keys
from services.gateway.authority import Authentication
from services.gateway.lifelines import Lifelines
from services.gateway.principals import PrincipalCache
from tests.unit.gateway.authority import KEY, OTHER, PRINCIPAL, ManualClock, ScriptedAuthority, settle, watching

_HERE, _ELSEWHERE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def authority() -> ScriptedAuthority:
    return ScriptedAuthority()


@pytest.fixture
def cache(authority: ScriptedAuthority, clock: ManualClock) -> PrincipalCache:
    return PrincipalCache(authority, clock, Lifelines(clock), principals_max=1000)


async def _denial(cache: PrincipalCache, key: str, address: str = _HERE) -> str:
    with pytest.raises(Unauthenticated) as refused:
        await cache.authenticate(key, address=address)
    return refused.value.reason


async def _guess(cache: PrincipalCache, count: int, address: str = _HERE) -> list[str]:
    """Try keys that nobody has, one after the other; return the refusals' reasons."""
    reasons = []
    for _ in range(count):
        with pytest.raises((Unauthenticated, Throttled)) as refused:
            await cache.authenticate(checked_token.mint("sk_stk_"), address=address)
        reasons.append(refused.value.reason)
    return reasons


@pytest.mark.parametrize("reason", ["unknown", "revoked", "expired"])
async def test_a_key_that_is_no_good_is_asked_about_once_in_ten_seconds(
    cache: PrincipalCache, authority: ScriptedAuthority, clock: ManualClock, reason: str
) -> None:
    authority.answers[KEY] = Authentication(None, reason, 1)
    assert [await _denial(cache, KEY) for _ in range(5)] == [reason] * 5
    assert authority.asked == [KEY]
    clock.seconds += 10
    await _denial(cache, KEY)
    assert authority.asked == [KEY, KEY]


async def test_a_key_created_a_moment_ago_works_at_once_though_it_was_just_unknown(
    cache: PrincipalCache, authority: ScriptedAuthority
) -> None:
    async with watching(cache):
        await authority.tell(1)
        await _denial(cache, OTHER)
        authority.answers[OTHER] = Authentication(PRINCIPAL, "", 2)
        await authority.tell(2, "key_1")
        assert await cache.authenticate(OTHER) == PRINCIPAL


async def test_a_denial_that_was_read_before_a_change_that_was_seen_is_not_remembered(
    cache: PrincipalCache, authority: ScriptedAuthority
) -> None:
    async with watching(cache):
        await authority.tell(1)
        authority.gate.clear()
        asking = asyncio.create_task(_denial(cache, OTHER))
        await settle()
        await authority.tell(2, "key_9")
        authority.gate.set()
        await asking
        await _denial(cache, OTHER)
    assert authority.asked == [OTHER, OTHER]


async def test_a_denial_from_a_future_that_never_was_is_forgotten_when_auth_goes_back_in_time(
    cache: PrincipalCache, authority: ScriptedAuthority
) -> None:
    authority.answers[OTHER] = Authentication(None, "revoked", 7)
    async with watching(cache):
        await authority.tell(7)
        await _denial(cache, OTHER)
        authority.answers[OTHER] = Authentication(PRINCIPAL, "", 3)
        await authority.tell(3)
        assert await cache.authenticate(OTHER) == PRINCIPAL


async def test_an_outage_is_not_remembered_as_a_denial(cache: PrincipalCache, authority: ScriptedAuthority) -> None:
    authority.is_away = True
    with pytest.raises(Unavailable):
        await cache.authenticate(KEY)
    authority.is_away = False
    assert await cache.authenticate(KEY) == PRINCIPAL


async def test_an_address_that_guesses_is_stopped_after_a_hundred_and_may_go_on_after_the_window(
    cache: PrincipalCache, authority: ScriptedAuthority, clock: ManualClock
) -> None:
    assert await _guess(cache, 100) == ["unknown"] * 100
    clock.seconds += 9.5
    assert await _guess(cache, 200) == ["too_many_unknown_keys"] * 200
    assert len(authority.asked) == 100
    clock.seconds += 0.5
    assert await _guess(cache, 1) == ["unknown"]


async def test_who_is_stopped_is_told_when_to_come_back(cache: PrincipalCache, clock: ManualClock) -> None:
    await _guess(cache, 100)
    clock.seconds += 3.2
    with pytest.raises(Throttled) as stopped:
        await cache.authenticate(OTHER, address=_HERE)
    assert stopped.value.metadata == {"retry_after_seconds": "7"}


async def test_known_keys_of_an_address_that_guesses_go_on_and_so_do_other_addresses(
    cache: PrincipalCache, authority: ScriptedAuthority
) -> None:
    await cache.authenticate(KEY, address=_HERE)
    await _guess(cache, 150)
    assert await cache.authenticate(KEY, address=_HERE) == PRINCIPAL
    assert await _denial(cache, OTHER, _ELSEWHERE) == "unknown"


async def test_one_wrong_key_used_over_and_over_stops_nobody(cache: PrincipalCache) -> None:
    for _ in range(300):
        await _denial(cache, OTHER)
    assert await cache.authenticate(KEY, address=_HERE) == PRINCIPAL


async def test_new_good_keys_by_the_hundred_from_one_address_stop_nobody(
    cache: PrincipalCache, authority: ScriptedAuthority
) -> None:
    keys = [checked_token.mint("sk_stk_") for _ in range(300)]
    authority.answers |= {key: Authentication(PRINCIPAL, "", 1) for key in keys}
    await asyncio.gather(*(cache.authenticate(key, address=_HERE) for key in keys))


async def test_guessing_many_at_the_same_time_gets_no_further(
    cache: PrincipalCache, authority: ScriptedAuthority
) -> None:
    await _guess(cache, 1)
    authority.gate.clear()
    guesses = [asyncio.create_task(_guess(cache, 1)) for _ in range(500)]
    await settle()
    authority.gate.set()
    await asyncio.gather(*guesses)
    assert len(authority.asked) == 100


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
async def test_one_client_is_one_ipv4_address_or_one_64_bits_of_ipv6(
    cache: PrincipalCache, first: str, second: str, are_one: bool
) -> None:
    await _guess(cache, 100, first)
    assert await _guess(cache, 1, second) == ["too_many_unknown_keys" if are_one else "unknown"]


async def test_what_is_remembered_of_keys_and_addresses_is_bounded(
    cache: PrincipalCache, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bad_keys, "_DENIALS_MAX", 3)
    monkeypatch.setattr(bad_keys, "_ADDRESSES_MAX", 3)
    for number in range(20):
        await _guess(cache, 1, f"192.0.2.{number}")
    assert len(cache._bad_keys._denials) == len(cache._guessers._windows) == 3
    assert not cache._guessers._asking
