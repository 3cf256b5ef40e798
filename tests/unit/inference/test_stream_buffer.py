"""The buffer between Groq and a caller that may be slow or disconnected."""

import asyncio

import pytest

from services.common.errors import DeadlineExceeded, InternalError
from services.common.verdict import CHARGED
from services.inference.requests.stream_buffer import StreamBuffer

ONE, TWO = b'{"n": 1}', b'{"n": 2}'


async def done(error: Exception | None = None) -> None:
    """End in the ways that a task filling the buffer may end."""
    if error is not None:
        raise error


async def closed(buffer: StreamBuffer, error: Exception | None = None) -> None:
    """Close the buffer when a task ends."""
    task = asyncio.create_task(done(error))
    task.add_done_callback(buffer.close)
    await asyncio.wait({task})
    await asyncio.sleep(0)


async def taken(buffer: StreamBuffer) -> list[bytes]:
    """Return all events until the end."""
    events: list[bytes] = []
    while (batch := await buffer.take()) is not None:
        events += batch
    return events


async def test_queued_events_are_returned_together_followed_by_the_verdict() -> None:
    buffer = StreamBuffer()
    assert buffer.is_empty
    buffer.put(ONE)
    buffer.put(TWO)
    buffer.end(CHARGED)
    await closed(buffer)

    assert await buffer.take() == [ONE, TWO]
    assert await buffer.take() is None
    assert buffer.verdict() == CHARGED
    assert not buffer.is_empty


async def test_an_error_follows_the_queued_events() -> None:
    buffer = StreamBuffer()
    buffer.put(ONE)
    await closed(buffer, ValueError("broken"))

    assert await buffer.take() == [ONE]
    with pytest.raises(ValueError, match="broken"):
        await buffer.take()


async def test_a_time_out_ends_the_callers_part_and_later_events_are_dropped() -> None:
    buffer = StreamBuffer()
    taking = asyncio.create_task(buffer.take())
    await asyncio.sleep(0)
    buffer.fail(DeadlineExceeded("late"))
    with pytest.raises(DeadlineExceeded):
        await taking
    buffer.discard()
    buffer.put(ONE)
    await closed(buffer, ValueError("later"))

    assert await buffer.take() is None


async def test_a_cancelled_task_ends_the_stream_with_an_error() -> None:
    buffer = StreamBuffer()
    task = asyncio.create_task(asyncio.sleep(10))
    task.add_done_callback(lambda _: buffer.close(task))
    task.cancel()

    with pytest.raises(InternalError):
        await buffer.take()


async def test_a_full_buffer_has_room_again_when_its_caller_reads_or_disconnects() -> None:
    buffer = StreamBuffer(bytes_max=100)
    buffer.put(b"1" * 99)
    assert not buffer.is_full
    buffer.put(b"2")
    assert buffer.is_full
    waiting = asyncio.create_task(buffer.until_room())
    await asyncio.sleep(0.01)
    assert not waiting.done()

    await buffer.take()
    await waiting
    assert not buffer.is_full

    buffer.put(b"1" * 100)
    buffer.discard()
    await buffer.until_room()
    buffer.put(b"2" * 100)
    assert not buffer.is_full


async def test_no_batch_is_larger_than_a_message() -> None:
    buffer = StreamBuffer(bytes_max=100)
    events = [b"1" * 60, b"2" * 40, b"3" * 500, b"4", b"5"]
    for event in events:
        buffer.put(event)

    batches = [await buffer.take() for _ in range(3)]

    assert batches == [events[:2], events[2:3], events[3:]]
    assert not buffer.is_full
