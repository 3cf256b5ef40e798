"""How Groq's errors are reported to callers; every body is one that the stand-in sends."""

import json
import time
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import ErrorDetails, InvalidRequest, ServiceError, TooLarge
from services.inference.groq.errors import KeyLimited, KeyRefused, ModelRefused, UpstreamFailed, UpstreamInvalid
from services.inference.groq.refusals import from_event, from_status
from tools.groq_standin import errors as groq

ASKED = groq.Asked(model="openai/gpt-oss-20b", tokens=12)
TABLE: dict[str, tuple[type[ServiceError], str]] = {
    "400": (InvalidRequest, "invalid_request"),
    "401": (KeyRefused, "upstream_misconfigured"),
    "403": (UpstreamFailed, "upstream_misconfigured"),
    "403-html": (UpstreamFailed, "upstream_misconfigured"),
    "404": (ModelRefused, "model_not_found"),
    "413": (TooLarge, "request_too_large"),
    "422": (InvalidRequest, "invalid_request"),
    "424": (InvalidRequest, "invalid_request"),
    "429": (KeyLimited, "upstream_unavailable"),
    "429-day": (KeyLimited, "upstream_unavailable"),
    "498": (UpstreamFailed, "upstream_unavailable"),
    "500": (UpstreamFailed, "upstream_unavailable"),
    "502-html": (UpstreamFailed, "upstream_unavailable"),
    "503": (UpstreamFailed, "upstream_unavailable"),
    "tool_use_failed": (InvalidRequest, "tool_use_failed"),
    "json_validate_failed": (InvalidRequest, "json_validate_failed"),
    "context_length": (InvalidRequest, "context_length_exceeded"),
    "decommissioned": (ModelRefused, "model_decommissioned"),
    "restricted": (KeyRefused, "upstream_misconfigured"),
    "model_blocked": (ModelRefused, "model_not_found"),
    "model_terms": (ModelRefused, "model_not_found"),
}


def refused(name: str) -> ServiceError:
    """Return our error for one of the stand-in's errors."""
    refusal = groq.REFUSALS[name](ASKED)
    body: Any = refusal.body.decode()
    if refusal.content_type == b"application/json":
        body = json.loads(body)
    return from_status(refusal.status, {name.decode(): value.decode() for name, value in refusal.headers}, body)


def test_the_table_has_every_error_of_the_stand_in() -> None:
    assert TABLE.keys() == groq.REFUSALS.keys()


@pytest.mark.parametrize("name", TABLE)
def test_an_error_of_groq_has_the_class_and_reason_of_the_table(name: str) -> None:
    error = refused(name)

    assert (type(error), error.reason) == TABLE[name]


@pytest.mark.parametrize("name", TABLE)
def test_no_error_exposes_the_operators_account(name: str) -> None:
    error = refused(name)
    reported = json.dumps([error.message, error.reason, asdict(error.details)])

    for secret in ("org_", "on_demand", "groq.com/settings", "Upgrade", "cloudflare", "Invalid API Key"):
        assert secret not in reported


@pytest.mark.parametrize("secret", ["org_01abc", "proj_01abc", "gsk_01abc", "https://Console.GROQ.com/keys"])
def test_no_member_of_an_error_exposes_the_operators_account(secret: str) -> None:
    members = dict.fromkeys(("message", "param", "code"), f"x {secret} y")
    error = from_status(400, {}, {"error": members})

    assert error.message == error.details.param == "x y"
    assert (error.reason, error.details.code) == ("invalid_request", "")


def test_an_error_that_the_caller_can_fix_is_described_with_its_parameter() -> None:
    error = refused("context_length")

    assert error.message.startswith("The messages and the answer together exceed the model's context length.")
    assert error.details == ErrorDetails(param="messages", code="context_length_exceeded")


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [("2", 2), ("0", 1), ("579", 60), ("", 1), ("soon", 1), ("-3", 1), ("1.5", 2), ("0.2", 1)],
)
def test_a_busy_model_sets_retry_after_within_bounds(retry_after: str, seconds: int) -> None:
    error = from_status(429, {"retry-after": retry_after}, {})

    assert error.details.retry_after_seconds == seconds


def test_a_missing_model_is_distinguished_from_a_wrong_url() -> None:
    assert type(from_status(404, {}, {"error": {"code": "unknown_url"}})) is KeyRefused
    assert type(from_status(404, {}, "<html>")) is KeyRefused
    assert type(from_status(404, {}, {"error": {"code": "model_not_active"}})) is ModelRefused


@settings(max_examples=150, deadline=None, database=None)
@given(
    before=st.text(max_size=10),
    around=st.sampled_from(["org_01abc", "`org_01abc`", "in organization `org_01abc` service tier `on_demand`"]),
    after=st.text(max_size=10).filter(lambda text: not text[:1].isalnum()),
    status=st.sampled_from([400, 404, 413, 422, 429]),
)
def test_an_organisation_id_is_removed_from_any_position(before: str, around: str, after: str, status: int) -> None:
    text = f"{before} {around}{after}".strip()
    error = from_status(status, {}, {"error": {"message": text, "code": "model_x"}})

    assert "org_01abc" not in error.message


@pytest.mark.parametrize("body", [None, "", "text", [], 5, {}, {"error": None}, {"error": "x"}, {"error": {"code": 5}}])
@pytest.mark.parametrize("status", [302, 400, 401, 404, 418, 429, 500, 599])
def test_arbitrary_bodies_are_handled(status: int, body: object) -> None:
    error = from_status(status, {}, body)

    assert error.message
    assert error.reason


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"message": "m", "code": "tool_use_failed", "status_code": 400}, InvalidRequest),
        ({"message": "m", "status_code": 503}, UpstreamFailed),
        ({"message": "m"}, UpstreamInvalid),
        ({"message": "m", "status_code": "400"}, UpstreamInvalid),
        ("over_capacity", UpstreamFailed),
        (None, UpstreamFailed),
    ],
)
def test_an_error_inside_a_stream_is_classified_by_its_own_status(event: object, kind: type[ServiceError]) -> None:
    assert type(from_event(event)) is kind


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "model_permission_blocked_org"),
        (403, "model_permission_blocked_project"),
        (400, "model_terms_required"),
        (403, "model_terms_required"),
    ],
)
def test_a_model_blocked_for_the_organisation_does_not_affect_the_key(status: int, code: str) -> None:
    error = from_status(status, {}, {"error": {"message": "The model `m` is blocked.", "type": "x", "code": code}})

    assert isinstance(error, ModelRefused)
    assert error.is_key_specific
    assert "blocked" not in error.message


@pytest.mark.parametrize("unit", ["日本語の文", "\t ", "a groq.com ", "https://", "org_", "in organization `"])
def test_a_long_message_is_redacted_in_linear_time(unit: str) -> None:
    message = unit * (10_000 // len(unit)) + " end"
    started = time.process_time()
    from_status(400, {}, {"error": {"message": message}})
    assert time.process_time() - started < 0.1
