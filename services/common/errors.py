"""The exception hierarchy of the services.

    ServiceError
    ├── InvalidRequest       the request is invalid
    ├── Unauthenticated      the credential is missing or invalid
    ├── PermissionDenied     the caller lacks permission
    ├── NotFound             the object does not exist
    ├── AlreadyExists        the object already exists
    ├── FailedPrecondition   the current state does not allow it; change that first
    ├── TooLarge             the request is valid but too large
    ├── Throttled            a limit is reached; retry later
    ├── Unavailable          a dependency is unavailable; a retry may succeed
    ├── DeadlineExceeded     it took too long
    └── InternalError        a bug in this project

`services/common/rpc/status.py` maps it to gRPC statuses and back, `services/gateway/http/errors.py` to HTTP.
"""

from dataclasses import dataclass
from typing import ClassVar

from services.common.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetails:
    """Machine-readable details of an error, in addition to its class and reason.

    Sent as `stack.common.v1.ErrorDetails`.
    """

    verdict: Verdict | None = None
    """Verdict of a chat request; None if it is unknown whether the request is charged."""
    param: str = ""
    """Request parameter that is wrong, such as `messages`; empty if it is none or unknown."""
    code: str = ""
    """`error.code` of the HTTP API for an invalid request or an unknown object; empty if there is none."""
    retry_after_seconds: int = 0
    """Time to wait before a retry; 0 if unknown."""
    failed_generation: str = ""
    """Output of the model that Groq rejected (`tool_use_failed`, `json_validate_failed`); empty if there is none."""
    is_client_limit: bool = False
    """Whether a rate limit counts the client's address itself, so that it applies to all of the client's attempts."""


_NO_DETAILS = ErrorDetails()


class ServiceError(Exception):
    """Base class of errors whose message is safe to show to the caller.

    Attributes:
        message: What is wrong and how to fix it.
        reason: Machine-readable cause in lower case, such as `model_not_found`.
        details: Further details for programs.
    """

    default_reason: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, reason: str = "", details: ErrorDetails = _NO_DETAILS) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.details = details


class InvalidRequest(ServiceError):
    """The request is invalid."""

    default_reason = "invalid_request"


class Unauthenticated(ServiceError):
    """The credential is missing or invalid."""

    default_reason = "unauthenticated"


class PermissionDenied(ServiceError):
    """The caller is authenticated but lacks permission."""

    default_reason = "permission_denied"


class NotFound(ServiceError):
    """The object does not exist."""

    default_reason = "not_found"


class AlreadyExists(ServiceError):
    """The object to create already exists."""

    default_reason = "already_exists"


class FailedPrecondition(ServiceError):
    """The current state does not allow the operation; it must be changed first."""

    default_reason = "failed_precondition"


class TooLarge(ServiceError):
    """The request is valid but too large."""

    default_reason = "too_large"


class Throttled(ServiceError):
    """A limit is reached; retry later."""

    default_reason = "throttled"


class Unavailable(ServiceError):
    """A dependency is unavailable; a later retry may succeed."""

    default_reason = "unavailable"


class DeadlineExceeded(ServiceError):
    """The operation took longer than the caller or a setting allows."""

    default_reason = "deadline_exceeded"


class InternalError(ServiceError):
    """A bug in this project. The details are logged and never sent to the caller."""


class StartError(Exception):
    """A process cannot start. The message states the cause and the remedy, for the operator."""
