"""Mapping of Groq's error responses to `ServiceError`. Messages never identify the operator's account.

| Groq                                  | raised                   | reason                |
|---------------------------------------|--------------------------|-----------------------|
| 400, 422, 424                         | InvalidRequest           | Groq's code           |
| 400 model_decommissioned              | ModelRefused             | model_decommissioned  |
| 400 organization_restricted, …        | KeyRefused               | upstream_misconfigured|
| 401, 404 of anything but a model      | KeyRefused               | upstream_misconfigured|
| 400, 403 model_terms_required         | ModelRefused             | model_not_found       |
| 403 model_permission_blocked_org, …   | ModelRefused             | model_not_found       |
| 403 of anything else                  | UpstreamFailed           | upstream_misconfigured|
| 404 model_not_found                   | ModelRefused             | model_not_found       |
| 413                                   | TooLarge                 | request_too_large     |
| 429                                   | KeyLimited               | upstream_unavailable  |
| 498, 5xx, anything else               | UpstreamFailed           | upstream_unavailable  |

Groq's edge can answer 403 because of a request's text, so a 403 does not imply that the key is invalid.
"""

import re
from collections.abc import Mapping
from typing import Any

from services.common.errors import ErrorDetails, InvalidRequest, ServiceError, TooLarge
from services.inference.groq.errors import KeyLimited, KeyRefused, ModelRefused, UpstreamFailed, UpstreamInvalid
from services.inference.groq.rate_limits import (
    cooldown_after_limit,
    observed_in_headers,
    observed_in_message,
    retry_after,
    token_shortfall,
)

_OPERATOR_CODES = frozenset({"organization_restricted", "blocked_api_access", "invalid_api_key"})
_TERMS_REQUIRED = "model_terms_required"
"""The organisation has not accepted the terms of this one model."""
_INVALID_STATUSES = frozenset({400, 422, 424})
_ACCOUNT = re.compile(r"(?: in organization)? ?`?\b(?:org|proj|project|req|gsk)_\w+`?(?: service tier `\w+`)?")
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_WORD = re.compile(r"\s*\S+")
_TEXT_CHARACTERS_MAX = 10_000
_NOT_PERMITTED = "The model is not available. Use a model listed by GET /api/v1/models."
_MESSAGES = {
    "context_length_exceeded": (
        "The messages and the answer together exceed the model's context length. Shorten the messages, or lower "
        "max_completion_tokens."
    ),
    "model_decommissioned": "The model has been decommissioned. Use a model listed by GET /api/v1/models.",
}


def from_status(status: int, headers: Mapping[str, str], body: object) -> ServiceError:
    """Return the error for a response of Groq that is not 2xx.

    Args:
        status: HTTP status.
        headers: Headers of the response, of which `retry-after` and `x-ratelimit-*` are read.
        body: Decoded JSON body; ignored unless it is an object with an `error`.
    """
    details = _details(body)
    code = _code(details)
    if code in _OPERATOR_CODES or status == 401:
        return KeyRefused()
    if status == 403:
        return _forbidden(details)
    if status in _INVALID_STATUSES:
        return _invalid(details)
    if status == 404:
        return _not_found(details) if code.startswith("model_") else KeyRefused()
    if status == 413:
        return TooLarge("The request is too large for the model. Shorten the messages.", reason="request_too_large")
    if status == 429:
        message = _text(details, "message")
        return KeyLimited(
            retry_seconds=cooldown_after_limit(headers, message),
            shortfall=token_shortfall(message),
            observations=observed_in_message(message) or observed_in_headers(headers),
        )
    return UpstreamFailed(retry_seconds=retry_after(headers))


def from_event(error: object) -> ServiceError:
    """Return the error for a failure that Groq reports after status 200.

    Args:
        error: The `error` object of an answer or of an `event: error`, or the text of `x_groq.error`.
    """
    if not isinstance(error, dict):
        return from_status(503, {}, {})
    status = error.get("status_code")
    if not isinstance(status, int):
        return UpstreamInvalid("The model returned an error without a status. Try again in a moment.")
    return from_status(status, {}, {"error": error})


def _redact(message: str) -> str:
    """Return Groq's message without ids of the operator's account and links to Groq."""
    # A pattern that searches for a link takes seconds for ten thousand characters without one.
    words = _WORD.findall(_ACCOUNT.sub("", message).strip())
    return "".join([word for word in words if "groq.com" not in word.lower()]).strip()


def _details(body: object) -> Mapping[str, Any]:
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def _text(details: Mapping[str, Any], name: str) -> str:
    value = details.get(name)
    return value[:_TEXT_CHARACTERS_MAX] if isinstance(value, str) else ""


def _code(details: Mapping[str, Any]) -> str:
    """Return the code of an error; empty for a text that is no code."""
    code = _text(details, "code")
    return code if _CODE.fullmatch(code) and not _ACCOUNT.search(code) else ""


def _forbidden(details: Mapping[str, Any]) -> ServiceError:
    if _code(details).startswith("model_"):
        return ModelRefused(_NOT_PERMITTED, is_key_specific=True)
    return UpstreamFailed("The model provider refused access. Try again.", reason="upstream_misconfigured")


def _invalid(details: Mapping[str, Any]) -> ServiceError:
    code = _code(details)
    if code == "model_decommissioned":
        return ModelRefused(_MESSAGES[code], is_key_specific=False, code=code)
    if code == _TERMS_REQUIRED:
        return ModelRefused(_NOT_PERMITTED, is_key_specific=True)
    message = _MESSAGES.get(code) or _redact(_text(details, "message")) or "The model refused the request."
    return InvalidRequest(
        message,
        reason=code or "invalid_request",
        details=ErrorDetails(
            param=_redact(_text(details, "param")), code=code, failed_generation=_text(details, "failed_generation")
        ),
    )


def _not_found(details: Mapping[str, Any]) -> ServiceError:
    message = _redact(_text(details, "message")) or "The model does not exist."
    return ModelRefused(message, is_key_specific=False)
