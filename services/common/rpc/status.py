"""Conversion between `ServiceError` and the status of a gRPC call.

A status is a `google.rpc.Status` whose detail is `stack.common.v1.ErrorDetails`, as `grpc_status.rpc_status` sends it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from grpc_status import rpc_status

from services.common.errors import (
    AlreadyExists,
    DeadlineExceeded,
    ErrorDetails,
    FailedPrecondition,
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
from services.common.rpc.verdict import verdict_from_proto, verdict_to_proto
from stack.common.v1 import error_details_pb2

_MESSAGE_ENCODED_MAX = 2_100
"""Maximum size of a percent-encoded message. A byte that is not printable ASCII takes three (gRPC over HTTP/2)."""
UNREACHABLE = "A required service cannot be reached. Try again."
_RETRY_SECONDS_MAX = 86_400
_NAME_BYTES_MAX = 128
_PARAM_BYTES_MAX = 1_000
_FAILED_GENERATION_BYTES_MAX = 15_000
"""The limits keep a status below `sizes.METADATA_BYTES_MAX`, which includes the details in Base64. Beyond it, gRPC
would replace the error with one of its own."""

_CODES: dict[type[ServiceError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    TooLarge: grpc.StatusCode.OUT_OF_RANGE,
    Throttled: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    InternalError: grpc.StatusCode.INTERNAL,
}
_BY_CODE = {code: kind for kind, code in _CODES.items()}
_BY_NUMBER = {code.value[0]: kind for code, kind in _BY_CODE.items()}
_FROM_CHANNEL = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
"""Codes of calls that did not reach a service, or whose answer did not arrive."""


def to_status(error: ServiceError) -> grpc.Status:
    """Return the gRPC status of an error, with texts truncated to what gRPC can carry."""
    return rpc_status.to_status(_rich_status(error))


def serialized_status(error: ServiceError) -> bytes:
    """Return the serialized `google.rpc.Status` of an error; see `to_status`."""
    return bytes(_rich_status(error).SerializeToString())


def from_serialized(status: bytes) -> ServiceError:
    """Return the `ServiceError` of a serialized status."""
    try:
        received = status_pb2.Status.FromString(status)
    except DecodeError:
        return InternalError("An internal call failed with a damaged status.")
    kind, details = _BY_NUMBER.get(received.code, InternalError), _details_of(received)
    if details is None:
        return kind(received.message)
    return kind(received.message, reason=details.reason, details=_from_proto(details))


def code_of(error: ServiceError) -> grpc.StatusCode:
    """Return the code of an error. Subclasses of the errors in `services/common/errors.py` have that of their base."""
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), grpc.StatusCode.INTERNAL)


def from_rpc(error: grpc.aio.AioRpcError, *, unavailable_reason: str) -> ServiceError:
    """Return the `ServiceError` of a failed call.

    The error of a service of a newer version, whose details are unknown, is restored from its code and message.

    Args:
        error: Error raised by the gRPC client.
        unavailable_reason: Reason to use when the channel cannot reach the service, such as `quota_unavailable`.
    """
    code, message = error.code(), error.details() or ""
    status = _status_of(error)
    details = _details_of(status) if status else None
    if details is not None:
        kind = _BY_CODE.get(code, InternalError)
        return kind(message, reason=details.reason, details=_from_proto(details))
    if code in _FROM_CHANNEL:
        return Unavailable(UNREACHABLE, reason=unavailable_reason)
    if status is not None and code in _BY_CODE:
        return _BY_CODE[code](message)
    return InternalError(f"An internal call failed with {code.name}: {message}")


@contextmanager
def rpc_errors(*, unavailable_reason: str) -> Iterator[None]:
    """Convert the gRPC errors raised inside the block to `ServiceError`."""
    try:
        yield
    except grpc.aio.AioRpcError as exc:
        raise from_rpc(exc, unavailable_reason=unavailable_reason) from exc
    except grpc.aio.UsageError as exc:  # The channel was closed while the call waited, at shutdown.
        raise Unavailable(UNREACHABLE, reason=unavailable_reason) from exc


def _rich_status(error: ServiceError) -> status_pb2.Status:
    message = _truncated(error.message, _MESSAGE_ENCODED_MAX, _percent_encoded_size)
    status = status_pb2.Status(code=code_of(error).value[0], message=message)
    status.details.add().Pack(_to_proto(error))
    return status


def _to_proto(error: ServiceError) -> error_details_pb2.ErrorDetails:
    details = error.details
    return error_details_pb2.ErrorDetails(
        reason=_truncated(error.reason, _NAME_BYTES_MAX),
        verdict=verdict_to_proto(details.verdict),
        param=_truncated(details.param, _PARAM_BYTES_MAX),
        code=_truncated(details.code, _NAME_BYTES_MAX),
        retry_after_seconds=details.retry_after_seconds,
        failed_generation=_truncated(details.failed_generation, _FAILED_GENERATION_BYTES_MAX),
        is_client_limit=details.is_client_limit,
    )


def _from_proto(details: error_details_pb2.ErrorDetails) -> ErrorDetails:
    return ErrorDetails(
        verdict=verdict_from_proto(details.verdict),
        param=details.param,
        code=details.code,
        retry_after_seconds=min(max(details.retry_after_seconds, 0), _RETRY_SECONDS_MAX),
        failed_generation=details.failed_generation,
        is_client_limit=details.is_client_limit,
    )


def _status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    """Return the status that a service sent; None if there is none, or if it is damaged."""
    try:
        return rpc_status.from_call(error)  # type: ignore[arg-type]
    except (ValueError, DecodeError):
        return None


def _details_of(status: status_pb2.Status) -> error_details_pb2.ErrorDetails | None:
    """Return the details of a status; None if there are none of the known type, or if they are damaged."""
    details = error_details_pb2.ErrorDetails()
    try:
        return next((details for packed in status.details if packed.Unpack(details)), None)
    except DecodeError:
        return None


def _truncated(text: str, size_max: int, size: Callable[[str], int] = lambda text: len(text.encode())) -> str:
    """Return text that can be encoded in UTF-8, truncated to `size_max` with an ellipsis."""
    text = text[:size_max].encode("utf-8", "replace").decode() + ("…" if len(text) > size_max else "")
    if size(text) <= size_max:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size(text[:middle] + "…") <= size_max else (low, middle - 1)
    return text[:low] + "…"


def _percent_encoded_size(text: str) -> int:
    return sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in text.encode())
