"""Errors, deadlines, cancellation and spans of gRPC calls between services."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from grpc import aio

from services.common.errors import ErrorDetails, InternalError, NotFound
from services.common.rpc.status import rpc_errors
from services.common.rpc.types import Context
from services.common.telemetry import tracing
from tests.e2e.collector import Exported, running_collector
from tests.integration.common.grpc_world import SERVICE, served, stream, unary

_SECONDS = 10
"""More than anything here takes; a longer call hangs."""
_DEADLINE_SECONDS = 0.5


class Endless:
    """Handlers that never answer, and record their cancellation."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.was_cancelled = asyncio.Event()

    async def unary(self, request: bytes, context: Context) -> bytes:
        """Wait for ever."""
        await self._wait()
        return b"never"

    async def stream(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Answer once and wait for ever."""
        yield b"first"
        await self._wait()

    async def _wait(self) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.was_cancelled.set()
            raise


class Counting:
    """A stream that always has another answer, and records that it was closed."""

    def __init__(self) -> None:
        self.was_closed = asyncio.Event()

    async def stream(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Answer without end and without a pause."""
        try:
            while True:
                yield b"another"
        finally:
            self.was_closed.set()


async def _echo(request: bytes, context: Context) -> bytes:
    return b"you said " + request


async def _soon(work: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(work, _SECONDS)


async def _status(call: Awaitable[Any]) -> grpc.StatusCode:
    with pytest.raises(aio.AioRpcError) as raised:
        await _soon(call)
    return raised.value.code()


async def _rest(call: Any) -> list[bytes]:
    return [answer async for answer in call]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_error_of_the_tree_arrives_with_its_reason_and_facts(is_stream: bool) -> None:
    sent = NotFound('no model "é"', reason="model_not_found", details=ErrorDetails(param="model"))

    async def fail(request: bytes, context: Context) -> bytes:
        raise sent

    async def stream_fail(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"first"
        raise sent

    async with served(fail=fail, stream_fail=stream_fail) as channel:
        with pytest.raises(NotFound) as raised, rpc_errors(unavailable_reason="echo_unavailable"):
            await (_rest(stream(channel, "stream_fail")(b"")) if is_stream else unary(channel, "fail")(b""))
    received = raised.value
    assert (received.message, received.reason, received.details) == (sent.message, sent.reason, sent.details)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_unexpected_error_arrives_as_internal_without_its_text(
    is_stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(request: bytes, context: Context) -> bytes:
        raise ValueError("the secret of a user")

    async def stream_fail(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"first"
        raise TimeoutError("the secret of a user")

    with caplog.at_level(logging.CRITICAL):
        async with served(fail=fail, stream_fail=stream_fail) as channel:
            with pytest.raises(InternalError) as raised, rpc_errors(unavailable_reason="echo_unavailable"):
                await (_rest(stream(channel, "stream_fail")(b"")) if is_stream else unary(channel, "fail")(b""))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_deadline_ends_the_call_and_cancels_its_handler(is_stream: bool) -> None:
    endless = Endless()
    async with served(wait=endless.unary, stream_wait=endless.stream, echo=_echo) as channel:
        await unary(channel, "echo")(
            b"", timeout=_SECONDS
        )  # Connected, so that the deadline finds the handler running.
        if is_stream:
            code = await _status(_rest(stream(channel, "stream_wait")(b"", timeout=_DEADLINE_SECONDS)))
        else:
            code = await _status(unary(channel, "wait")(b"", timeout=_DEADLINE_SECONDS))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        await _soon(endless.was_cancelled.wait())


async def test_a_streams_deadline_closes_its_handler_while_the_stream_is_not_read() -> None:
    counting = Counting()
    async with served(stream_more=counting.stream, echo=_echo) as channel:
        await unary(channel, "echo")(b"", timeout=_SECONDS)
        call = stream(channel, "stream_more")(b"", timeout=_DEADLINE_SECONDS)
        assert await _soon(anext(aiter(call))) == b"another"
        await _soon(counting.was_closed.wait())
        # What had arrived by then may be read; then the error follows.
        assert await _status(_rest(call)) is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("is_stream", [False, True])
async def test_cancelling_the_caller_cancels_the_handler(is_stream: bool) -> None:
    endless = Endless()
    heard = asyncio.Event()
    async with served(wait=endless.unary, stream_wait=endless.stream) as channel:

        async def ask() -> None:
            if not is_stream:
                await unary(channel, "wait")(b"")
            async for _ in stream(channel, "stream_wait")(b""):
                heard.set()

        caller = asyncio.create_task(ask())
        await _soon(endless.began.wait())
        if is_stream:
            await _soon(heard.wait())
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await _soon(caller)
        await _soon(endless.was_cancelled.wait())


async def test_a_stream_whose_reader_stops_closes_its_handler() -> None:
    counting = Counting()
    async with served(stream_more=counting.stream) as channel:
        call = stream(channel, "stream_more")(b"")
        async for _ in call:
            break
        assert call.cancel()
        await _soon(counting.was_closed.wait())
        with pytest.raises(asyncio.CancelledError):  # The stream must not look as if it had ended normally.
            await _soon(_rest(call))
        assert not call.cancel(), "it had ended"
        assert await _soon(call.code()) is grpc.StatusCode.CANCELLED


async def test_cancelling_a_stream_while_its_reader_waits_ends_both() -> None:
    endless = Endless()
    async with served(stream_wait=endless.stream) as channel:
        call = stream(channel, "stream_wait")(b"")
        reader = asyncio.create_task(_rest(call))
        await _soon(endless.began.wait())
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await _soon(reader)
        await _soon(endless.was_cancelled.wait())
        assert await _soon(call.code()) is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("name", ["echo", "fail", "stream_one", "stream_fail"])
async def test_end_callbacks_of_a_call_run_once_with_its_status(name: str) -> None:
    """What `TracedChannel` needs."""

    async def fail(request: bytes, context: Context) -> bytes:
        raise NotFound("nothing")

    async def stream_one(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"one"

    async def stream_fail(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"one"
        raise NotFound("nothing")

    async with served(echo=_echo, fail=fail, stream_one=stream_one, stream_fail=stream_fail) as channel:
        call = (stream if name.startswith("stream") else unary)(channel, name)(b"")
        reported: list[Any] = []
        call.add_done_callback(reported.append)
        expected = grpc.StatusCode.NOT_FOUND if name.endswith("fail") else grpc.StatusCode.OK
        if expected is grpc.StatusCode.OK:
            await _soon(_rest(call) if name.startswith("stream") else call)
        else:
            assert await _status(_rest(call) if name.startswith("stream") else call) is expected
        assert await _soon(call.code()) is expected
        await _soon(_until(lambda: bool(reported)))
        assert reported == [call]


async def _until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0)


class _Tree:
    """Spans by name, with their parents."""

    def __init__(self, spans: list[Exported]) -> None:
        self.names = {one.span.span_id: one.span.name for one in spans}
        self.parents = {(one.span.name, one.span.kind): self.names.get(one.span.parent_span_id, "") for one in spans}

    def parent(self, name: str) -> str:
        """Return the name of the parent of the one span with this name."""
        (found,) = {parent for (one, _), parent in self.parents.items() if one == name}
        return found


async def test_a_callees_span_is_its_callers_child_and_not_the_parent_of_the_callers_next_span() -> None:
    async def work(request: bytes, context: Context) -> bytes:
        with tracing.span("work of the callee"):
            return b""

    async def stream_work(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"first"
        with tracing.span("work of the stream"):
            yield b"second"

    async def request(channel: aio.Channel) -> None:
        with tracing.entry("request"):
            await unary(channel, "work")(b"")
            with tracing.span("after the call"):
                pass
            async for _ in stream(channel, "stream_work")(b""):
                with tracing.span("at an answer"):
                    pass
            with tracing.span("after the stream"):
                pass

    with running_collector() as (collector, endpoint):
        with tracing.exporting("test", endpoint=endpoint, ratio=1):
            async with served(work=work, stream_work=stream_work) as channel:
                await _soon(asyncio.create_task(request(channel)))
        tree = _Tree(collector.until(lambda spans: any(one.span.name == "request" for one in spans)))
    for name in ("after the call", "at an answer", "after the stream"):
        assert tree.parent(name) == "request", name
    assert tree.parent("work of the callee") == f"{SERVICE}/work"
    assert tree.parent("work of the stream") == f"{SERVICE}/stream_work"
    assert len({one.span.trace_id for one in collector.spans}) == 1
