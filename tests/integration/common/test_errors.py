"""The error tree over a real connection: the caller receives what the service raised."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from services.common import errors
from services.common.errors import ErrorDetails, InternalError, ServiceError, Unavailable
from services.common.rpc.channel import open_channel
from services.common.rpc.status import from_rpc, rpc_errors
from services.common.rpc.types import Context
from services.common.verdict import Verdict
from tests.integration.common.grpc_world import served, socket_path, stream, unary
from tests.logs import service_records

KINDS = sorted(ServiceError.__subclasses__(), key=lambda kind: kind.__name__)


async def failing(call: Any) -> ServiceError:
    """Return the error of our tree that a call raises."""
    with pytest.raises(ServiceError) as raised, rpc_errors(unavailable_reason="echo_unavailable"):
        await call
    return raised.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_error_arrives_with_its_class_message_reason_and_facts(
    kind: type[ServiceError], is_stream: bool
) -> None:
    sent = kind('model "é" is not served\nhere', reason="some_reason", details=ErrorDetails(param="messäge"))

    async def fail(request: bytes, context: Context) -> bytes:
        raise sent

    async def stream_fail(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"first"
        raise sent

    async with served(fail=fail, stream_fail=stream_fail) as channel:
        call = _read(stream(channel, "stream_fail")(b"")) if is_stream else unary(channel, "fail")(b"")
        received = await failing(call)

    assert type(received) is kind
    assert (received.message, received.reason, received.details) == (sent.message, sent.reason, sent.details)


SIZES = [1_000, 7_000, 20_000, 1_000_000]
TEXTS = {"ASCII": "x", "CJK": "漢", "emoji": "🎉", "percent": "%", "control": "\n", "lone surrogate": "\ud83d"}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("text", TEXTS)
async def test_an_error_of_any_length_arrives_with_its_class_and_verdict(size: int, text: str) -> None:
    long = TEXTS[text] * size
    details = ErrorDetails(param=long, code=long, failed_generation=long, verdict=Verdict.RELEASED)
    sent = errors.InvalidRequest(long, reason=long, details=details)

    async def fail(request: bytes, context: Context) -> bytes:
        raise sent

    async with served(fail=fail) as channel:
        received = await failing(unary(channel, "fail")(b""))

    assert type(received) is errors.InvalidRequest
    assert received.details.verdict is Verdict.RELEASED
    shown = TEXTS[text].encode("utf-8", "replace").decode()
    assert received.message.startswith(shown * 40)
    assert received.details.failed_generation.startswith(shown * 400)
    for one in (received.message, received.reason, received.details.param, received.details.code):
        assert len(one) == size or (len(one) < size and one.endswith("…"))


async def test_an_omitted_reason_defaults_to_that_of_the_class() -> None:
    async def fail(request: bytes, context: Context) -> bytes:
        raise errors.NotFound("no such thing")

    async with served(fail=fail) as channel:
        assert (await failing(unary(channel, "fail")(b""))).reason == "not_found"


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_unexpected_error_is_internal_and_its_text_stays_in_the_log(
    is_stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(request: bytes, context: Context) -> bytes:
        raise RuntimeError("the secret of the house")

    async def stream_fail(request: bytes, context: Context) -> AsyncIterator[bytes]:
        raise RuntimeError("the secret of the house")
        yield b""

    async with served(fail=fail, stream_fail=stream_fail) as channel:
        call = _read(stream(channel, "stream_fail")(b"")) if is_stream else unary(channel, "fail")(b"")
        received = await failing(call)

    assert type(received) is InternalError
    assert received.message == "Internal error."
    (record,) = [record for record in service_records(caplog) if record.levelno == logging.ERROR]
    assert "the secret of the house" in str(record.exc_info)


async def test_a_status_set_by_a_handler_is_passed_unchanged() -> None:
    async def fail(request: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.DATA_LOSS, "gone")
        return b""

    async with served(fail=fail) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await unary(channel, "fail")(b"")

    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.DATA_LOSS, "gone")
    assert type(from_rpc(raised.value, unavailable_reason="x")) is InternalError


async def test_an_absent_service_is_unavailable_with_the_callers_reason() -> None:
    async with open_channel(f"unix:{socket_path()}") as channel:
        received = await failing(unary(channel, "any")(b"", timeout=5))

    assert type(received) is Unavailable
    assert received.reason == "echo_unavailable"


async def test_a_callers_own_deadline_is_unavailable_too() -> None:
    async def hang(request: bytes, context: Context) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with served(hang=hang) as channel:
        received = await failing(unary(channel, "hang")(b"", timeout=0.1))

    assert (type(received), received.reason) == (Unavailable, "echo_unavailable")


async def test_a_missing_method_is_an_internal_error() -> None:
    async with served() as channel:
        assert type(await failing(unary(channel, "nothing")(b""))) is InternalError


async def test_output_sent_before_a_stream_failed_arrives() -> None:
    async def stream_fail(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"
        raise Unavailable("broke off")

    received: list[bytes] = []
    async with served(stream_fail=stream_fail) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await _read(stream(channel, "stream_fail")(b""), received)

    assert received == [b"one", b"two"]


async def test_a_stream_whose_caller_disconnects_is_closed() -> None:
    closed = asyncio.Event()

    async def stream_endless(request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            yield b"one"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with served(stream_endless=stream_endless) as channel:
        call = stream(channel, "stream_endless")(b"")
        assert await anext(aiter(call)) == b"one"
        call.cancel()

        await asyncio.wait_for(closed.wait(), 5)


async def _read(call: Any, received: list[bytes] | None = None) -> None:
    """Read a stream to its end; `received` has what came before it failed."""
    async for part in call:
        if received is not None:
            received.append(part)
