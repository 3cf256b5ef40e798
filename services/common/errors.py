"""The exception hierarchy of the services and its mapping to and from gRPC statuses.

    ServiceError
    ├── InvalidRequest       INVALID_ARGUMENT     the request is invalid
    ├── Unauthenticated      UNAUTHENTICATED      the credential is missing or invalid
    ├── PermissionDenied     PERMISSION_DENIED    the caller lacks permission
    ├── NotFound             NOT_FOUND            the object does not exist
    ├── AlreadyExists        ALREADY_EXISTS       the object already exists
    ├── FailedPrecondition   FAILED_PRECONDITION  the current state does not allow it; change that first
    ├── TooLarge             OUT_OF_RANGE         the request is valid but too large
    ├── Throttled            RESOURCE_EXHAUSTED   a limit is reached; retry later
    ├── Unavailable          UNAVAILABLE          a dependency is unavailable; a retry may succeed
    ├── DeadlineExceeded     DEADLINE_EXCEEDED    it took too long
    └── InternalError        INTERNAL             a bug in this project

A status carries a `google.rpc.ErrorInfo` with the domain `stack`, a machine-readable reason and a map of strings, from
which the caller restores the exception.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "stack"
_MESSAGE_ENCODED_MAX = 2_100
_METADATA_BYTES_MAX = 16_000
_NAME_BYTES_MAX = 128
"""Chosen so that a status fits into `channel.METADATA_BYTES_MAX`. The metadata contains a status twice: its message
percent-encoded, where each byte that is not printable ASCII takes three, and all of it in Base64 (gRPC over HTTP/2,
"Status")."""
_DETAILS_KEY = "grpc-status-details-bin"


class ServiceError(Exception):
    """Base class of errors whose message is safe to show to the caller.

    Attributes:
        message: What is wrong and how to fix it.
        reason: Machine-readable cause in lower case, such as `model_not_found`.
        metadata: Further details, whose names are defined by the service that raises the error.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    default_reason: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, reason: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})


class InvalidRequest(ServiceError):
    """The request is invalid."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = "invalid_request"


class Unauthenticated(ServiceError):
    """The credential is missing or invalid."""

    code = grpc.StatusCode.UNAUTHENTICATED
    default_reason = "unauthenticated"


class PermissionDenied(ServiceError):
    """The caller is authenticated but lacks permission."""

    code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = "permission_denied"


class NotFound(ServiceError):
    """The object does not exist."""

    code = grpc.StatusCode.NOT_FOUND
    default_reason = "not_found"


class AlreadyExists(ServiceError):
    """The object to create already exists."""

    code = grpc.StatusCode.ALREADY_EXISTS
    default_reason = "already_exists"


class FailedPrecondition(ServiceError):
    """The current state does not allow the operation; it must be changed first."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = "failed_precondition"


class TooLarge(ServiceError):
    """The request is valid but too large."""

    code = grpc.StatusCode.OUT_OF_RANGE
    default_reason = "too_large"


class Throttled(ServiceError):
    """A limit is reached; retry later."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "throttled"


class Unavailable(ServiceError):
    """A dependency is unavailable; a later retry may succeed."""

    code = grpc.StatusCode.UNAVAILABLE
    default_reason = "unavailable"


class DeadlineExceeded(ServiceError):
    """The operation took longer than the caller or a setting allows."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = "deadline_exceeded"


class InternalError(ServiceError):
    """A bug in this project. The details are logged and never sent to the caller."""


_BY_CODE: dict[grpc.StatusCode, type[ServiceError]] = {
    kind.code: kind
    for kind in (
        InvalidRequest,
        Unauthenticated,
        PermissionDenied,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        TooLarge,
        Throttled,
        Unavailable,
        DeadlineExceeded,
        InternalError,
    )
}


class StartError(Exception):
    """A process cannot start. The message states the cause and the remedy, for the operator."""


def rpc_status(error: ServiceError) -> tuple[str, tuple[tuple[str, bytes], ...]]:
    """Return an error as the details and trailing metadata of a gRPC status.

    Both are truncated to gRPC's limits; beyond them, gRPC would replace the error with one of its own.
    """
    message = _truncated(error.message, _MESSAGE_ENCODED_MAX, _percent_encoded_size)
    info = error_details_pb2.ErrorInfo(
        reason=_truncated(error.reason, _NAME_BYTES_MAX), domain=DOMAIN, metadata=_truncated_metadata(error.metadata)
    )
    detail = any_pb2.Any()
    detail.Pack(info)
    status = status_pb2.Status(code=error.code.value[0], message=message, details=[detail])
    return message, ((_DETAILS_KEY, status.SerializeToString()),)


def _truncated_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata within the size limit: short values are kept, and long ones share the remaining bytes equally."""
    left, truncated = _METADATA_BYTES_MAX, {}
    for position, (name, value) in enumerate(sorted(metadata.items(), key=lambda item: len(item[1]))):
        truncated[name] = _truncated(value, left // (len(metadata) - position))
        left -= len(truncated[name].encode())
    return truncated


def _truncated(text: str, size_max: int, size: Callable[[str], int] = lambda text: len(text.encode())) -> str:
    """Return text that can be encoded in UTF-8, truncated to `size_max` with an ellipsis."""
    text = text[:size_max].encode("utf-8", "replace").decode() + ("…" if len(text) > size_max else "")
    if size(text) <= size_max:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size(text[:middle] + "…") <= size_max else (low, middle - 1)
    return text[:low] + "…" if size_max >= size("…") else ""


def _percent_encoded_size(text: str) -> int:
    return sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in text.encode())


def from_rpc(error: grpc.aio.AioRpcError, *, unavailable_reason: str) -> ServiceError:
    """Return the `ServiceError` of a failed call.

    Args:
        error: Error raised by the gRPC client.
        unavailable_reason: Reason to use when the channel cannot reach the service, such as `quota_unavailable`.
    """
    info = _error_info(error)
    if info is not None:
        kind = _BY_CODE.get(error.code(), InternalError)
        return kind(error.details() or "", reason=info.reason, metadata=dict(info.metadata))
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return Unavailable("A required service cannot be reached. Try again.", reason=unavailable_reason)
    return InternalError(f"An internal call failed with {error.code().name}: {error.details()}")


def _error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo | None:
    for name, value in error.trailing_metadata() or ():
        if name == _DETAILS_KEY and isinstance(value, bytes):
            return _first_info(status_pb2.Status.FromString(value))
    return None


def _first_info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo | None:
    info = error_details_pb2.ErrorInfo()
    return next((info for detail in status.details if detail.Unpack(info) and info.domain == DOMAIN), None)


@contextmanager
def rpc_errors(*, unavailable_reason: str) -> Iterator[None]:
    """Convert the gRPC errors raised inside the block to `ServiceError`."""
    try:
        yield
    except grpc.aio.AioRpcError as exc:
        raise from_rpc(exc, unavailable_reason=unavailable_reason) from exc
