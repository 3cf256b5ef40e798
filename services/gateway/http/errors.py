"""Errors as OpenAI's JSON: the one table from the service tree to HTTP, and the envelope.

| error             | status | type                    |
|-------------------|--------|-------------------------|
| InvalidRequest    | 400    | invalid_request_error   |
| Unauthenticated   | 401    | authentication_error    |
| PermissionDenied  | 403    | permission_error        |
| NotFound          | 404    | invalid_request_error   |
| FailedPrecondition, AlreadyExists | 409 | invalid_request_error |
| TooLarge          | 413    | invalid_request_error   |
| LimitReached, Throttled | 429 | rate_limit_exceeded  |
| Unavailable       | 503, or 502 where the model's answer or our access to it is at fault | internal_error |
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
from services.gateway.requests.types import LimitReached, RateLimit

_DAY_SECONDS = 86_400
_BAD_GATEWAY = frozenset({"upstream_misconfigured", "upstream_invalid", "upstream_cut"})
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class HTTPError:
    """A failed answer: its status, envelope and headers."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    failed_generation: str = ""
    """What the model wrote where Groq could not use it (`tool_use_failed`, `json_validate_failed`); empty leaves the
    member out, as Groq does."""

    @property
    def body(self) -> bytes:
        """The envelope as JSON text."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        if self.failed_generation:
            error["failed_generation"] = self.failed_generation
        return _encode({"error": error})


def http_error(error: ServiceError, *, now: float) -> HTTPError:
    """Return how a failure is told to an HTTP client.

    Args:
        error: What happened.
        now: Unix seconds, for the time to the limit's reset.
    """
    match error:
        case LimitReached():
            return _limit_reached(error.rate_limit, now)
        case InvalidRequest():
            return _refusal(400, error)
        case Unauthenticated():
            return HTTPError(401, error.message, "authentication_error", code="invalid_api_key", headers=_BEARER)
        case PermissionDenied():
            return HTTPError(403, error.message, "permission_error", code=error.reason)
        case NotFound():
            return _refusal(404, error)
        case FailedPrecondition() | AlreadyExists():
            return HTTPError(409, error.message, "invalid_request_error", code=error.reason)
        case TooLarge():
            return HTTPError(413, error.message, "invalid_request_error", code=error.reason)
        case Throttled():
            headers = {"retry-after": error.metadata.get("retry_after_seconds", "1")}
            return HTTPError(429, error.message, "rate_limit_exceeded", code=error.reason, headers=headers)
        case Unavailable():
            status = 502 if error.reason in _BAD_GATEWAY else 503
            retry_after = error.metadata.get("retry_after_seconds", "1")
            return HTTPError(
                status, error.message, "internal_error", code=error.reason, headers={"retry-after": retry_after}
            )
        case DeadlineExceeded():
            return HTTPError(504, error.message, "internal_error", code=error.reason)
        case _:
            return internal_error()


def internal_error() -> HTTPError:
    """Return the answer to our own defects, which tells nothing of them."""
    message = "the server had an error while processing the request; try again, and name the request id if it persists"
    return HTTPError(500, message, "internal_error", code="internal_error")


def rate_limit_headers(rate_limit: RateLimit, *, now: float) -> dict[str, str]:
    """Return the headers that tell a key's day, with OpenAI's and Groq's names."""
    return {
        "x-ratelimit-limit-requests": str(rate_limit.limit),
        "x-ratelimit-remaining-requests": str(rate_limit.remaining),
        "x-ratelimit-reset-requests": duration(rate_limit.reset_at - now),
    }


def duration(seconds: float) -> str:
    """Return whole seconds, rounded up, as `7h12m3s`; at least `1s`, at most a day."""
    whole = _whole(seconds)
    hours, minutes = divmod(whole // 60, 60)
    parts = [(hours, "h"), (minutes, "m"), (whole % 60, "s")]
    while len(parts) > 1 and parts[0][0] == 0:
        parts.pop(0)
    return "".join(f"{value}{unit}" for value, unit in parts)


_BEARER = {"www-authenticate": "Bearer"}


def _refusal(status: int, error: ServiceError) -> HTTPError:
    facts = error.metadata
    return HTTPError(
        status,
        error.message,
        "invalid_request_error",
        param=facts.get("param"),
        code=facts.get("code"),
        failed_generation=facts.get("failed_generation", ""),
    )


def _limit_reached(rate_limit: RateLimit, now: float) -> HTTPError:
    headers = rate_limit_headers(rate_limit, now=now)
    used = f"Limit {rate_limit.limit}, Used {rate_limit.charged}, In use {rate_limit.held}, Requested 1."
    if rate_limit.charged >= rate_limit.limit:
        wait = _whole(rate_limit.reset_at - now)
        message = (
            f"Rate limit reached for this API key on requests per day (RPD): {used} "
            f"Resets at 00:00 UTC, in {duration(wait)}."
        )
        # The OpenAI and Groq packages otherwise send every refused call three times.
        headers |= {"retry-after": str(wait), "x-should-retry": "false"}
    else:
        message = (
            f"All remaining requests of this API key's day are in use, not used up: {used} "
            "A slot frees when a request in flight fails; try again in a moment."
        )
        headers |= {"retry-after": "1"}
    return HTTPError(429, message, "rate_limit_exceeded", code="rate_limit_exceeded", headers=headers)


def _whole(seconds: float) -> int:
    return min(max(1, -int(-seconds // 1)), _DAY_SECONDS)
