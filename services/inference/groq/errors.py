"""Results and errors of calls to Groq.

Every call has exactly one `CallResult`. The circuit breaker, the key pool, retries and metrics read it from the error,
so each call is classified once.
"""

import asyncio
import math
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from services.common.errors import DeadlineExceeded, ErrorDetails, NotFound, ServiceError, Unavailable
from services.inference.allowance.model import Observation

_BUSY = "The model is overloaded or failing. Try again in a moment."
_RETRY_AFTER_SECONDS_MAX = 60
_DAY_SECONDS = 86_400


class CallResult(StrEnum):
    """The result of a call to Groq."""

    ANSWERED = "answered"
    """Groq accepted the request and answered it."""
    REFUSED = "refused"
    """Groq rejected the request itself (400, 413, 422, 424)."""
    MODEL_REFUSED = "model_refused"
    """The model does not exist, or the key's organisation may not use it."""
    LIMITED = "limited"
    """The key's rate limit for the model is reached, or has too little left for the request (429)."""
    KEY_REFUSED = "key_refused"
    """Groq rejected the key."""
    FAILED = "failed"
    """Groq failed (498, 5xx), was unreachable, or closed the connection."""
    TIMED_OUT = "timed_out"
    """A time-out expired."""
    CANCELLED = "cancelled"
    """This service cancelled the call, which implies nothing about Groq."""
    INVALID = "invalid"
    """The answer was not JSON, had no choices, or was too large."""


class TokenShortfall(NamedTuple):
    """Why Groq refused a request because of its tokens."""

    left: int
    """What the key has left for the model."""
    requested: int
    """What Groq counts for the request; more than what is left."""


class UpstreamError(Unavailable):
    """A call failed for a reason other than the request, so another call may succeed.

    Attributes:
        result: Result of the call.
        retry_seconds: Time to wait before another call, in seconds; 0 if Groq gave none.
    """

    result = CallResult.FAILED

    def __init__(
        self, message: str = _BUSY, *, reason: str = "upstream_unavailable", retry_seconds: float = 0.0
    ) -> None:
        whole = min(max(1, math.ceil(retry_seconds)), _RETRY_AFTER_SECONDS_MAX)
        super().__init__(message, reason=reason, details=ErrorDetails(retry_after_seconds=whole))
        self.retry_seconds = retry_seconds


class UpstreamFailed(UpstreamError):
    """Groq failed, was unreachable, or closed the connection."""


class UpstreamStale(UpstreamFailed):
    """An idle connection to Groq had been closed, which implies nothing about Groq."""


class UpstreamInvalid(UpstreamError):
    """Groq's answer is invalid."""

    result = CallResult.INVALID

    def __init__(self, message: str = "The model's answer could not be read. Try again in a moment.") -> None:
        super().__init__(message, reason="upstream_invalid")


class UpstreamBusy(UpstreamError):
    """Groq's limits or the service's concurrency are used up, and the request cannot wait. Nothing was sent."""

    result = CallResult.LIMITED

    def __init__(self, *, retry_seconds: float) -> None:
        message = "The model is in high demand. Try again after the time in the header retry-after."
        super().__init__(message, reason="upstream_busy", retry_seconds=retry_seconds)
        # The time is computed, so unlike that of a failure it is not shortened.
        self.details = ErrorDetails(retry_after_seconds=min(max(1, math.ceil(retry_seconds)), _DAY_SECONDS))


class KeyLimited(UpstreamError):
    """The key's rate limit for the model is reached, or has less left than the request needs.

    Attributes:
        shortfall: What is left for smaller requests; None if Groq does not say, or if the limit is not about tokens.
        observations: What Groq reports about its limits.
    """

    result = CallResult.LIMITED

    def __init__(
        self,
        *,
        retry_seconds: float = 0.0,
        shortfall: TokenShortfall | None = None,
        observations: Sequence[Observation] = (),
    ) -> None:
        super().__init__(retry_seconds=retry_seconds)
        self.shortfall = shortfall
        self.observations = observations


class KeyRefused(UpstreamError):
    """Groq rejected the operator's key."""

    result = CallResult.KEY_REFUSED

    def __init__(self) -> None:
        message = (
            "The model provider rejected this service's credentials. Contact the operator of this service; retrying "
            "does not help."
        )
        super().__init__(message, reason="upstream_misconfigured")


class ModelRefused(NotFound):
    """The model does not exist, or the key's organisation may not use it.

    Attributes:
        is_key_specific: Whether a key of another organisation may be able to use it.
    """

    def __init__(self, message: str, *, is_key_specific: bool, code: str = "model_not_found") -> None:
        super().__init__(message, reason=code, details=ErrorDetails(code=code))
        self.is_key_specific = is_key_specific


def result_of(exc: BaseException) -> CallResult:
    """Return the result of a call that raised `exc`."""
    match exc:
        case UpstreamError():
            return exc.result
        case ModelRefused():
            return CallResult.MODEL_REFUSED
        case DeadlineExceeded():
            return CallResult.TIMED_OUT
        case ServiceError():
            return CallResult.REFUSED
        case asyncio.CancelledError() | GeneratorExit():
            return CallResult.CANCELLED
        case _:
            return CallResult.FAILED
