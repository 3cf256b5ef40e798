"""Mapping of service errors to HTTP statuses and OpenAI's error format.

| error             | status | type                    |
|-------------------|--------|-------------------------|
| InvalidRequest    | 400    | invalid_request_error   |
| Unauthenticated   | 401    | authentication_error    |
| PermissionDenied  | 403    | permission_error        |
| NotFound          | 404    | invalid_request_error   |
| FailedPrecondition, AlreadyExists | 409 | invalid_request_error |
| IdempotentAnswerGone | 410 | invalid_request_error     |
| TooLarge          | 413    | invalid_request_error   |
| LimitReached, Throttled | 429 | rate_limit_exceeded  |
| Unavailable       | 503, or 502 for a bad answer from Groq or a misconfigured Groq key | internal_error |
| DeadlineExceeded  | 504    | internal_error          |
| anything else     | 500    | internal_error          |
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from services.common.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ServiceError,
    Throttled,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from services.gateway.http.rate_limits import RETRIED_SECONDS_MAX, Refusal, refusal
from services.gateway.requests.idempotency_types import IdempotencyKeyReused, IdempotentAnswerGone
from services.gateway.requests.types import LimitReached

_BAD_GATEWAY = frozenset({"upstream_misconfigured", "upstream_invalid", "upstream_cut"})
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class HTTPError:
    """An error response."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    failed_generation: str = ""
    """Output of the model that Groq rejected (`tool_use_failed`, `json_validate_failed`). If empty, the member is
    omitted, as in Groq's responses."""
    resets_at: float | None = None
    """Unix seconds at which the used-up daily limit resets; None for any other error. Not part of `body`."""

    @property
    def body(self) -> bytes:
        """The response body as JSON text."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        if self.failed_generation:
            error["failed_generation"] = self.failed_generation
        return _encode({"error": error})


def http_error(error: ServiceError, *, now: float) -> HTTPError:
    """Return the HTTP response for an error.

    Args:
        error: The error.
        now: Unix seconds, to compute the time until the limit resets.
    """
    match error:
        case LimitReached():
            return _limit_reached(refusal(error, now=now))
        case IdempotencyKeyReused():
            return _invalid_request_error(422, error)
        case InvalidRequest():
            return _invalid_request_error(400, error)
        case Unauthenticated():
            return HTTPError(401, error.message, "authentication_error", code="invalid_api_key", headers=_BEARER)
        case PermissionDenied():
            return HTTPError(403, error.message, "permission_error", code=error.reason)
        case NotFound():
            return _invalid_request_error(404, error)
        case IdempotentAnswerGone():
            return HTTPError(410, error.message, "invalid_request_error", code=error.reason)
        case FailedPrecondition() | AlreadyExists():
            headers = _retry_after(error) if error.details.retry_after_seconds else {}
            return HTTPError(409, error.message, "invalid_request_error", code=error.reason, headers=headers)
        case TooLarge():
            return HTTPError(413, error.message, "invalid_request_error", code=error.reason)
        case Throttled():
            headers = _retry_after(error)
            if error.details.retry_after_seconds > RETRIED_SECONDS_MAX:
                headers["x-should-retry"] = "false"
            return HTTPError(429, error.message, "rate_limit_exceeded", code=error.reason, headers=headers)
        case Unavailable():
            status = 502 if error.reason in _BAD_GATEWAY else 503
            return HTTPError(status, error.message, "internal_error", code=error.reason, headers=_retry_after(error))
        case DeadlineExceeded():
            return HTTPError(504, error.message, "internal_error", code=error.reason)
        case _:
            return internal_error()


def internal_error() -> HTTPError:
    """Return the response to an unexpected exception, which reveals no details."""
    message = (
        "The server had an error while processing your request. Try again. If the error persists, contact the operator "
        "with the request id."
    )
    return HTTPError(500, message, "internal_error", code="internal_error")


_BEARER = {"www-authenticate": "Bearer"}


def _invalid_request_error(status: int, error: ServiceError) -> HTTPError:
    details = error.details
    return HTTPError(
        status,
        error.message,
        "invalid_request_error",
        param=details.param or None,
        code=details.code or None,
        failed_generation=details.failed_generation,
    )


def _retry_after(error: ServiceError) -> dict[str, str]:
    return {"retry-after": str(error.details.retry_after_seconds or 1)}


def _limit_reached(reached: Refusal) -> HTTPError:
    return HTTPError(
        429,
        reached.message,
        "insufficient_quota" if reached.code == "insufficient_quota" else "rate_limit_exceeded",
        code=reached.code,
        headers=reached.headers,
        resets_at=reached.resets_at,
    )
