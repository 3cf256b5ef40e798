"""Errors become gRPC statuses and are restored from them, without a server in between."""

from collections.abc import Sequence
from dataclasses import fields, replace

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import status_pb2
from grpc import aio

from services.common.errors import ErrorDetails, InternalError, InvalidRequest, ServiceError, Throttled, Unavailable
from services.common.rpc.status import from_rpc, to_status
from services.common.rpc.verdict import verdict_from_proto, verdict_to_proto
from services.common.verdict import Verdict
from stack.common.v1 import error_details_pb2, verdict_pb2

KINDS = sorted(ServiceError.__subclasses__(), key=lambda kind: kind.__name__)
FULL = ErrorDetails(
    verdict=Verdict.CHARGED,
    param="messages[0].content",
    code="invalid_type",
    retry_after_seconds=7,
    failed_generation="<function=…",
    is_client_limit=True,
)
DETAILS_KEY = "grpc-status-details-bin"


def received(code: grpc.StatusCode, message: str, trailing: Sequence[tuple[str, str | bytes]] = ()) -> ServiceError:
    """Return what a caller gets for a status."""
    error = aio.AioRpcError(code, aio.Metadata(), aio.Metadata(*trailing), details=message)
    return from_rpc(error, unavailable_reason="echo_unavailable")


def sent(error: ServiceError) -> ServiceError:
    """Return what a caller gets for an error of a service."""
    status = to_status(error)
    return received(status.code, status.details, status.trailing_metadata)


def packed(code: grpc.StatusCode, message: str, *details: Message) -> tuple[tuple[str, bytes]]:
    """Return the trailing metadata of a status with some details."""
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return ((DETAILS_KEY, status.SerializeToString()),)


def test_each_class_has_its_own_code() -> None:
    assert len(KINDS) == 11
    assert len({to_status(kind("x")).code for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("details", [ErrorDetails(), FULL, *(replace(FULL, verdict=one) for one in (None, *Verdict))])
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_restored_as_it_was(kind: type[ServiceError], details: ErrorDetails) -> None:
    error = sent(kind("Der Schlüssel 🎉\nis wrong.", reason="some_reason", details=details))

    assert type(error) is kind
    assert (error.message, error.reason) == ("Der Schlüssel 🎉\nis wrong.", "some_reason")
    assert error.details == details


@pytest.mark.parametrize("field", [field.name for field in fields(ErrorDetails)])
def test_each_field_of_the_details_is_sent(field: str) -> None:
    only = replace(ErrorDetails(), **{field: getattr(FULL, field)})

    assert only != ErrorDetails()
    assert sent(InvalidRequest("No.", details=only)).details == only


def test_a_subclass_is_restored_as_its_base() -> None:
    class Busy(Throttled):
        pass

    assert type(sent(Busy("Later."))) is Throttled


@pytest.mark.parametrize("text", ["x", "漢", "🎉", "%", "\n", "\ud83d"])
def test_the_longest_status_fits_into_the_metadata(text: str) -> None:
    long = text * 1_000_000
    details = ErrorDetails(param=long, code=long, failed_generation=long, verdict=Verdict.RELEASED)

    status = to_status(InvalidRequest(long, reason=long, details=details))

    ((_, encoded),) = status.trailing_metadata
    percent_encoded = sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in status.details.encode())
    assert percent_encoded + len(encoded) * 4 / 3 < 32_768
    assert sent(InvalidRequest(long, details=details)).details.verdict is Verdict.RELEASED


def test_details_of_an_unknown_type_leave_the_class_and_the_message() -> None:
    code = grpc.StatusCode.INVALID_ARGUMENT

    error = received(code, "No.", packed(code, "No.", StringValue(value="new")))

    assert (type(error), error.message, error.reason) == (InvalidRequest, "No.", "invalid_request")
    assert error.details == ErrorDetails()


def test_unknown_details_beside_known_ones_are_skipped() -> None:
    code = grpc.StatusCode.INVALID_ARGUMENT
    known = error_details_pb2.ErrorDetails(reason="r", verdict=verdict_pb2.VERDICT_RELEASED)

    error = received(code, "No.", packed(code, "No.", StringValue(value="new"), known))

    assert (error.reason, error.details) == ("r", ErrorDetails(verdict=Verdict.RELEASED))


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
@pytest.mark.parametrize("is_from_proxy", [False, True])
def test_a_call_that_did_not_arrive_has_the_callers_reason(code: grpc.StatusCode, is_from_proxy: bool) -> None:
    trailing = packed(code, "upstream connect error", StringValue(value="proxy")) if is_from_proxy else ()

    error = received(code, "upstream connect error", trailing)

    assert (type(error), error.reason) == (Unavailable, "echo_unavailable")
    assert "upstream" not in error.message


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_a_status_of_the_library_without_details_is_internal(code: grpc.StatusCode) -> None:
    error = received(code, "metadata too large")

    assert (type(error), error.message) == (
        InternalError,
        f"An internal call failed with {code.name}: metadata too large",
    )


@pytest.mark.parametrize(
    "trailing",
    [
        ((DETAILS_KEY, b"\xff\xff\xff"),),
        packed(grpc.StatusCode.NOT_FOUND, "No."),
        packed(grpc.StatusCode.INVALID_ARGUMENT, "Another message."),
    ],
    ids=["not protobuf", "another code", "another message"],
)
def test_a_status_that_contradicts_itself_is_internal(trailing: tuple[tuple[str, bytes]]) -> None:
    assert type(received(grpc.StatusCode.INVALID_ARGUMENT, "No.", trailing)) is InternalError


def test_damaged_details_are_ignored() -> None:
    code = grpc.StatusCode.INVALID_ARGUMENT
    status = status_pb2.Status(code=code.value[0], message="No.")
    status.details.add(type_url="type.googleapis.com/stack.common.v1.ErrorDetails", value=b"\xff\xff\xff")

    error = received(code, "No.", ((DETAILS_KEY, status.SerializeToString()),))

    assert (type(error), error.details) == (InvalidRequest, ErrorDetails())


@pytest.mark.parametrize("verdict", [None, *Verdict])
def test_a_verdict_is_restored_as_it_was(verdict: Verdict | None) -> None:
    assert verdict_from_proto(verdict_to_proto(verdict)) is verdict


def test_each_verdict_of_protobuf_has_one_of_its_own() -> None:
    values = verdict_pb2.Verdict.values()

    assert len({verdict_from_proto(value) for value in values}) == len(values)


def test_a_verdict_of_a_newer_version_is_none() -> None:
    details = error_details_pb2.ErrorDetails(reason="r")
    details.MergeFromString(b"\x10\x09")  # verdict: 9
    code = grpc.StatusCode.INTERNAL

    assert received(code, "No.", packed(code, "No.", details)).details.verdict is None
