"""Open-loop load: requests are sent at a fixed rate, and latency counts from the scheduled time.

k6 and h2load measure from the actual send time. There, a request that was delayed by a slow earlier one appears fast
("coordinated omission").
"""

import asyncio
import time

from bench import wire
from bench.closed_loop import Answers
from bench.contenders import Contender
from bench.surfaces import CHAT
from bench.wire import NotAnswered

_CONNECTIONS_MAX = 512


def run(contender: Contender, *, rate: float, requests: int) -> Answers:
    """Send `requests` requests at `rate` per second and wait for all responses.

    Raises:
        NotAnswered: A response had another status than 200, or more than 512 requests waited at the same time.
    """
    return asyncio.run(_run(contender, rate=rate, requests=requests))


async def _run(contender: Contender, *, rate: float, requests: int) -> Answers:
    pool = _Pool(contender)
    request = wire.request(contender, CHAT.body(contender))
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for number in range(requests):
            due = started + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(group.create_task(_one(pool, request, due)))
    seconds = time.perf_counter() - started
    pool.close()
    return Answers(seconds, tuple(task.result() for task in tasks))


async def _one(pool: "_Pool", request: bytes, due: float) -> float:
    connection = await pool.take()
    reply = await connection.ask(request)
    pool.give_back(connection)
    if reply.status != 200:
        raise NotAnswered(f"answered with {reply.status}: {reply.body[:300]!r}")
    return (reply.ended - due) * 1000


class _Pool:
    """A pool of connections that reuses the last used one first."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._idle: list[wire.Connection] = []
        self._open = 0

    async def take(self) -> wire.Connection:
        if self._idle:
            return self._idle.pop()
        if self._open == _CONNECTIONS_MAX:
            raise NotAnswered(f"{self._open} requests wait for an answer")
        self._open += 1
        return await wire.connect(self._contender)

    def give_back(self, connection: wire.Connection) -> None:
        self._idle.append(connection)

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
