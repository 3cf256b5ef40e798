"""The one exception tree of the services, and its two mappings: to a gRPC status, and back.

    ServiceError
    ├── InvalidRequest       INVALID_ARGUMENT     the caller's input cannot be accepted
    ├── Unauthenticated      UNAUTHENTICATED      the caller's credential is missing or not good
    ├── PermissionDenied     PERMISSION_DENIED    the caller may not do this
    ├── NotFound             NOT_FOUND            the thing named does not exist
    ├── AlreadyExists        ALREADY_EXISTS       the thing to create exists
    ├── FailedPrecondition   FAILED_PRECONDITION  the state of things does not allow it; something must change first
    ├── TooLarge             OUT_OF_RANGE         the input is larger than what can be served
    ├── Throttled            RESOURCE_EXHAUSTED   a limit of the callee is reached
    ├── Unavailable          UNAVAILABLE          something needed is away; trying again later may help
    ├── DeadlineExceeded     DEADLINE_EXCEEDED    it took too long
    └── InternalError        INTERNAL             our own defect

A status carries `google.rpc.ErrorInfo` with the domain `stack`, a machine-readable reason and a map of strings, so that
the tree arrives at the caller as it left.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "stack"
_MESSAGE_ENCODED_MAX = 2_100
_FACTS_BYTES_MAX = 16_000
_NAME_BYTES_MAX = 128
"""Together these fit into `channel.METADATA_BYTES_MAX`. A status is in the metadata twice: its message percent-encoded,
with three bytes for each one that is not printable ASCII, and all of it in Base64 (gRPC over HTTP/2, "Status")."""
_DETAILS_KEY = "grpc-status-details-bin"


class ServiceError(Exception):
    """A refusal or failure whose message is safe to show to the caller.

    Attributes:
        message: What is wrong and what to do about it.
        reason: Machine-readable cause in lower case, such as `model_not_found`.
        metadata: Further facts as strings; their names belong to the service that raises.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    default_reason: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, reason: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})


class InvalidRequest(ServiceError):
    """The caller's input cannot be accepted."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = "invalid_request"


class Unauthenticated(ServiceError):
    """The caller's credential is missing or not good."""

    code = grpc.StatusCode.UNAUTHENTICATED
    default_reason = "unauthenticated"


class PermissionDenied(ServiceError):
    """The caller is known and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = "permission_denied"


class NotFound(ServiceError):
    """The thing named does not exist."""

    code = grpc.StatusCode.NOT_FOUND
    default_reason = "not_found"


class AlreadyExists(ServiceError):
    """The thing to create exists already."""

    code = grpc.StatusCode.ALREADY_EXISTS
    default_reason = "already_exists"


class FailedPrecondition(ServiceError):
    """The state of things does not allow it; something else must change first."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = "failed_precondition"


class TooLarge(ServiceError):
    """The input is well formed and larger than what can be served."""

    code = grpc.StatusCode.OUT_OF_RANGE
    default_reason = "too_large"


class Throttled(ServiceError):
    """A limit of the callee is reached; trying again later helps."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "throttled"


class Unavailable(ServiceError):
    """Something that is needed is away; trying again later may help."""

    code = grpc.StatusCode.UNAVAILABLE
    default_reason = "unavailable"


class DeadlineExceeded(ServiceError):
    """It took longer than the caller or a setting allows."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = "deadline_exceeded"


class InternalError(ServiceError):
    """Our own defect; the log has the details, the caller gets none."""


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
    """A process cannot start; the message is the one sentence that its operator needs."""


def rpc_status(error: ServiceError) -> tuple[str, tuple[tuple[str, bytes], ...]]:
    """Return an error as the details and the trailing metadata of a gRPC status.

    Both are cut where gRPC would refuse them: the caller would get another error then, without its facts.
    """
    message = _cut(error.message, _MESSAGE_ENCODED_MAX, _percent_encoded_size)
    info = error_details_pb2.ErrorInfo(
        reason=_cut(error.reason, _NAME_BYTES_MAX), domain=DOMAIN, metadata=_cut_facts(error.metadata)
    )
    detail = any_pb2.Any()
    detail.Pack(info)
    status = status_pb2.Status(code=error.code.value[0], message=message, details=[detail])
    return message, ((_DETAILS_KEY, status.SerializeToString()),)


def _cut_facts(facts: Mapping[str, str]) -> dict[str, str]:
    """Return facts that take a bounded number of bytes together: short ones whole, long ones with equal parts."""
    left, cut = _FACTS_BYTES_MAX, {}
    for position, (name, value) in enumerate(sorted(facts.items(), key=lambda fact: len(fact[1]))):
        cut[name] = _cut(value, left // (len(facts) - position))
        left -= len(cut[name].encode())
    return cut


def _cut(text: str, size_max: int, size: Callable[[str], int] = lambda text: len(text.encode())) -> str:
    """Return text that can be encoded and takes at most `size_max`, with an ellipsis in place of what is cut."""
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
    """Return the error of our tree that a failed call stands for.

    Args:
        error: What the gRPC client raised.
        unavailable_reason: Reason of an `Unavailable` that the channel itself found, such as `quota_unavailable`.
    """
    info = _error_info(error)
    if info is not None:
        kind = _BY_CODE.get(error.code(), InternalError)
        return kind(error.details() or "", reason=info.reason, metadata=dict(info.metadata))
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return Unavailable("a service that is needed cannot be reached; try again", reason=unavailable_reason)
    return InternalError(f"internal call failed with {error.code().name}: {error.details()}")


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
    """Turn what a gRPC call raises inside the block into an error of our tree."""
    try:
        yield
    except grpc.aio.AioRpcError as exc:
        raise from_rpc(exc, unavailable_reason=unavailable_reason) from exc
