"""Errors have OpenAI's envelope, and make Codex end at once where waiting is pointless."""

import json

import pytest

from services.common.errors import ErrorDetails, InvalidRequest, Throttled, TooLarge, Unavailable
from services.gateway.apis import responses
from services.gateway.http.errors import http_error
from services.gateway.requests.types import LimitReached, RateLimit


def test_the_daily_limit_has_the_form_that_codex_reports() -> None:
    limit = RateLimit(limit=5, charged=5, held=0, reset_at=1_795_910_400.0)
    http = http_error(LimitReached(limit), now=1_795_900_000)
    error = responses.error(http, request_id="req_1")
    body = json.loads(error.body)["error"]
    assert error.status == 429
    assert body["type"] == "usage_limit_reached"
    assert body["code"] == "rate_limit_exceeded"
    assert body["resets_at"] == 1_795_910_400
    assert body["message"] == http.message
    assert "retry-after" not in error.headers
    assert error.headers["x-should-retry"] == "false"
    assert error.headers["x-ratelimit-remaining-requests"] == "0"
    # Other surfaces keep their form.
    assert "resets_at" not in json.loads(http.body)["error"]
    assert "retry-after" in http.headers


def test_a_limit_that_resets_soon_has_no_retry_after_either() -> None:
    limit = RateLimit(limit=5, charged=5, held=0, reset_at=1_795_900_010.5)
    error = responses.error(http_error(LimitReached(limit), now=1_795_900_000), request_id="req_1")
    assert json.loads(error.body)["error"]["resets_at"] == 1_795_900_011
    assert "retry-after" not in error.headers


def test_a_limit_in_use_can_be_retried() -> None:
    limit = RateLimit(limit=5, charged=1, held=4, reset_at=1_795_910_400.0)
    error = responses.error(http_error(LimitReached(limit), now=1_795_900_000), request_id="req_1")
    assert json.loads(error.body)["error"]["type"] == "rate_limit_exceeded"
    assert error.headers["retry-after"] == "1"


@pytest.mark.parametrize(("seconds", "kept"), [(1, True), (60, True), (61, False), (86_400, False)])
def test_clients_wait_for_a_minute_at_most(seconds: int, kept: bool) -> None:
    for kind in (Throttled, Unavailable):
        error = http_error(kind("x", details=ErrorDetails(retry_after_seconds=seconds)), now=0)
        assert ("retry-after" in responses.error(error, request_id="req_1").headers) is kept


def test_other_errors_keep_openais_envelope() -> None:
    http = http_error(InvalidRequest("x", details=ErrorDetails(param="input", code="context_length_exceeded")), now=0)
    error = responses.error(http, request_id="req_1")
    assert (error.status, error.body) == (400, http.body)


def test_what_is_too_large_is_a_400() -> None:
    """Codex sends a request again five times after any status but 400."""
    assert responses.error(http_error(TooLarge("x"), now=0), request_id="req_1").status == 400
