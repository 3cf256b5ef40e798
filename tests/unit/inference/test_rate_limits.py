"""Remaining capacity of a key in Groq's headers and 429 messages."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.allowance.model import Observation, Window
from services.inference.groq.errors import TokenShortfall
from services.inference.groq.rate_limits import (
    cooldown_after_answer,
    cooldown_after_limit,
    duration,
    observed_in_headers,
    observed_in_message,
    retry_after,
    token_shortfall,
)
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
def test_only_go_durations_are_parsed(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@given(st.integers(min_value=0, max_value=90_000_000))
def test_every_duration_formatted_by_go_is_parsed_exactly(milliseconds: int) -> None:
    assert duration(go_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.text(max_size=40))
def test_arbitrary_text_is_parsed_without_an_error(text: str) -> None:
    headers = dict.fromkeys(("retry-after", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"), text)

    assert duration(text) >= 0
    assert cooldown_after_answer(headers) >= 0
    assert cooldown_after_limit(headers, f"Please try again in {text}") > 0


def test_a_key_with_capacity_left_does_not_cool_down() -> None:
    assert cooldown_after_answer({}) == 0
    assert cooldown_after_answer({"x-ratelimit-remaining-tokens": "1", "x-ratelimit-reset-tokens": "59s"}) == 0
    assert cooldown_after_answer({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "23h"}) == 0


def test_a_key_without_tokens_cools_down_until_its_minute_is_full_again() -> None:
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7.66s"}

    assert cooldown_after_answer(headers) == pytest.approx(7.66)


def test_a_key_without_requests_cools_down_until_the_next_one_is_replenished() -> None:
    """The reset is that of the whole day's budget: waiting for it would waste a day's capacity."""
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
def test_a_limited_key_cools_down_for_the_longest_reported_time(
    headers: dict[str, str], message: str, seconds: float
) -> None:
    assert cooldown_after_limit(headers, message) == pytest.approx(seconds)


def test_retry_after_is_parsed_in_all_of_its_forms() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)

    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "0.25"}) == 0.25
    assert retry_after({"retry-after-ms": "1500", "retry-after": "2"}) == 1.5
    assert 85 < retry_after({"retry-after": date}) <= 90
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0


@pytest.mark.parametrize("text", ["", "soon", "-3", "nan", "inf", "1e9", "9" * 400, "1.2.3", "٣"])
def test_an_invalid_retry_after_is_none_and_a_valid_one_at_most_a_day(text: str) -> None:
    assert retry_after({"retry-after": text}) == 0
    assert retry_after({"retry-after-ms": text}) == 0
    assert retry_after({"retry-after": "999999999"}) == 86_400


@pytest.mark.parametrize(
    "date",
    [
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 99999999999999999999 Jan 2026 00:00:00 GMT",
        "Mon, 01 Jan 2026 00:00:00 +99999999999999",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "Fri, 31 Dec 9999 23:59:59 -2300",
        "Fri, 31 Dec 9999 23:59:59 -0000",
        "Mon, 01 Jan 0100 00:00:00 -0000",
        ",",
        "x" * 5_000,
    ],
)
def test_a_date_out_of_range_is_parsed_as_none_or_as_the_longest_wait(date: str) -> None:
    assert retry_after({"retry-after": date}) in (0, 86_400)


_DIGITS = st.integers(min_value=0, max_value=10**25).map(str)


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.one_of(
        st.text(max_size=40),
        st.builds(
            "Mon, {} {} {} {}:{}:{} {}{}".format,
            _DIGITS,
            st.sampled_from(["Jan", "Foo", "12", ""]),
            _DIGITS,
            _DIGITS,
            _DIGITS,
            _DIGITS,
            st.sampled_from(["+", "-", ""]),
            _DIGITS,
        ),
    )
)
def test_arbitrary_headers_are_parsed_without_an_error(text: str) -> None:
    counts = ("limit-requests", "remaining-requests", "reset-requests", "remaining-tokens", "reset-tokens")
    names = ["retry-after", "retry-after-ms", *(f"x-ratelimit-{one}" for one in counts)]
    for headers in (dict.fromkeys(names, text), {**dict.fromkeys(names, "0"), "retry-after": text}):
        assert 0 <= retry_after(headers) <= 86_400
        assert 0 <= cooldown_after_answer(headers) <= 86_400
        assert 0 < cooldown_after_limit(headers, text) <= 86_400


@pytest.mark.parametrize(
    ("limit", "shortfall"),
    [
        ("tokens per minute (TPM): Limit 6000, Used 1000, Requested 5900", TokenShortfall(5_000, 5_900)),
        ("tokens per day (TPD): Limit 200000, Used 199998, Requested 12", TokenShortfall(2, 12)),
        ("tokens per minute (TPM): Limit 6000, Used 6100, Requested 12", TokenShortfall(0, 12)),
        ("tokens per minute (TPM): Limit 6000, Used 1000, Requested 12", None),
        ("requests per day (RPD): Limit 1000, Used 1000, Requested 1", None),
        ("tokens per minute (TPM): Limit 6000, Requested 5900", None),
        ("", None),
    ],
)
def test_the_capacity_left_for_smaller_requests_is_parsed(limit: str, shortfall: TokenShortfall | None) -> None:
    message = f"Rate limit reached for model `m` in organization `org_x` service tier `on_demand` on {limit}. Please "

    assert token_shortfall(message + "try again in 20s.") == shortfall


def test_headers_report_the_requests_of_the_day_and_the_tokens_of_the_minute() -> None:
    headers = {
        "x-ratelimit-limit-requests": "14400",
        "x-ratelimit-remaining-requests": "14370",
        "x-ratelimit-limit-tokens": "18000",
        "x-ratelimit-remaining-tokens": "17997",
    }

    assert observed_in_headers(headers) == [
        Observation(Window.REQUESTS_PER_DAY, 14_400, 30),
        Observation(Window.TOKENS_PER_MINUTE, 18_000, 3),
    ]
    assert observed_in_headers({}) == []
    assert observed_in_headers(headers | {"x-ratelimit-limit-tokens": "0"})[1:] == []
    assert observed_in_headers({"x-ratelimit-limit-tokens": "100", "x-ratelimit-remaining-tokens": "x"}) == []


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("requests per minute (RPM): Limit 30, Used 30, Requested 1", (Window.REQUESTS_PER_MINUTE, 30, 30)),
        ("requests per day (RPD): Limit 1000, Used 1000, Requested 1", (Window.REQUESTS_PER_DAY, 1_000, 1_000)),
        ("tokens per minute (TPM): Limit 6000, Used 5034, Requested 1443", (Window.TOKENS_PER_MINUTE, 6_000, 5_034)),
        ("tokens per day (TPD): Limit 200000, Used 199998, Requested 12", (Window.TOKENS_PER_DAY, 200_000, 199_998)),
    ],
)
def test_a_429_reports_its_limit(limit: str, expected: tuple[Window, int, int]) -> None:
    text = f"Rate limit reached for model `m` in organization `org_1` service tier `on_demand` on {limit}. Please try"

    assert observed_in_message(text) == [Observation(*expected)]


@pytest.mark.parametrize(
    "text", ["", "Slow down.", "on tokens per minute (TPM): Limit 0, Used 0, Requested 1", "x" * 9_999]
)
def test_a_429_without_a_limit_reports_none(text: str) -> None:
    assert observed_in_message(text) == []
