"""What Groq's refusals and failures mean to our callers; the operator's account never shows in a message.

| Groq                                  | ours                     | reason                |
|---------------------------------------|--------------------------|-----------------------|
| 400, 422, 424                         | InvalidRequest           | Groq's code           |
| 400 organization_restricted and such  | KeyRefused               | upstream_misconfigured|
| 401, 403, 404 of anything but a model | KeyRefused               | upstream_misconfigured|
| 404 model_not_found                   | NotFound                 | model_not_found       |
| 413                                   | TooLarge                 | request_too_large     |
| 429                                   | KeyLimited               | upstream_unavailable  |
| 498, 5xx, anything else               | UpstreamFailed           | upstream_unavailable  |

The last three are kinds of `Unavailable` (supply.py).
"""

import re
from collections.abc import Mapping
from typing import Any

from services.common.errors import InvalidRequest, NotFound, ServiceError, TooLarge
from services.inference.rate_limits import rest_after_limit, retry_after
from services.inference.supply import KeyLimited, KeyRefused, UpstreamFailed

_OPERATOR_CODES = frozenset(
    {"organization_restricted", "blocked_api_access", "invalid_api_key", "model_terms_required"}
)
_INVALID_STATUSES = frozenset({400, 422, 424})
_ACCOUNT = re.compile(r"(?: in organization)? ?`?\b(?:org|project|req)_\w+`?(?: service tier `\w+`)?")
_GROQ_LINK = re.compile(r"\s*(?:https?://)?\S*groq\.com\S*")
_OWN_WORDS = {
    "context_length_exceeded": "The messages and the answer together are too long for this model; shorten them.",
    "model_decommissioned": "This model is no longer served; GET /api/v1/models lists those that are.",
}


def from_status(status: int, headers: Mapping[str, str], body: object) -> ServiceError:
    """Return the error for an answer of Groq's that is not 2xx.

    Args:
        status: HTTP status.
        headers: Its headers; `retry-after` and `x-ratelimit-*` are read.
        body: The JSON value, or the text when it is no JSON.
    """
    details = _details(body)
    code = _text(details, "code")
    if code in _OPERATOR_CODES or status in (401, 403):
        return _misconfigured()
    if status in _INVALID_STATUSES:
        return _invalid(details)
    if status == 404:
        return _not_found(details) if code.startswith("model_") else _misconfigured()
    if status == 413:
        return TooLarge("the request is too large for this model; shorten the messages", reason="request_too_large")
    if status == 429:
        return KeyLimited(rest_seconds=rest_after_limit(headers, _text(details, "message")))
    return UpstreamFailed(rest_seconds=retry_after(headers))


def from_event(error: object) -> ServiceError:
    """Return the error for a failure that Groq reports in the middle of a stream.

    Args:
        error: The `error` object of an `event: error`, or the text of `x_groq.error`.
    """
    details = error if isinstance(error, dict) else {}
    status = details.get("status_code")
    return from_status(status if isinstance(status, int) else 503, {}, {"error": details})


def _cleaned(message: str) -> str:
    """Return Groq's words without what names the operator's account or sends our user to Groq."""
    return _GROQ_LINK.sub("", _ACCOUNT.sub("", message)).strip()


def _details(body: object) -> Mapping[str, Any]:
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def _text(details: Mapping[str, Any], name: str) -> str:
    value = details.get(name)
    return value if isinstance(value, str) else ""


def _invalid(details: Mapping[str, Any]) -> ServiceError:
    code = _text(details, "code")
    message = _OWN_WORDS.get(code) or _cleaned(_text(details, "message")) or "the model refused the request"
    facts = _named(param=_text(details, "param"), code=code)
    return InvalidRequest(message, reason=code or "invalid_request", metadata=facts)


def _not_found(details: Mapping[str, Any]) -> ServiceError:
    message = _cleaned(_text(details, "message")) or "the model does not exist"
    return NotFound(message, reason="model_not_found", metadata={"code": "model_not_found"})


def _misconfigured() -> ServiceError:
    return KeyRefused("this service's own access to the model is refused", reason="upstream_misconfigured")


def _named(**values: str) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}
