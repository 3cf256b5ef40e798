"""Multiplexed calls: each is on its own, and none is lost or made twice when streams come and go."""

import asyncio
import itertools
from contextlib import aclosing
from typing import Any, cast

import pytest

from services.common.errors import ErrorDetails, InternalError, InvalidRequest, Throttled, Unavailable
from services.common.rpc.channel import open_channel
from services.common.rpc.multiplex import client as client_module
from services.common.rpc.multiplex import server as server_module
from services.common.rpc.multiplex import stream as stream_module
from services.common.rpc.multiplex.messages import WINDOW_BYTES
from services.common.rpc.multiplex.server import Put
from services.common.rpc.multiplex.stream import NotSent
from services.common.verdict import Verdict
from services.inference.groq.encoding import ENCODED_BYTES_MAX
from stack.inference.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.common.grpc_world import socket_path
from tests.integration.common.multiplexing import (
    SECONDS,
    Replica,
    call,
    chunk,
    chunk_size,
    client_of,
    last,
    multiplex_client,
    serving,
    until_open,
)

_PART = b"x" * 65_536


async def _echo(text: str, put: Put) -> None:
    await put(last(text.encode()), len(text))


async def _echo_slowly(text: str, put: Put) -> None:
    await asyncio.sleep(0.2)
    await _echo(text, put)


async def _never(text: str, put: Put) -> None:
    await asyncio.Event().wait()


async def test_a_thousand_concurrent_calls_get_their_own_results() -> None:
    async with client_of(Replica(_echo)) as (client, _):
        stream = await until_open(client)
        results = await asyncio.gather(*(stream.call(call(str(n))) for n in range(1_000)))
    assert [result.completion_json for result in results] == [str(n).encode() for n in range(1_000)]


async def test_results_of_a_call_arrive_in_order_next_to_those_of_others() -> None:
    async def answer(text: str, put: Put) -> None:
        for n in range(50):
            await put(chunk(f"{text}{n}".encode()), 3)
            await asyncio.sleep(0)
        await put(last(), 0)

    async with client_of(Replica(answer)) as (client, _):
        stream = await until_open(client)

        async def read(text: str) -> list[bytes]:
            async with aclosing(stream.results(call(text), 1, size_of=chunk_size)) as results:
                return [part async for result in results for part in result.chunks_json]

        texts = "abcdefgh"
        read_texts = await asyncio.gather(*map(read, texts))
    assert read_texts == [[f"{text}{n}".encode() for n in range(50)] for text in texts]


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("Wrong \ud800.", reason="bad", details=ErrorDetails(param="n", verdict=Verdict.RELEASED)),
        Throttled("Too many.", details=ErrorDetails(retry_after_seconds=7)),
        Unavailable("Away.", reason="ledger_unavailable"),
    ],
)
async def test_an_error_reaches_its_call_with_all_details_and_no_other_call(error: Exception) -> None:
    async def answer(text: str, put: Put) -> None:
        if text == "bad":
            raise error
        await _echo_slowly(text, put)

    async with client_of(Replica(answer)) as (client, _):
        stream = await until_open(client)
        good = asyncio.ensure_future(stream.call(call("good")))
        with pytest.raises(type(error)) as raised:
            await stream.call(call("bad"))
        assert (await good).completion_json == b"good"
    assert (raised.value.reason, raised.value.details) == (error.reason, error.details)  # type: ignore[attr-defined]


async def test_an_unexpected_exception_is_an_internal_error_of_its_call() -> None:
    async def answer(text: str, put: Put) -> None:
        raise ZeroDivisionError

    async with client_of(Replica(answer)) as (client, _):
        stream = await until_open(client)
        with pytest.raises(InternalError, match="Internal error"):
            await stream.call(call())
        assert client.stream() is stream, "the stream serves further calls"


async def test_a_cancelled_call_is_cancelled_in_the_service() -> None:
    replica = Replica(_never)
    async with client_of(replica) as (client, _):
        stream = await until_open(client)
        task = asyncio.ensure_future(stream.call(call("left")))
        await _until(lambda: replica.calls == ["left"])
        task.cancel()
        await _until(lambda: replica.cancelled == ["left"])
    assert stream.calls_in_progress == 0


