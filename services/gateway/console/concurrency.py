"""The console's share of the gateway: so many of its requests are worked on at the same time, and clients take turns.

The event loop that serves chats, and in one process auth's too, works on everything that is ready before it comes back
to any of it. A crowd of cheap requests makes each such round long, and a chat takes some fifty rounds. So requests of
the console wait here, where waiting costs nothing, before anything is done for them.
"""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from services.common.address_prefix import address_prefix
from services.common.concurrency.fair_semaphore import FairSemaphore, Slot, QueueFull

_PLACES = 16
_PLACES_PER_CLIENT = 4
_WAITING_MAX = 5_000
_WAITING_PER_CLIENT_MAX = 500
"""More than browsers ever open; each waiting request keeps a connection of its client busy."""
_SLOT = "stack.console.slot"
_BUSY = b"Too many requests to the console are waiting. Try again in a moment.\n"


class ConsoleConcurrency:
    """Lets a bounded number of requests through to the console at the same time."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand in front of `app`."""
        self._app = app
        self._places = FairSemaphore(
            _PLACES,
            per_client=_PLACES_PER_CLIENT,
            waiting_max=_WAITING_MAX,
            waiting_per_client_max=_WAITING_PER_CLIENT_MAX,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for a slot and pass the request on; refuse it when too many wait."""
        client = scope.get("client")
        try:
            async with self._places.hold(address_prefix(client[0]) if client else "") as slot:
                scope[_SLOT] = slot
                # Most answers to a flood are made without waiting for anything: places are held for a round of the
                # loop, or each round would work on all of them after all.
                await asyncio.sleep(0)
                await self._app(scope, receive, send)
        except QueueFull:
            await _refuse(send)


def release_slot(scope: Scope) -> None:
    """Give the request's slot back before its end: what follows takes long, and is bounded as chats are."""
    slot: Slot | None = scope.get(_SLOT)
    if slot is not None:
        slot.release()


async def _refuse(send: Send) -> None:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(_BUSY)).encode()),
        (b"retry-after", b"2"),
        # Its next request comes with the cost of a new connection.
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": _BUSY})
