"""The mapping of errors to HTTP, and the 429 that a client can act on."""

import json

import pytest

from services.common import errors
from services.common.errors import ErrorDetails
from services.common.limits import Scope, Unit, Window
from services.gateway.http.errors import http_error
from services.gateway.http.rate_limits import duration, rate_limit_headers
from services.gateway.requests.types import LimitReached, RateLimit


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (errors.InvalidRequest("m", details=ErrorDetails(param="p", code="c")), 400, "invalid_request_error", "c"),
        (errors.Unauthenticated("m"), 401, "authentication_error", "invalid_api_key"),
        (errors.PermissionDenied("m"), 403, "permission_error", "permission_denied"),
        (
            errors.NotFound("m", details=ErrorDetails(code="model_not_found")),
            404,
            "invalid_request_error",
            "model_not_found",
        ),
        (errors.FailedPrecondition("m", reason="key_limit"), 409, "invalid_request_error", "key_limit"),
        (errors.TooLarge("m", reason="request_too_large"), 413, "invalid_request_error", "request_too_large"),
        (
            errors.Throttled("m", reason="concurrency_limit_exceeded"),
            429,
            "rate_limit_exceeded",
            "concurrency_limit_exceeded",
        ),
        (errors.Unavailable("m", reason="quota_unavailable"), 503, "internal_error", "quota_unavailable"),
        (errors.Unavailable("m", reason="upstream_misconfigured"), 502, "internal_error", "upstream_misconfigured"),
        (errors.DeadlineExceeded("m", reason="upstream_timeout"), 504, "internal_error", "upstream_timeout"),
        (errors.InternalError("secret detail"), 500, "internal_error", "internal_error"),
        (errors.AlreadyExists("m", reason="account_exists"), 409, "invalid_request_error", "account_exists"),
    ],
)
def test_each_error_has_its_status_type_and_code(error: errors.ServiceError, status: int, kind: str, code: str) -> None:
    answer = http_error(error, now=0)
    body = json.loads(answer.body)["error"]
    assert (answer.status, body["type"], body["code"]) == (status, kind, code)
    assert set(body) == {"message", "type", "param", "code"}
    assert "secret" not in body["message"]


def test_every_error_class_is_mapped_and_only_internal_errors_are_500() -> None:
    """A class that is missing here is answered with 500, which pages the operator."""
    kinds: set[type[errors.ServiceError]] = {LimitReached}
    kinds |= {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.ServiceError)}
    kinds.remove(errors.ServiceError)
    limit = RateLimit(limit=1, charged=1, held=0, reset_at=60)
    statuses = {
        kind.__name__: http_error(LimitReached(limit) if kind is LimitReached else kind("m"), now=0).status
        for kind in kinds
    }
    assert len(statuses) >= 12
    assert [name for name, status in statuses.items() if status == 500] == ["InternalError"]


def test_an_outage_sets_retry_after() -> None:
    error = errors.Unavailable("m", reason="upstream_unavailable", details=ErrorDetails(retry_after_seconds=7))
    assert http_error(error, now=0).headers["retry-after"] == "7"


def test_an_exhausted_day_says_not_to_retry() -> None:
    error = LimitReached(RateLimit(limit=1000, charged=1000, held=0, reset_at=86_400))
    answer = http_error(error, now=86_400 - 25_923)
    assert answer.headers["retry-after"] == "25923"
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-ratelimit-reset-requests"] == "7h12m3s"
    assert "Resets at 00:00 UTC, in 7h12m3s" in answer.message


def test_slots_in_use_are_distinguished_from_an_exhausted_day() -> None:
    answer = http_error(LimitReached(RateLimit(limit=10, charged=9, held=1, reset_at=86_400)), now=0)
    assert answer.headers["retry-after"] == "1"
    assert "x-should-retry" not in answer.headers
    assert "including requests in progress" in answer.message


def test_a_denial_names_the_limit_that_denies() -> None:
    of_account = RateLimit(limit=5_000, charged=5_000, held=0, reset_at=86_400, scope=Scope.ACCOUNT)
    of_key = RateLimit(limit=5_000, charged=4_999, held=1, reset_at=86_400)
    answers = [http_error(LimitReached(limit), now=0) for limit in (of_account, of_key)]
    assert answers[0].message.startswith("Rate limit reached for your account on requests per day (RPD): Limit 5000,")
    assert answers[1].message.startswith("Rate limit reached for this API key on requests per day (RPD), including")
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"5000"}


def test_a_failed_generation_is_passed_on_if_present() -> None:
    refused = errors.InvalidRequest("no", details=ErrorDetails(code="tool_use_failed", failed_generation="<function=…"))
    assert json.loads(http_error(refused, now=0).body)["error"]["failed_generation"] == "<function=…"
    assert "failed_generation" not in json.loads(http_error(errors.InvalidRequest("no"), now=0).body)["error"]


def test_remaining_excludes_used_and_held_slots_and_is_never_negative() -> None:
    headers = rate_limit_headers(RateLimit(limit=10, charged=4, held=3, reset_at=60), now=0)
    assert headers["x-ratelimit-remaining-requests"] == "3"
    lowered = rate_limit_headers(RateLimit(limit=2, charged=4, held=0, reset_at=60), now=0)
    assert lowered["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1s"), (-5, "1s"), (0.2, "1s"), (59.1, "1m0s"), (61, "1m1s"), (3600, "1h0m0s"), (200_000, "24h0m0s")],
)
def test_durations_are_written_as_groq_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_limit_of_zero_promises_no_reset() -> None:
    nothing = RateLimit(0, 0, 0, 60, Scope.KEY, Unit.REQUESTS, Window.MINUTE)

    answer = http_error(LimitReached(nothing), now=0)

    assert "Limit 0. It allows no requests." in answer.message
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize(("seconds", "should_retry"), [(60, None), (61, "false")])
def test_a_long_wait_says_not_to_retry(seconds: int, should_retry: str | None) -> None:
    error = errors.Throttled("m", reason="too_many", details=ErrorDetails(retry_after_seconds=seconds))

    assert http_error(error, now=0).headers.get("x-should-retry") == should_retry


@pytest.mark.parametrize(
    ("limit", "requested", "words", "retry_after", "should_retry"),
    [
        (
            RateLimit(1_000, 900, 0, 42, Scope.KEY, Unit.TOKENS, Window.MINUTE),
            200,
            "tokens per minute (TPM)",
            "42",
            None,
        ),
        (RateLimit(1_000, 0, 900, 42, Scope.KEY, Unit.TOKENS, Window.MINUTE), 200, "in progress", "1", None),
        (RateLimit(100, 0, 0, 42, Scope.KEY, Unit.TOKENS, Window.MINUTE), 200, "Shorten the prompt", None, "false"),
        (RateLimit(5, 5, 0, 9e5, Scope.ACCOUNT, Unit.COST, Window.MONTH), 1, "Limit $0.000005", "900000", "false"),
        (RateLimit(2, 0, 2, 42, Scope.KEY, Unit.CONCURRENT_REQUESTS, None), 1, "concurrent requests", "1", None),
    ],
)
def test_a_denial_of_each_unit_says_what_to_do(
    limit: RateLimit, requested: int, words: str, retry_after: str | None, should_retry: str | None
) -> None:
    answer = http_error(LimitReached(limit, requested), now=0)

    assert words in answer.message
    assert answer.headers.get("retry-after") == retry_after
    assert answer.headers.get("x-should-retry") == should_retry
    assert answer.code == ("insufficient_quota" if limit.unit is Unit.COST else "rate_limit_exceeded")