async def test_calls_that_are_cancelled_early_leave_nothing_behind() -> None:
    replica = Replica(_echo_slowly)
    async with client_of(replica) as (client, server):
        stream = await until_open(client)
        tasks = []
        for steps in range(60):
            tasks.append(asyncio.ensure_future(stream.call(call(str(steps)))))
            for _ in range(steps % 7):
                await asyncio.sleep(0)
            tasks[-1].cancel()
        await asyncio.wait(tasks)
        assert stream.calls_in_progress == 0
        replica.multiplexed.drain()
        async with asyncio.timeout(2):
            await server.stop(SECONDS)  # Ends once the client has ended the stream.
    assert len(replica.calls) < len(tasks), "a call that is cancelled before it is sent is never made"


async def test_a_call_that_ends_before_it_is_sent_is_never_made() -> None:
    replica = Replica(_echo)
    async with client_of(replica) as (client, _):
        stream = await until_open(client)
        leaving = stream.call(call("left"))
        leaving.send(None)  # Up to its first wait, so that it ends before the event loop can send it.
        leaving.close()
        assert (await stream.call(call("stays"))).completion_json == b"stays"
    assert replica.calls == ["stays"]


async def test_a_service_that_misses_its_heartbeats_gets_no_further_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen(Replica):
        async def Multiplex(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
            await context.write(inference_pb2.MultiplexResponse())
            await asyncio.Event().wait()

    monkeypatch.setattr(stream_module, "_SILENCE_SECONDS", 0.2)
    async with client_of(Frozen(_never)) as (client, _):
        frozen = await until_open(client)
        waiting = asyncio.ensure_future(frozen.call(call("lost")))
        await _until(lambda: client.stream() is not frozen)
    with pytest.raises(Unavailable):
        await waiting


async def test_a_busy_service_sends_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(stream_module, "_SILENCE_SECONDS", 1.0)
    async with client_of(Replica(_never)) as (client, _):
        stream = await until_open(client)
        waiting = asyncio.ensure_future(stream.call(call()))
        received_at = stream.received_at
        await _until(lambda: stream.received_at > received_at + 0.2)
        assert client.stream() is stream
        waiting.cancel()


async def test_calls_whose_contexts_are_large_share_no_message_that_is_too_large() -> None:
    context = inference_pb2.RequestContext(models=["m" * 1_000] * 50)

    def large(text: str) -> inference_pb2.MultiplexedCall:
        return inference_pb2.MultiplexedCall(chat_json=text.encode(), context=context)

    async with client_of(Replica(_echo)) as (client, _):
        stream = await until_open(client)
        calls = [large(str(n)) for n in range(500)]  # 25 MB.
        results = await asyncio.gather(*(stream.call(one, one.ByteSize()) for one in calls))
    assert [result.completion_json for result in results] == [str(n).encode() for n in range(500)]


async def test_a_result_as_large_as_a_message_shares_it_with_no_other() -> None:
    released = asyncio.Event()
    sizes = {"small": WINDOW_BYTES - 1_000, "large": ENCODED_BYTES_MAX}

    async def answer(text: str, put: Put) -> None:
        await released.wait()
        await put(last(b"x" * sizes[text]), sizes[text])

    replica = Replica(answer)
    async with client_of(replica) as (client, _):
        stream = await until_open(client)
        calls = [asyncio.ensure_future(stream.call(call(text))) for text in sizes]
        await _until(lambda: replica.calls == ["small", "large"])
        released.set()
        results = await asyncio.gather(*calls)
    assert [len(result.completion_json) for result in results] == list(sizes.values())


async def test_a_closed_iteration_cancels_its_call() -> None:
    async def answer(text: str, put: Put) -> None:
        await put(chunk(b"1"), 1)
        await _never(text, put)

    replica = Replica(answer)
    async with client_of(replica) as (client, _):
        stream = await until_open(client)
        async with aclosing(stream.results(call("left"), 0, size_of=chunk_size)) as results:
            await anext(results)
        await _until(lambda: replica.cancelled == ["left"])


async def test_a_call_that_takes_too_long_is_unavailable_and_is_cancelled() -> None:
    async def answer(text: str, put: Put) -> None:
        await (_never if text == "hangs" else _echo)(text, put)

    replica = Replica(answer)
    async with client_of(replica, timeout_seconds=0.3) as (client, _):
        stream = await until_open(client)
        with pytest.raises(Unavailable) as raised:
            await stream.call(call("hangs"))
        assert raised.value.reason == "inference_unavailable"
        assert (await stream.call(call("works"))).completion_json == b"works"
        await _until(lambda: replica.cancelled == ["hangs"])


async def test_a_caller_that_does_not_read_pauses_its_own_call_only() -> None:
    sent = 0

    async def answer(text: str, put: Put) -> None:
        nonlocal sent
        if text == "other":
            await _echo(text, put)
            return
        for _ in range(100):
            await put(chunk(_PART), len(_PART))
            sent += 1
        await put(last(), 0)

    async with client_of(Replica(answer)) as (client, _):
        stream = await until_open(client)
        async with aclosing(stream.results(call("slow"), 0, size_of=chunk_size)) as results:
            received = [await anext(results)]
            await _until(lambda: sent >= WINDOW_BYTES // len(_PART) - 1)
            for _ in range(20):
                await stream.call(call("other"))
            assert sent <= WINDOW_BYTES // len(_PART), "the service waits for an acknowledgement"
            received += [result async for result in results]
    assert sum(map(chunk_size, received)) == 100 * len(_PART)


async def test_calls_in_progress_finish_while_a_service_drains_and_later_ones_go_elsewhere() -> None:
    replica = Replica(_echo_slowly)
    async with client_of(replica) as (client, server):
        stream = await until_open(client)
        calls = [asyncio.ensure_future(stream.call(call(str(n)))) for n in range(5)]
        await _until(lambda: len(replica.calls) == 5)
        replica.multiplexed.drain()
        stopping = asyncio.ensure_future(server.stop(SECONDS))
        assert [(await one).completion_json for one in calls] == [b"0", b"1", b"2", b"3", b"4"]
        async with asyncio.timeout(2):
            await stopping  # The client has ended the stream.
        assert client.stream() is not stream


async def test_calls_are_lost_with_their_stream_and_those_not_sent_can_be_made_again() -> None:
    replica = Replica(_never)
    async with client_of(replica) as (client, server):
        stream = await until_open(client)
        lost = asyncio.ensure_future(stream.call(call("lost")))
        await _until(lambda: replica.calls == ["lost"])
        await server.stop(None)
        with pytest.raises(Unavailable) as raised:
            await lost
        assert raised.value.reason == "inference_unavailable"
        with pytest.raises(NotSent):
            await stream.call(call("late"))
        assert client.stream() is None


async def test_a_client_closes_with_calls_in_progress() -> None:
    replica = Replica(_never)
    async with client_of(replica) as (client, _):
        stream = await until_open(client)
        lost = asyncio.ensure_future(stream.call(call("lost")))
        await _until(lambda: replica.calls == ["lost"])
    with pytest.raises(Unavailable):
        await lost
    await _until(lambda: replica.cancelled == ["lost"])


async def test_a_service_of_the_previous_version_gets_no_streams() -> None:
    async with client_of(cast(Any, inference_pb2_grpc.InferenceServiceServicer)()) as (client, _):
        assert client.stream() is None
        opening = client._opening
        assert opening is not None
        await opening
        assert client.stream() is None
        assert client._opening is None, "the client waits before it tries again"


async def test_a_busy_client_uses_all_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_CALLS_PER_STREAM", 4)
    replicas = [Replica(_echo_slowly), Replica(_echo_slowly)]
    targets = [f"unix:{socket_path()}" for _ in replicas]
    async with (
        serving(replicas[0], targets[0]),
        serving(replicas[1], targets[1]),
        open_channel(targets[0]) as one,
        open_channel(targets[1]) as other,
    ):
        turns = itertools.cycle((one, other))  # As a channel to two replicas spreads its streams.
        async with multiplex_client(lambda: next(turns)) as client:
            await until_open(client)
            calls = []
            for n in range(40):
                stream = client.stream()
                assert stream is not None
                calls.append(asyncio.ensure_future(stream.call(call(str(n)))))
                await asyncio.sleep(0.01)
            await asyncio.gather(*calls)
    assert min(len(replica.calls) for replica in replicas) >= 10


async def test_an_old_stream_is_replaced_and_finishes_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    async with client_of(Replica(_echo_slowly)) as (client, _):
        old = await until_open(client)
        in_progress = asyncio.ensure_future(old.call(call("old")))
        await asyncio.sleep(0)
        monkeypatch.setattr(client_module, "_AGE_SECONDS_MAX", 0.01)
        await _until(lambda: client.stream() is not old)
        monkeypatch.undo()
        assert (await in_progress).completion_json == b"old"
        new = client.stream()
        assert new is not None
        assert (await new.call(call("new"))).completion_json == b"new"
        await _until(lambda: not client._draining)


async def _until(condition: object) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)
