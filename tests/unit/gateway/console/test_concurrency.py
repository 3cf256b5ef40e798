"""Requests to the console take turns; slow readers of bodies hold few slots and little memory."""

import asyncio
from typing import Any, cast

from starlette.types import Message, Receive, Scope, Send

from services.gateway.console.security.concurrency import ConsoleConcurrency

_LONG = b"x" * 100_000


class Clients:
    """Clients that read nothing of a response until the test allows it."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._app = ConsoleConcurrency(self._answer)
        self._may_read = asyncio.Event()
        self.begun = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, address: str, *, times: int) -> int:
        """Send requests; return how many were answered, as far as the responses have been read."""
        before = self.begun
        scope: Scope = {"type": "http", "client": (address, 1)}
        for _ in range(times):
            self.tasks.append(asyncio.ensure_future(cast(Any, self._app(dict(scope), _never, self._send))))
        for _ in range(50):
            await asyncio.sleep(0)
        return self.begun - before

    async def read(self) -> int:
        """Read everything; return how many requests were answered in all."""
        self._may_read.set()
        await asyncio.wait_for(asyncio.gather(*self.tasks), 5)
        return self.begun

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self._body})

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            await self._may_read.wait()


async def _never() -> Message:
    raise AssertionError


async def test_short_bodies_hold_no_slot() -> None:
    clients = Clients(b"x")
    assert await clients.ask("192.0.2.1", times=40) == 40


async def test_long_bodies_beyond_a_clients_bound_hold_only_that_clients_slots() -> None:
    clients = Clients(_LONG)
    assert await clients.ask("192.0.2.1", times=20) == 8 + 4
    assert await clients.ask("192.0.2.2", times=1) == 1
    assert await clients.read() == 21
