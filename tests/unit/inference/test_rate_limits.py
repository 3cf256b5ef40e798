"""What Groq's headers and 429 texts say of a key's supply."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.groq.rate_limits import cooldown_after_answer, cooldown_after_limit, duration, retry_after
from tools.groq_standin.wire import go_duration

TEXT = (
    "Rate limit reached for model `m` in organization `org_1` service tier `on_demand` on tokens per day (TPD): "
    "Limit 200000, Used 199998, Requested 12. Please try again in 9m38.016s. Need more tokens? Upgrade."
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6s", 6),
        ("1.57s", 1.57),
        ("400ms", 0.4),
        ("9m38.016s", 578.016),
        ("2m59.56s", 179.56),
        ("1h0m0s", 3600),
        ("24h", 86_400),
        ("0s", 0),
        ("", 0),
        ("soon", 0),
        ("5", 0),
        ("-3s", 0),
    ],
)
def test_gos_durations_are_read_and_nothing_else_is(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@given(st.integers(min_value=0, max_value=90_000_000))
def test_every_duration_that_go_writes_is_read_as_it_was(milliseconds: int) -> None:
    assert duration(go_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.text(max_size=40))
def test_no_text_is_too_odd_to_be_read(text: str) -> None:
    headers = dict.fromkeys(("retry-after", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"), text)

    assert duration(text) >= 0
    assert cooldown_after_answer(headers) >= 0
    assert cooldown_after_limit(headers, f"Please try again in {text}") > 0


def test_a_key_with_something_left_does_not_rest() -> None:
    assert cooldown_after_answer({}) == 0
    assert cooldown_after_answer({"x-ratelimit-remaining-tokens": "1", "x-ratelimit-reset-tokens": "59s"}) == 0
    assert cooldown_after_answer({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "23h"}) == 0


def test_a_key_without_tokens_rests_until_its_minute_is_full_again() -> None:
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7.66s"}

    assert cooldown_after_answer(headers) == pytest.approx(7.66)


def test_a_key_without_requests_rests_until_the_next_one_trickles_back() -> None:
    """The reset is of the whole day's budget: resting that long would throw a day's supply away."""
    headers = {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "24h0m0s",
    }

    assert cooldown_after_answer(headers) == pytest.approx(86.4)


@pytest.mark.parametrize(
    ("headers", "message", "seconds"),
    [
        ({"retry-after": "2"}, "", 2),
        ({"retry-after": "579"}, TEXT, 579),
        ({"retry-after": "1"}, TEXT, 578.016),
        ({}, TEXT, 578.016),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "4s"}, "", 4),
        ({"retry-after": "soon"}, "no words", 1),
        ({}, "", 1),
    ],
)
def test_a_limited_key_rests_as_long_as_the_longest_that_is_said(
    headers: dict[str, str], message: str, seconds: float
) -> None:
    assert cooldown_after_limit(headers, message) == pytest.approx(seconds)


def test_retry_after_is_read_in_every_form_that_it_has() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)

    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "0.25"}) == 0.25
    assert retry_after({"retry-after-ms": "1500", "retry-after": "2"}) == 1.5
    assert 85 < retry_after({"retry-after": date}) <= 90
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0


@pytest.mark.parametrize("text", ["", "soon", "-3", "nan", "inf", "1e9", "9" * 400, "1.2.3", "٣"])
def test_a_retry_after_of_no_form_is_none_and_no_form_is_beyond_a_day(text: str) -> None:
    assert retry_after({"retry-after": text}) == 0
    assert retry_after({"retry-after-ms": text}) == 0
    assert retry_after({"retry-after": "999999999"}) == 86_400
