"""How a call to Groq can end, and the errors that say so.

Every call ends in exactly one `CallResult`. The circuit breaker, the key pool, retries and metrics all read it from the
error, so that a call is classified once.
"""

import asyncio
import math
from enum import StrEnum
from typing import NamedTuple

from services.common.errors import DeadlineExceeded, NotFound, ServiceError, Unavailable

_BUSY = "The model is busy or failing. Try again in a moment."
_RETRY_AFTER_SECONDS_MAX = 60


class CallResult(StrEnum):
    """How one call to Groq ended."""

    ANSWERED = "answered"
    """Groq accepted the request and answered it."""
    REFUSED = "refused"
    """Groq refused the request itself (400, 413, 422, 424)."""
    MODEL_REFUSED = "model_refused"
    """The model does not exist, or the organisation of the key may not use it."""
    LIMITED = "limited"
    """The key has nothing left for the model, or too little for the request (429)."""
    KEY_REFUSED = "key_refused"
    """Groq does not accept the key."""
    FAILED = "failed"
    """Groq failed (498, 5xx), could not be reached, or closed the connection."""
    TIMED_OUT = "timed_out"
    """Nothing came for longer than a time-out."""
    CANCELLED = "cancelled"
    """The call was given up here; it says nothing about Groq."""
    INVALID = "invalid"
    """The answer was not one: not JSON, no choices, or too large."""


class TokenShortfall(NamedTuple):
    """Why Groq refused a request because of its tokens."""

    left: int
    """What the key has left for the model."""
    requested: int
    """What Groq counts for the request; more than what is left."""


class UpstreamError(Unavailable):
    """Groq did not answer, and the request is not at fault: another call may be answered.

    Attributes:
        result: How the call ended.
        retry_seconds: How long Groq asked to be left alone; 0 when it did not say.
    """

    result = CallResult.FAILED

    def __init__(
        self, message: str = _BUSY, *, reason: str = "upstream_unavailable", retry_seconds: float = 0.0
    ) -> None:
        whole = min(max(1, math.ceil(retry_seconds)), _RETRY_AFTER_SECONDS_MAX)
        super().__init__(message, reason=reason, metadata={"retry_after_seconds": str(whole)})
        self.retry_seconds = retry_seconds


class UpstreamFailed(UpstreamError):
    """Groq failed, could not be reached, or closed the connection."""


class UpstreamInvalid(UpstreamError):
    """Groq's answer cannot be used."""

    result = CallResult.INVALID

    def __init__(self, message: str = "The model's answer could not be read. Try again.") -> None:
        super().__init__(message, reason="upstream_invalid")


class KeyLimited(UpstreamError):
    """The key has nothing left for the model, or less than the request asks for.

    Attributes:
        shortfall: What is left for smaller requests; None when Groq does not say, or when it is not about tokens.
    """

    result = CallResult.LIMITED

    def __init__(self, *, retry_seconds: float = 0.0, shortfall: TokenShortfall | None = None) -> None:
        super().__init__(retry_seconds=retry_seconds)
        self.shortfall = shortfall


class KeyRefused(UpstreamError):
    """Groq does not accept the operator's key."""

    result = CallResult.KEY_REFUSED

    def __init__(self) -> None:
        message = "This service's own access to the model was refused. Tell its operator; trying again does not help."
        super().__init__(message, reason="upstream_misconfigured")


class ModelRefused(NotFound):
    """The model does not exist, or the organisation of the key may not use it.

    Attributes:
        is_of_key: Whether a key of another organisation may be allowed to use it.
    """

    def __init__(self, message: str, *, is_of_key: bool, code: str = "model_not_found") -> None:
        super().__init__(message, reason=code, metadata={"code": code})
        self.is_of_key = is_of_key


def result_of(exc: BaseException) -> CallResult:
    """Return how a call ended that raised `exc`."""
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
