"""Refused requests are limited per key and per address; clients without refused requests never wait."""

import pytest

from services.common.errors import Throttled
from services.gateway.requests import invalid_requests
from services.gateway.requests.invalid_requests import InvalidRequestLimiter
from tests.unit.gateway.auth_client import ManualClock

_HERE, _ELSEWHERE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def limiter(clock: ManualClock) -> InvalidRequestLimiter:
    """Return a limiter whose buckets hold 20 tokens per key and 80 per address."""
    return InvalidRequestLimiter(clock, per_second=1)


def _is_stopped(limiter: InvalidRequestLimiter, key_id: str, address: str = _HERE) -> bool:
    try:
        limiter.check(key_id, address)
    except Throttled as exc:
        return exc.reason == "too_many_invalid_requests" and exc.details.retry_after_seconds >= 1
    return False


def test_a_key_is_limited_after_its_burst_and_continues_at_its_rate(
    limiter: InvalidRequestLimiter, clock: ManualClock
) -> None:
    for _ in range(20):
        assert not _is_stopped(limiter, "key_1")
        limiter.count("key_1", _HERE, 0)
    assert _is_stopped(limiter, "key_1")
    clock.seconds += 1
    assert not _is_stopped(limiter, "key_1")
    limiter.count("key_1", _HERE, 0)
    assert _is_stopped(limiter, "key_1")
    clock.seconds += 3600
    for _ in range(20):
        assert not _is_stopped(limiter, "key_1")
        limiter.count("key_1", _HERE, 0)
    assert _is_stopped(limiter, "key_1"), "a bucket never holds more than its size"


def test_the_cost_of_a_refusal_grows_with_the_body(limiter: InvalidRequestLimiter, clock: ManualClock) -> None:
    limiter.count("key_1", _HERE, 4 * 2**20)
    with pytest.raises(Throttled) as stopped:
        limiter.check("key_1", _HERE)
    assert stopped.value.details.retry_after_seconds == 46
    clock.seconds += 46
    assert not _is_stopped(limiter, "key_1")


def test_an_address_with_many_keys_is_limited_but_its_other_keys_are_not(limiter: InvalidRequestLimiter) -> None:
    for number in range(80):
        limiter.count(f"key_{number % 8}", _HERE, 0)
    assert all(_is_stopped(limiter, f"key_{number}") for number in range(8)), "each key is far from its own limit"
    assert not _is_stopped(limiter, "key_clean")
    assert not _is_stopped(limiter, "key_1", _ELSEWHERE)
    limiter.count("key_clean", _HERE, 0)
    assert _is_stopped(limiter, "key_clean")


def test_one_ipv6_prefix_counts_as_one_address(limiter: InvalidRequestLimiter) -> None:
    for number in range(80):
        limiter.count(f"key_{number}", f"2001:db8:1:2::{number}", 0)
    assert _is_stopped(limiter, "key_1", "2001:db8:1:2::ffff")
    assert not _is_stopped(limiter, "key_1", "2001:db8:1:3::1")


def test_its_memory_is_bounded(limiter: InvalidRequestLimiter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invalid_requests, "_BUCKETS_MAX", 100)
    for number in range(1_000):
        limiter.count(f"key_{number}", f"10.0.{number % 250}.{number // 250}", 10**9)
    assert not _is_stopped(limiter, "key_1", _ELSEWHERE)
    assert _is_stopped(limiter, "key_999", _ELSEWHERE)
    assert len(limiter._keys._buckets) == len(limiter._addresses._buckets) == 100


def test_zero_disables_the_limit(clock: ManualClock) -> None:
    limiter = InvalidRequestLimiter(clock, per_second=0)
    for _ in range(1_000):
        limiter.count("key_1", _HERE, 4 * 2**20)
    assert not _is_stopped(limiter, "key_1")
