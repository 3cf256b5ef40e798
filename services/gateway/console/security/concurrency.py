"""Limits concurrent console requests, and serves clients in turn.

The event loop also serves chats, and in a single process auth. Each iteration runs everything that is ready, so a flood
of cheap requests makes iterations long, and a chat takes about fifty of them. Console requests therefore wait in a
queue before any work is done for them. A request holds its slot only while it is handled. The slot is released before
the response body is sent, which takes as long as the client likes. Long bodies wait in memory meanwhile, so their
number is limited; beyond it, a request keeps its slot.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.address_prefix import address_prefix
from services.common.concurrency.fair_semaphore import FairSemaphore, QueueFull, Slot

_SLOTS = 16
_SLOTS_PER_CLIENT = 4
_WAITING_MAX = 5_000
_WAITING_PER_CLIENT_MAX = 500
"""More than browsers open, since each waiting request occupies a connection of its client."""
_SLOT = "stack.console.slot"
_ACQUIRE = "stack.console.acquire"
_RETRY_SECONDS = 1.0
_SHORT_BYTES = 65_536
"""Size of a body that the connection takes immediately, whether or not its client reads."""
_LONG_BODIES, _LONG_BODIES_PER_CLIENT = 128, 8
_BUSY = b"The console has too many waiting requests. Try again in a moment.\n"


class ConsoleConcurrency:
    """Lets a bounded number of requests through to the console at the same time."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand in front of `app`."""
        self._app = app
        self._slots = FairSemaphore(
            _SLOTS,
            per_client=_SLOTS_PER_CLIENT,
            waiting_max=_WAITING_MAX,
            waiting_per_client_max=_WAITING_PER_CLIENT_MAX,
        )
        self._long_bodies = FairSemaphore(
            _LONG_BODIES, per_client=_LONG_BODIES_PER_CLIENT, waiting_max=0, waiting_per_client_max=0
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request when a slot is free, or respond with 429 if too many are waiting."""
        address = scope.get("client")
        client = address_prefix(address[0]) if address else ""
        try:
            async with self._slots.hold(client) as slot:
                scope[_SLOT] = slot
                scope[_ACQUIRE] = partial(self._slots.acquire, client)
                # Most responses to a flood are produced without awaiting anything. Yield once, so that each slot is
                # held for at least one iteration of the loop.
                await asyncio.sleep(0)
                await self._app(scope, receive, self._releasing(slot, client, send))
        except QueueFull:
            await _refuse(send)

    def _releasing(self, slot: Slot, client: str, send: Send) -> Send:
        """Return `send`, which releases `slot` once there is a body to send."""

        async def send_without_slot(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
            elif message.get("more_body", False) or len(message.get("body", b"")) <= _SHORT_BYTES:
                slot.release()
                await send(message)
            else:
                await self._send_long_body(message, slot, client, send)

        return send_without_slot

    async def _send_long_body(self, message: Message, slot: Slot, client: str, send: Send) -> None:
        try:
            async with self._long_bodies.hold(client):
                slot.release()
                await send(message)
        except QueueFull:
            await send(message)


def release_slot(scope: Scope) -> None:
    """Release the request's slot early, before a long operation that has the limits of chats."""
    slot: Slot | None = scope.get(_SLOT)
    if slot is not None:
        slot.release()


@asynccontextmanager
async def slot_within_response(scope: Scope) -> AsyncIterator[None]:
    """Hold a slot for the block, also after the response has started. Retry while the queue is full."""
    acquire: Callable[[], Awaitable[Slot]] = scope[_ACQUIRE]
    slot = None
    while slot is None:
        try:
            slot = await acquire()
        except QueueFull:
            await asyncio.sleep(_RETRY_SECONDS)
    try:
        yield
    finally:
        slot.release()


async def _refuse(send: Send) -> None:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(_BUSY)).encode()),
        (b"retry-after", b"2"),
        # The next request needs a new connection, which slows a flood down.
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": _BUSY})
