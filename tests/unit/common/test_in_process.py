"""Calls inside a process keep what gRPC promises: most guarantees are held of both wires, so that they stay equal."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import pytest
from grpc import aio

from services.common.errors import InternalError, NotFound, Unavailable, rpc_errors
from services.common.rpc import in_process
from services.common.rpc.channel import open_channel
from services.common.rpc.server import GrpcServer
from services.common.rpc.types import Context
from services.common.runtime import process
from services.common.runtime.settings import ServiceSettings
from services.common.telemetry import tracing
from tests.e2e.collector import Exported, running_collector
from tests.unit.common.grpc_world import SERVICE, served, served_in_process, socket_path, stream, table, unary

_SECONDS = 10
"""More than anything here takes; what takes longer hangs."""
_DEADLINE_SECONDS = 0.5

HTTPTransport = Callable[..., AbstractAsyncContextManager[aio.Channel]]


@pytest.fixture(params=[served, served_in_process], ids=["grpc", "in process"])
def wire(request: pytest.FixtureRequest) -> HTTPTransport:
    """Give what serves behaviours, over gRPC and without a wire."""
    chosen: HTTPTransport = request.param
    return chosen


class Endless:
    """Handlers that never answer, and note when they are cancelled."""

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
    """A stream that always has another answer, and notes when it is closed."""

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


async def test_a_call_is_answered(wire: HTTPTransport) -> None:
    async with wire(echo=_echo) as channel:
        assert await unary(channel, "echo")(b"hello", timeout=_SECONDS) == b"you said hello"


async def test_a_stream_is_answered_in_order_to_its_end(wire: HTTPTransport) -> None:
    async def stream_letters(request: bytes, context: Context) -> AsyncIterator[bytes]:
        for letter in request.decode():
            yield letter.encode()

    async with wire(stream_letters=stream_letters) as channel:
        assert await _rest(stream(channel, "stream_letters")(b"abc", timeout=_SECONDS)) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_error_of_the_tree_arrives_with_its_reason_and_facts(wire: HTTPTransport, is_stream: bool) -> None:
    sent = NotFound('no model "é"', reason="model_not_found", metadata={"param": "model", "empty": ""})

    async def fail(request: bytes, context: Context) -> bytes:
        raise sent

    async def stream_fail(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"first"
        raise sent

    async with wire(fail=fail, stream_fail=stream_fail) as channel:
        with pytest.raises(NotFound) as raised, rpc_errors(unavailable_reason="echo_unavailable"):
            await (_rest(stream(channel, "stream_fail")(b"")) if is_stream else unary(channel, "fail")(b""))
    received = raised.value
    assert (received.message, received.reason, received.metadata) == (sent.message, sent.reason, sent.metadata)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_defect_arrives_as_internal_without_its_words(
    wire: HTTPTransport, is_stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(request: bytes, context: Context) -> bytes:
        raise ValueError("the secret of somebody")

    async def stream_fail(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"first"
        raise TimeoutError("the secret of somebody")

    with caplog.at_level(logging.CRITICAL):
        async with wire(fail=fail, stream_fail=stream_fail) as channel:
            with pytest.raises(InternalError) as raised, rpc_errors(unavailable_reason="echo_unavailable"):
                await (_rest(stream(channel, "stream_fail")(b"")) if is_stream else unary(channel, "fail")(b""))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_deadline_ends_the_call_and_cancels_its_handler(wire: HTTPTransport, is_stream: bool) -> None:
    endless = Endless()
    async with wire(wait=endless.unary, stream_wait=endless.stream, echo=_echo) as channel:
        await unary(channel, "echo")(
            b"", timeout=_SECONDS
        )  # Connected, so that the deadline finds the handler at work.
        if is_stream:
            code = await _status(_rest(stream(channel, "stream_wait")(b"", timeout=_DEADLINE_SECONDS)))
        else:
            code = await _status(unary(channel, "wait")(b"", timeout=_DEADLINE_SECONDS))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        await _soon(endless.was_cancelled.wait())


async def test_who_is_too_late_to_ask_is_not_answered() -> None:
    """Over gRPC a race decides."""
    async with served_in_process(echo=_echo) as channel:
        assert await _status(unary(channel, "echo")(b"", timeout=0)) is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_streams_deadline_closes_its_handler_while_nobody_reads(wire: HTTPTransport) -> None:
    counting = Counting()
    async with wire(stream_more=counting.stream, echo=_echo) as channel:
        await unary(channel, "echo")(b"", timeout=_SECONDS)
        call = stream(channel, "stream_more")(b"", timeout=_DEADLINE_SECONDS)
        assert await _soon(anext(aiter(call))) == b"another"
        await _soon(counting.was_closed.wait())
        # What had arrived by then may be read; then comes the end.
        assert await _status(_rest(call)) is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("is_stream", [False, True])
async def test_cancelling_the_caller_cancels_the_handler(wire: HTTPTransport, is_stream: bool) -> None:
    endless = Endless()
    heard = asyncio.Event()
    async with wire(wait=endless.unary, stream_wait=endless.stream) as channel:

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


async def test_a_stream_that_its_reader_leaves_closes_its_handler(wire: HTTPTransport) -> None:
    counting = Counting()
    async with wire(stream_more=counting.stream) as channel:
        call = stream(channel, "stream_more")(b"")
        async for _ in call:
            break
        assert call.cancel()
        await _soon(counting.was_closed.wait())
        with pytest.raises(asyncio.CancelledError):  # Not an end that looks like a good one.
            await _soon(_rest(call))
        assert not call.cancel(), "it had ended"
        assert await _soon(call.code()) is grpc.StatusCode.CANCELLED


async def test_a_stream_that_is_cancelled_while_its_reader_waits_ends_both(wire: HTTPTransport) -> None:
    endless = Endless()
    async with wire(stream_wait=endless.stream) as channel:
        call = stream(channel, "stream_wait")(b"")
        reader = asyncio.create_task(_rest(call))
        await _soon(endless.began.wait())
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await _soon(reader)
        await _soon(endless.was_cancelled.wait())
        assert await _soon(call.code()) is grpc.StatusCode.CANCELLED


async def test_a_deadline_leaves_no_cancellation_with_the_reader_of_a_handler_that_answers_all_the_same(
    wire: HTTPTransport,
) -> None:
    was_closed = asyncio.Event()

    async def stream_stubborn(request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            yield await _stubborn_answer()
        finally:
            was_closed.set()

    async with wire(stream_stubborn=stream_stubborn) as channel:
        call = stream(channel, "stream_stubborn")(b"", timeout=_DEADLINE_SECONDS)
        assert await _status(_rest(call)) is grpc.StatusCode.DEADLINE_EXCEEDED
        await _soon(was_closed.wait())
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def _stubborn_answer() -> bytes:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return b"late"
    return b"never"


async def test_cancelling_a_stream_that_ended_does_nothing(wire: HTTPTransport) -> None:
    async def stream_one(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"one"

    async with wire(stream_one=stream_one) as channel:
        call = stream(channel, "stream_one")(b"")
        assert await _soon(_rest(call)) == [b"one"]
        assert not call.cancel()
        assert await _soon(call.code()) is grpc.StatusCode.OK


@pytest.mark.parametrize("is_stream", [False, True])
async def test_what_its_own_service_cancels_is_cancelled_for_the_caller_who_goes_on(is_stream: bool) -> None:
    """Over gRPC such a call has no end before its deadline; here it has one at once."""

    async def give_up() -> None:
        work = asyncio.create_task(asyncio.Event().wait())
        asyncio.get_running_loop().call_soon(work.cancel)
        await work

    async def fail(request: bytes, context: Context) -> bytes:
        await give_up()
        return b"never"

    async def stream_fail(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"first"
        await give_up()

    async with served_in_process(fail=fail, stream_fail=stream_fail, echo=_echo) as channel:
        with pytest.raises(Unavailable) as raised, rpc_errors(unavailable_reason="echo_unavailable"):
            await _soon(_rest(stream(channel, "stream_fail")(b"")) if is_stream else unary(channel, "fail")(b""))
        assert raised.value.reason == "echo_unavailable"
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert await unary(channel, "echo")(b"") == b"you said "


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_unknown_method_is_unimplemented(wire: HTTPTransport, is_stream: bool) -> None:
    async with wire(echo=_echo) as channel:
        call = _rest(stream(channel, "stream_nothing")(b"")) if is_stream else unary(channel, "nothing")(b"")
        assert await _status(call) is grpc.StatusCode.UNIMPLEMENTED


async def test_metadata_arrives(wire: HTTPTransport) -> None:
    async def tell(request: bytes, context: Context) -> bytes:
        return str(dict(context.invocation_metadata() or ())["x-told"]).encode()

    async with wire(tell=tell) as channel:
        assert await unary(channel, "tell")(b"", metadata=(("x-told", "something"),)) == b"something"
        assert await unary(channel, "tell")(b"", metadata=aio.Metadata(("x-told", "more"))) == b"more"


@pytest.mark.parametrize("name", ["echo", "fail", "stream_one", "stream_fail"])
async def test_who_asks_is_told_of_a_calls_end_once_and_of_its_status(wire: HTTPTransport, name: str) -> None:
    """What `TracedChannel` needs."""

    async def fail(request: bytes, context: Context) -> bytes:
        raise NotFound("nothing")

    async def stream_one(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"one"

    async def stream_fail(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"one"
        raise NotFound("nothing")

    async with wire(echo=_echo, fail=fail, stream_one=stream_one, stream_fail=stream_fail) as channel:
        call = (stream if name.startswith("stream") else unary)(channel, name)(b"")
        told: list[Any] = []
        call.add_done_callback(told.append)
        expected = grpc.StatusCode.NOT_FOUND if name.endswith("fail") else grpc.StatusCode.OK
        if expected is grpc.StatusCode.OK:
            await _soon(_rest(call) if name.startswith("stream") else call)
        else:
            assert await _status(_rest(call) if name.startswith("stream") else call) is expected
        assert await _soon(call.code()) is expected
        await _soon(_until(lambda: bool(told)))
        assert told == [call]


async def _until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0)


class _Tree:
    """Spans by their names, and whose children they are."""

    def __init__(self, spans: list[Exported]) -> None:
        self.names = {one.span.span_id: one.span.name for one in spans}
        self.parents = {(one.span.name, one.span.kind): self.names.get(one.span.parent_span_id, "") for one in spans}

    def parent(self, name: str) -> str:
        """Return the name of the parent of the one span with this name."""
        (found,) = {parent for (one, _), parent in self.parents.items() if one == name}
        return found


async def test_a_callees_span_is_its_callers_child_and_not_the_parent_of_what_the_caller_does_next(
    wire: HTTPTransport,
) -> None:
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
            async with wire(work=work, stream_work=stream_work) as channel:
                await _soon(asyncio.create_task(request(channel)))
        tree = _Tree(collector.until(lambda spans: any(one.span.name == "request" for one in spans)))
    for name in ("after the call", "at an answer", "after the stream"):
        assert tree.parent(name) == "request", name
    assert tree.parent("work of the callee") == f"{SERVICE}/work"
    assert tree.parent("work of the stream") == f"{SERVICE}/stream_work"
    assert len({one.span.trace_id for one in collector.spans}) == 1


@pytest.mark.parametrize("is_stream", [False, True])
async def test_before_it_opens_and_after_it_closes_a_service_is_unavailable(is_stream: bool) -> None:
    server = in_process.InProcessServer()
    server.add(SERVICE, table(echo=_echo))
    channel = in_process.InProcessChannel(server)

    def ask() -> Awaitable[Any]:
        return _rest(stream(channel, "stream_echo")(b"")) if is_stream else unary(channel, "echo")(b"")

    assert await _status(ask()) is grpc.StatusCode.UNAVAILABLE
    server.open()
    await _soon(channel.channel_ready())
    server.close()
    assert await _status(ask()) is grpc.StatusCode.UNAVAILABLE


async def test_a_real_server_answers_its_process_and_the_wire_alike_until_it_is_told_to_stop() -> None:
    path = socket_path()
    in_process.share((f"unix:{path}",))
    server = GrpcServer(f"unix:{path}", ServiceSettings(drain_seconds=0, grace_seconds=5))
    server.grpc.add_registered_method_handlers(SERVICE, table(echo=_echo))
    server.grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, table(echo=_echo)),))
    stopping = process.StopSignal()
    serving = asyncio.get_running_loop().create_task(
        server.run([SERVICE]), context=process.with_shutdown_event(stopping)
    )
    async with open_channel(f"unix:{path}") as inside, aio.insecure_channel(f"unix:{path}") as outside:
        assert isinstance(inside, in_process.InProcessChannel)
        await _soon(inside.channel_ready())
        for channel in (inside, outside):
            assert await unary(channel, "echo")(b"hi", wait_for_ready=True, timeout=_SECONDS) == b"you said hi"
        stopping.set()
        await _soon(serving)
        for channel in (inside, outside):
            assert await _status(unary(channel, "echo")(b"hi")) is grpc.StatusCode.UNAVAILABLE
    path.unlink(missing_ok=True)
