"""Errors of the Responses API, in forms that make Codex stop at once instead of retrying for hours."""

import math

import msgspec

from services.gateway.http.errors import HTTPError
from services.gateway.requests.surface import ErrorResponse

_encode = msgspec.json.Encoder().encode
_RETRY_AFTER_SECONDS_MAX = 60
"""Codex waits for the whole time in `retry-after`. Without the header, it reports a 429 to its user."""
_CODES = frozenset(
    {"server_error", "rate_limit_exceeded", "context_length_exceeded", "insufficient_quota", "invalid_prompt"}
)
"""Codes of failed responses that clients know."""


def error(error: HTTPError, *, request_id: str) -> ErrorResponse:
    """Return an error in OpenAI's envelope.

    At the daily limit, the type and `resets_at` are those that make Codex report the limit. 413 becomes 400, since
    Codex retries after any other status.
    """
    status = 400 if error.status == 413 else error.status
    return ErrorResponse(status, _body(error), _headers(error))


def stream_error_json(error: HTTPError) -> bytes:
    """Return the `error` of a failed response as JSON text."""
    return _encode({"code": _code(error), "message": error.message})


def _code(error: HTTPError) -> str:
    if error.code in _CODES:
        return error.code or ""
    if error.status >= 500:
        return "server_error"
    if error.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.status in (400, 413) else (error.code or "server_error")


def _body(error: HTTPError) -> bytes:
    if error.resets_at is None:
        return error.body
    members = {
        "message": error.message,
        "type": "usage_limit_reached",
        "param": error.param,
        "code": error.code,
        "resets_at": math.ceil(error.resets_at),
    }
    return _encode({"error": members})


def _headers(error: HTTPError) -> dict[str, str]:
    return {name: value for name, value in error.headers.items() if name != "retry-after" or _is_short(value, error)}


def _is_short(retry_after: str, error: HTTPError) -> bool:
    return error.resets_at is None and (not retry_after.isdigit() or int(retry_after) <= _RETRY_AFTER_SECONDS_MAX)
