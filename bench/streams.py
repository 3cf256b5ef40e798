"""Concurrent reading of streams: streams per second, completeness, and time to the first event."""

import asyncio
import time
from dataclasses import dataclass
from typing import Literal

from bench import wire
from bench.closed_loop import NotAnswered, body
from bench.contenders import Contender
from bench.mock import EVENTS_PER_STREAM

Shape = Literal["bursts", "spaced"]
"""How the mock sends events: five every 10 ms, or one every 10 ms."""


@dataclass(frozen=True, slots=True)
class Streams:
    """The figures of complete streams."""

    seconds: float
    first_event_ms: tuple[float, ...]
    """Time from the request to the first event, of each stream."""

    @property
    def count(self) -> int:
        """Number of streams."""
        return len(self.first_event_ms)

    @property
    def per_second(self) -> float:
        """Streams per second."""
        return self.count / self.seconds

    @property
    def events(self) -> int:
        """Events sent by the mock; a contender may merge or split them."""
        return self.count * EVENTS_PER_STREAM


def read(contender: Contender, shape: Shape, *, streams: int, at_once: int) -> Streams:
    """Read `streams` streams, `at_once` at a time.

    Raises:
        NotAnswered: A stream was refused or incomplete.
    """
    return asyncio.run(_read(contender, shape, streams=streams, at_once=min(at_once, streams)))


async def _read(contender: Contender, shape: Shape, *, streams: int, at_once: int) -> Streams:
    request = wire.request(contender, body(contender, shape, stream=True))
    connections = [await wire.connect(contender) for _ in range(at_once)]
    waiting = iter(range(streams))

    async def client(connection: wire.Connection) -> list[float]:
        return [await _one(connection, request) for _ in waiting]

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client(connection)) for connection in connections]
    seconds = time.perf_counter() - started
    for connection in connections:
        connection.close()
    return Streams(seconds, tuple(value for task in tasks for value in task.result()))


async def _one(connection: wire.Connection, request: bytes) -> float:
    """Read a stream and return the milliseconds to its first event."""
    sent = time.perf_counter()
    reply = await connection.ask(request)
    check(reply)
    return (reply.began - sent) * 1000


def check(reply: wire.Reply, *, contents_min: int = EVENTS_PER_STREAM - 2) -> None:
    """Check that a stream is complete: at least `contents_min` events with content, and `[DONE]`.

    Raises:
        NotAnswered: The stream is incomplete.
    """
    contents = reply.body.count(b'"content":')
    if reply.status != 200 or contents < contents_min or b"data: [DONE]" not in reply.body:
        raise NotAnswered(f"a stream ended with {reply.status} and {contents} contents: {reply.body[-300:]!r}")
