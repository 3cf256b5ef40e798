"""Calls fail over to the successors of replicas that shut down, and are made at most once."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

import pytest
from grpc import StatusCode, aio

from services.common.rpc.channel import open_channel
from services.common.rpc.failover_channel import FAILOVER_SECONDS
from services.common.runtime.tasks import running
from tests.integration.common.dns_world import ADDRESSES, Replica, Resolver, resolving
from tests.integration.common.grpc_world import SERVICE, stream, unary

_OLD, _NEW = (address.encode() for address in ADDRESSES[:2])


@pytest.fixture
async def names() -> AsyncIterator[Resolver]:
    """A resolver that returns the first address."""
    async with resolving() as resolver:
        yield resolver


@pytest.fixture
async def channel(names: Resolver) -> AsyncIterator[aio.Channel]:
    """A channel to the replica at the address."""
    async with open_channel(names.target) as channel:
        yield channel


@pytest.fixture
async def old(names: Resolver, channel: aio.Channel) -> AsyncIterator[Replica]:
    """The only replica known to the channel."""
    async with Replica(ADDRESSES[0], names.port, stream_on=_tick) as replica:
        assert await unary(channel, "ask")(b"", timeout=5) == _OLD
        yield replica


async def _tick(request: bytes, context: Any) -> AsyncIterator[bytes]:
    while True:
        yield _OLD
        await asyncio.sleep(0.02)


async def _refusal(call: Any) -> tuple[aio.AioRpcError, float]:
    """Return how a call was refused, and after how many seconds."""
    began = time.monotonic()
    with pytest.raises(aio.AioRpcError) as refused:
        await call
    return refused.value, time.monotonic() - began


async def _until_refused(ask: Any) -> None:
    async with asyncio.timeout(10):
        try:
            while True:
                await ask(b"", timeout=2)
        except aio.AioRpcError:
            return


async def _leave(replica: Replica, *, grace: float = 1) -> None:
    """Drain like a service: report it, go on for a second, and stop."""
    await replica.drain()
    await asyncio.sleep(1)
    await replica.stop(grace)


async def test_no_call_fails_when_the_last_known_replica_stops_before_its_successor_is_known(
    names: Resolver, channel: aio.Channel, old: Replica
) -> None:
    ask, listen = unary(channel, "ask"), stream(channel, "stream")
    async with Replica(ADDRESSES[1], names.port):
        names.address = ADDRESSES[1]
        leaving = asyncio.create_task(_leave(old))
        answers = []
        while not leaving.done():
            answers.append(await ask(b"", timeout=2))
            answers += [one async for one in listen(b"", timeout=2)]
        await leaving
    assert answers[-1] == _NEW


async def test_a_stream_ends_where_it_began_while_new_calls_go_to_the_successor(
    names: Resolver, channel: aio.Channel, old: Replica
) -> None:
    async with Replica(ADDRESSES[1], names.port), aclosing(aiter(stream(channel, "stream_on")(b""))) as ticks:
        assert await anext(ticks) == _OLD
        names.address = ADDRESSES[1]
        async with running(_leave(old, grace=10)):
            assert await _until_new(unary(channel, "ask"))
            assert [await anext(ticks) for _ in range(100)] == [_OLD] * 100


async def test_calls_fail_at_once_when_no_replica_appeared_for_a_while(names: Resolver, channel: aio.Channel) -> None:
    ask = unary(channel, "ask")
    seconds = [(await _refusal(ask(b"", timeout=5)))[1] for _ in range(3)]
    assert FAILOVER_SECONDS < sum(seconds) < FAILOVER_SECONDS + 1
    assert seconds[-1] < 0.5


async def test_an_older_stream_in_progress_does_not_restart_the_wait(channel: aio.Channel, old: Replica) -> None:
    ask = unary(channel, "ask")
    async with aclosing(aiter(stream(channel, "stream_on")(b""))) as ticks:
        assert await anext(ticks) == _OLD
        await old.drain()
        await _until_refused(ask)
        await _refusal(ask(b"", timeout=5))
        assert [await anext(ticks) for _ in range(3)] == [_OLD] * 3
        _, seconds = await _refusal(ask(b"", timeout=5))
    assert seconds < 0.5


async def test_a_late_successor_is_found_while_the_old_replica_still_ends_its_streams(
    names: Resolver, channel: aio.Channel, old: Replica
) -> None:
    ask = unary(channel, "ask")
    await old.drain()
    await _until_refused(ask)
    async with Replica(ADDRESSES[1], names.port), asyncio.timeout(5):
        names.address = ADDRESSES[1]
        answers: list[bytes] = []
        while not answers:
            answers += [one for one in await asyncio.gather(ask(b""), return_exceptions=True) if one == _NEW]


async def test_calls_wait_again_when_the_service_disappears_again(channel: aio.Channel, names: Resolver) -> None:
    ask = unary(channel, "ask")
    for _ in range(3):
        waiting = asyncio.ensure_future(_awaited(ask(b"", timeout=5)))
        await asyncio.sleep(0.2)
        async with Replica(ADDRESSES[0], names.port):
            assert await waiting == _OLD


async def test_a_call_that_was_sent_is_not_repeated(channel: aio.Channel, names: Resolver) -> None:
    calls = 0

    async def ask(request: bytes, context: Any) -> bytes:
        nonlocal calls
        calls += 1
        await context.abort(StatusCode.UNAVAILABLE, "I am going")
        return b""

    async with Replica(ADDRESSES[0], names.port, ask=ask):
        refused, _ = await _refusal(unary(channel, "ask")(b"", timeout=5))
    assert (refused.details(), calls) == ("I am going", 1)


async def test_a_repeated_call_keeps_its_metadata_and_the_remainder_of_its_deadline(
    channel: aio.Channel, names: Resolver, old: Replica
) -> None:
    seen: list[tuple[str | bytes | None, float]] = []

    async def ask(request: bytes, context: Any) -> bytes:
        seen.append((dict(context.invocation_metadata()).get("authorization"), context.time_remaining()))
        return _NEW

    await old.stop()
    names.address = ADDRESSES[1]
    call = unary(channel, "ask")(b"", timeout=5, metadata=(("authorization", "me"),))
    answer = asyncio.ensure_future(_awaited(call))
    await asyncio.sleep(0.3)
    async with Replica(ADDRESSES[1], names.port, ask=ask):
        assert await answer == _NEW
    assert seen[0][0] == "me"
    assert 0 < seen[0][1] < 4.7


async def _awaited(call: Any) -> Any:
    return await call


async def test_no_call_waits_longer_than_its_deadline(channel: aio.Channel) -> None:
    refused, seconds = await _refusal(unary(channel, "ask")(b"", timeout=0.3))
    assert refused.code() in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)
    assert seconds < 1


async def _streamed(call: Any) -> list[bytes]:
    return [one async for one in call]


@pytest.mark.parametrize("how", ["task", "call", "stream"])
async def test_a_waiting_call_is_cancelled_at_once(channel: aio.Channel, names: Resolver, how: str) -> None:
    await _refusal(unary(channel, "ask")(b"", timeout=0.1))  # No replica is there, so the next one waits.
    call = stream(channel, "stream_on")(b"") if how == "stream" else unary(channel, "ask")(b"")
    waiting = asyncio.ensure_future(_streamed(call) if how == "stream" else _awaited(call))
    await asyncio.sleep(0.1)
    began = time.monotonic()
    assert waiting.cancel() if how == "task" else call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert time.monotonic() - began < FAILOVER_SECONDS / 2
    assert how == "task" or not call.cancel()


async def test_a_call_that_was_cancelled_before_it_waits_is_never_sent(channel: aio.Channel) -> None:
    call = unary(channel, "ask")(b"")
    assert call.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert time.monotonic() - began < FAILOVER_SECONDS / 2


async def test_a_call_that_is_awaited_twice_is_sent_once(channel: aio.Channel, names: Resolver) -> None:
    sent: list[bytes] = []

    async def ask(request: bytes, context: Any) -> bytes:
        sent.append(request)
        return b"answer"

    call = unary(channel, "ask")(b"once", timeout=10)
    both = [asyncio.ensure_future(_awaited(call)) for _ in range(2)]
    await asyncio.sleep(0.1)  # Both wait for a replica.
    async with Replica(ADDRESSES[0], names.port, ask=ask):
        assert await asyncio.gather(*both) == [b"answer", b"answer"]
        assert await call == b"answer"
    assert sent == [b"once"]


async def test_a_call_whose_task_is_cancelled_leaves_no_wait_behind(channel: aio.Channel) -> None:
    tasks = asyncio.all_tasks()
    waiting = asyncio.ensure_future(_awaited(unary(channel, "ask")(b"")))
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.all_tasks() <= tasks


async def test_the_callee_is_notified_when_a_stream_is_cancelled(channel: aio.Channel, names: Resolver) -> None:
    ended = asyncio.Event()

    async def tick(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            async for one in _tick(request, context):
                yield one
        finally:
            ended.set()

    async with Replica(ADDRESSES[0], names.port, stream_on=tick):
        call = stream(channel, "stream_on")(b"")
        async for _ in call:
            break
        assert call.cancel()
        async with asyncio.timeout(5):
            await ended.wait()


async def test_closing_ends_the_search_and_refuses_waiting_calls(names: Resolver) -> None:
    async with open_channel(names.target) as channel:
        waiting = asyncio.create_task(_awaited(unary(channel, "ask")(b"")))
        await asyncio.sleep(0.5)
    began = time.monotonic()
    with pytest.raises(aio.UsageError):
        await waiting
    assert time.monotonic() - began < 0.5


@pytest.mark.long
async def test_a_service_whose_name_had_no_address_for_a_while_is_found_within_seconds(
    names: Resolver, channel: aio.Channel
) -> None:
    """gRPC's resolver would ask again after 16 s, then after 26 s, and later every two minutes."""
    ask = unary(channel, "ask")
    async with Replica(ADDRESSES[0], names.port):
        assert await ask(b"", timeout=5) == _OLD
    names.address = ""
    ends_at = time.monotonic() + 17
    while time.monotonic() < ends_at:
        await _refusal(ask(b"", timeout=2))
        await asyncio.sleep(0.1)
    async with Replica(ADDRESSES[1], names.port), asyncio.timeout(5):
        names.address = ADDRESSES[1]
        while _NEW not in await asyncio.gather(ask(b"", timeout=2), return_exceptions=True):
            await asyncio.sleep(0.05)


