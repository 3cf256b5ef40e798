"""Concurrency limit of the console, which protects the latency of API requests.

The event loop also serves chats, and in a single process auth. Each iteration runs everything that is ready, so a flood
of cheap requests makes iterations long, and a chat takes about fifty of them. Console requests therefore wait in a
queue before any work is done for them.
"""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from services.common.address_prefix import address_prefix
from services.common.concurrency.fair_semaphore import FairSemaphore, QueueFull, Slot

_SLOTS = 16
_SLOTS_PER_CLIENT = 4
_WAITING_MAX = 5_000
_WAITING_PER_CLIENT_MAX = 500
"""More than browsers open, since each waiting request occupies a connection of its client."""
_SLOT = "stack.console.slot"
_BUSY = b"The console has too many waiting requests. Try again in a moment.\n"


class ConsoleConcurrency:
    """Middleware that limits concurrent requests, in total and per client."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app
        self._slots = FairSemaphore(
            _SLOTS,
            per_client=_SLOTS_PER_CLIENT,
            waiting_max=_WAITING_MAX,
            waiting_per_client_max=_WAITING_PER_CLIENT_MAX,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request when a slot is free, or respond with 429 if too many are waiting."""
        client = scope.get("client")
        try:
            async with self._slots.hold(address_prefix(client[0]) if client else "") as slot:
                scope[_SLOT] = slot
                # Most responses to a flood are produced without awaiting anything. Yield once, so that each slot is
                # held for at least one iteration of the loop.
                await asyncio.sleep(0)
                await self._app(scope, receive, send)
        except QueueFull:
            await _refuse(send)


def release_slot(scope: Scope) -> None:
    """Release the request's slot early, before a chat, which takes long and has its own limits."""
    slot: Slot | None = scope.get(_SLOT)
    if slot is not None:
        slot.release()


async def _refuse(send: Send) -> None:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(_BUSY)).encode()),
        (b"retry-after", b"2"),
        # Makes the client's next request pay for a new connection.
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": _BUSY})
