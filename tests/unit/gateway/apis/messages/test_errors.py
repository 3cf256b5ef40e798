"""Errors have Anthropic's envelope, types and words."""

import json
from typing import Any

import pytest

from services.common.errors import (
    DeadlineExceeded,
    ErrorDetails,
    InternalError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ServiceError,
    Throttled,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from services.gateway.apis.messages.errors import error
from services.gateway.apis.messages.request import parse
from services.gateway.apis.surface import Context, ModelFacts
from services.gateway.http.errors import HTTPError, http_error
from services.gateway.requests.types import LimitReached, RateLimit

_NOW = 1_795_900_000.0


def _rendered(failure: ServiceError | HTTPError, **facts: Any) -> tuple[int, Any, Any]:
    http = http_error(failure, now=_NOW) if isinstance(failure, ServiceError) else failure
    response = error(http, request_id="req_A", **facts)
    body = json.loads(response.body)
    assert (body["type"], body["request_id"]) == ("error", "req_A")
    assert response.headers["request-id"] == "req_A"
    return response.status, body["error"], response.headers


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (InvalidRequest("No."), 400, "invalid_request_error"),
        (Unauthenticated("No."), 401, "authentication_error"),
        (HTTPError(402, "No.", "x"), 402, "billing_error"),
        (PermissionDenied("No."), 403, "permission_error"),
        (NotFound("No."), 404, "not_found_error"),
        (HTTPError(405, "No.", "x"), 405, "invalid_request_error"),
        (HTTPError(408, "No.", "x"), 408, "invalid_request_error"),
        (TooLarge("No."), 413, "request_too_large"),
        (Throttled("No."), 429, "rate_limit_error"),
        (InternalError("No."), 500, "api_error"),
        (Unavailable("No.", reason="upstream_cut"), 502, "api_error"),
        (Unavailable("No."), 503, "overloaded_error"),
        (DeadlineExceeded("No."), 504, "timeout_error"),
        (HTTPError(529, "No.", "x"), 529, "overloaded_error"),
    ],
)
def test_types(failure: Any, status: int, kind: str) -> None:
    assert _rendered(failure)[:2] == (status, {"type": kind, "message": _rendered(failure)[1]["message"]})


def test_the_daily_limit_is_not_retried() -> None:
    limit = RateLimit(limit=10, charged=10, held=0, reset_at=_NOW + 3_600)
    status, body, headers = _rendered(LimitReached(limit))
    assert (status, body["type"], headers["x-should-retry"]) == (429, "rate_limit_error", "false")
    assert "Resets at 00:00 UTC, in 1h0m0s" in body["message"]


def test_requests_in_progress_are_retried() -> None:
    _, _, headers = _rendered(LimitReached(RateLimit(limit=10, charged=9, held=1, reset_at=_NOW + 3_600)))
    assert headers["retry-after"] == "1"
    assert "x-should-retry" not in headers


def test_an_invalid_key_is_not_retried() -> None:
    assert _rendered(Unauthenticated("No."))[2]["x-should-retry"] == "false"


class TestPromptTooLong:
    _FAILURE = InvalidRequest("Too long.", details=ErrorDetails(code="context_length_exceeded", param="messages"))

    @pytest.mark.parametrize(
        ("facts", "message"),
        [
            ({}, "prompt is too long: 131073 tokens > 131072 maximum"),
            ({"prompt_tokens": 200_000}, "prompt is too long: 200000 tokens > 131072 maximum"),
            ({"prompt_tokens": 5, "context_window": 4_096}, "prompt is too long: 4097 tokens > 4096 maximum"),
        ],
    )
    def test_words(self, facts: Any, message: str) -> None:
        assert _rendered(self._FAILURE, **facts)[:2] == (400, {"type": "invalid_request_error", "message": message})

    def test_the_renderer_knows_the_numbers(self) -> None:
        body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x" * 20_000}]}
        context = Context(models={"m": ModelFacts(context_window=4_096)})
        renderer = parse(json.dumps(body).encode(), context).renderer
        renderer.begin("req_A", _NOW)
        failure = http_error(self._FAILURE, now=_NOW)
        words = b"prompt is too long: 5020 tokens > 4096 maximum"
        assert words in renderer.error(failure).body
        assert words in renderer.stream_error(failure)


class TestWords:
    def _message(self, **members: Any) -> Any:
        body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}], **members}
        with pytest.raises(ServiceError) as raised:
            parse(json.dumps(body).encode(), Context())
        return _rendered(raised.value)[1]

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            ({"max_tokens": None}, "max_tokens: Field required"),
            (
                {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
                "messages.0.content.0.text: Field required",
            ),
            (
                {"messages": [{"role": "user", "content": 1}]},
                "Invalid type for 'messages.0.content': expected one of a string or array of objects, but got an "
                "integer instead.",
            ),
            (
                {"tools": [{"type": "bash_20250124", "name": "bash"}]},
                "tools.0: type 'bash_20250124' is not supported. Define tools by name and input_schema, and run them.",
            ),
        ],
    )
    def test_paths_are_dotted(self, members: Any, message: str) -> None:
        assert self._message(**members)["message"] == message

    def test_a_refused_document_has_exactly_the_words_that_make_claude_code_drop_it(self) -> None:
        source = {"type": "base64", "media_type": "application/pdf", "data": "aGk="}
        content = [{"type": "document", "source": source}]
        body = self._message(messages=[{"role": "user", "content": content}])
        assert body["message"] == "capability_rejected: document_block"
        assert "Send the document as text" in body["detail"]

    def test_so_has_a_refused_image(self) -> None:
        failure = InvalidRequest("The model does not read images.", details=ErrorDetails(code="image_block"))
        assert _rendered(failure)[1] == {
            "type": "invalid_request_error",
            "message": "capability_rejected: image_block",
            "detail": "The model does not read images.",
        }
