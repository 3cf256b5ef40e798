"""Mapping of the exception hierarchy to gRPC statuses and back.

A status carries a `google.rpc.ErrorInfo` with the domain `stack`, a machine-readable reason and a map of strings, from
which the caller restores the exception.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from services.common.errors import (
    AlreadyExists,
    DeadlineExceeded,
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

DOMAIN = "stack"
_MESSAGE_ENCODED_MAX = 2_100
_METADATA_BYTES_MAX = 16_000
_NAME_BYTES_MAX = 128
"""Chosen so that a status fits into `sizes.METADATA_BYTES_MAX`. The metadata contains a status twice: its message
percent-encoded, where each byte that is not printable ASCII takes three, and all of it in Base64 (gRPC over HTTP/2,
"Status")."""
_DETAILS_KEY = "grpc-status-details-bin"

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


def code_of(error: type[ServiceError]) -> grpc.StatusCode:
    """Return the gRPC code of a class of errors; subclasses have the code of their base."""
    return next((_CODES[kind] for kind in error.__mro__ if kind in _CODES), grpc.StatusCode.INTERNAL)


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
    status = status_pb2.Status(code=code_of(type(error)).value[0], message=message, details=[detail])
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
