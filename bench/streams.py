"""Concurrent reading of streams: streams per second, completeness, and time to the first event."""

import asyncio
import time
from dataclasses import dataclass
from typing import Literal

from bench import wire
from bench.contenders import Contender
from bench.mock import EVENTS_PER_STREAM
from bench.surfaces import CHAT, Surface

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


def read(contender: Contender, shape: Shape, *, streams: int, at_once: int, surface: Surface = CHAT) -> Streams:
    """Read `streams` streams, `at_once` at a time.

    Raises:
        NotAnswered: A stream was refused or incomplete.
    """
    return asyncio.run(_read(contender, shape, streams=streams, at_once=min(at_once, streams), surface=surface))


async def _read(contender: Contender, shape: Shape, *, streams: int, at_once: int, surface: Surface) -> Streams:
    body = surface.body(contender, shape, stream=True)
    request = wire.request(contender, body, path=surface.url_path(contender))
    connections = [await wire.connect(contender) for _ in range(at_once)]
    waiting = iter(range(streams))

    async def client(connection: wire.Connection) -> list[float]:
        return [await _one(connection, request, surface) for _ in waiting]

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client(connection)) for connection in connections]
    seconds = time.perf_counter() - started
    for connection in connections:
        connection.close()
    return Streams(seconds, tuple(value for task in tasks for value in task.result()))


async def _one(connection: wire.Connection, request: bytes, surface: Surface) -> float:
    """Read a stream and return the milliseconds to its first event."""
    sent = time.perf_counter()
    reply = await connection.ask(request)
    surface.check_stream(reply)
    return (reply.began - sent) * 1000