async def test_streams_of_requests_go_to_the_successor_too(names: Resolver, channel: aio.Channel, old: Replica) -> None:
    async def collect(requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([one async for one in requests])

    async def talk(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for one in requests:
            yield one

    collected = channel.stream_unary(f"/{SERVICE}/collect", bytes, bytes)
    talked = channel.stream_stream(f"/{SERVICE}/talk", bytes, bytes)
    names.address = ADDRESSES[1]
    async with Replica(ADDRESSES[1], names.port, collect=collect, talk=talk), running(_leave(old)):
        assert await _until_new(unary(channel, "ask"))
        assert await collected(_words()) == b"ab"
        assert [one async for one in talked(_words())] == [b"a", b"b"]


async def _until_new(ask: Any) -> bool:
    async with asyncio.timeout(5):
        while await ask(b"", timeout=5) != _NEW:
            pass
    return True


async def _words() -> AsyncIterator[bytes]:
    for word in (b"a", b"b"):
        yield word


async def test_a_long_call_fails_immediately_if_its_replica_dies_before_it_is_sent(names: Resolver) -> None:
    """Chats have a time-out of minutes, for which they would wait if no replica returned."""
    async with open_channel(names.target) as channel, Replica(ADDRESSES[0], names.port) as replica:
        ask = unary(channel, "ask")
        assert await ask(b"", timeout=5) == _OLD
        calls = [asyncio.create_task(_seconds(ask(b"", timeout=60))) for _ in range(20)]
        await asyncio.sleep(0)
        await replica.stop()
        assert max(await asyncio.wait_for(asyncio.gather(*calls), 20)) < 5


async def test_a_closed_channel_opens_no_other(names: Resolver) -> None:
    async with Replica(ADDRESSES[0], names.port):
        async with open_channel(names.target) as channel:
            ask = unary(channel, "ask")
            assert await ask(b"", timeout=5) == _OLD
        with pytest.raises(aio.UsageError):
            await ask(b"", timeout=1)


@pytest.mark.long
async def test_a_channel_is_ready_soon_after_its_name_gets_an_address(names: Resolver) -> None:
    names.address = ""
    async with open_channel(names.target) as channel:
        ready = asyncio.create_task(channel.channel_ready())
        await asyncio.sleep(3)
        assert not ready.done()
        names.address = ADDRESSES[0]
        async with Replica(ADDRESSES[0], names.port):
            await asyncio.wait_for(ready, 4)


async def _seconds(call: Any) -> float:
    """Return how long a call takes, whether it succeeds or fails."""
    began = time.monotonic()
    with suppress(aio.AioRpcError):
        await call
    return time.monotonic() - began
