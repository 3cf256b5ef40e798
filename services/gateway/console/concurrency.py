"""The console's share of the gateway: so many of its requests are worked on at the same time, and clients take turns.

The event loop that serves chats, and in one process auth's too, works on everything that is ready before it comes back
to any of it. A crowd of cheap requests makes each such round long, and a chat takes some fifty rounds. So requests of
the console wait here, where waiting costs nothing, before anything is done for them. A place is held for work alone: it
is given back before the response's body is sent, which takes as long as the client likes. Long bodies wait in memory
meanwhile, so there may be so many of them; beyond that, each keeps its place.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.address_prefix import address_prefix
from services.common.concurrency.fair_semaphore import FairSemaphore, Place, QueueFull

_PLACES = 16
_PLACES_PER_CLIENT = 4
_WAITING_MAX = 5_000
_WAITING_PER_CLIENT_MAX = 500
"""More than browsers ever open; each waiting request keeps a connection of its client busy."""
_PLACE = "stack.console.place"
_ACQUIRE = "stack.console.acquire"
_RETRY_SECONDS = 1.0
_SHORT_BYTES = 65_536
"""Of a body that the connection takes at once, whether or not its client reads."""
_LONG_BODIES, _LONG_BODIES_PER_CLIENT = 128, 8
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
        self._long_bodies = FairSemaphore(
            _LONG_BODIES, per_client=_LONG_BODIES_PER_CLIENT, waiting_max=0, waiting_per_client_max=0
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for a place and pass the request on; refuse it when too many wait."""
        address = scope.get("client")
        client = address_prefix(address[0]) if address else ""
        try:
            async with self._places.hold(client) as place:
                scope[_PLACE] = place
                scope[_ACQUIRE] = partial(self._places.acquire, client)
                # Most answers to a flood are made without waiting for anything: places are held for a round of the
                # loop, or each round would work on all of them after all.
                await asyncio.sleep(0)
                await self._app(scope, receive, self._releasing(place, client, send))
        except QueueFull:
            await _refuse(send)

    def _releasing(self, place: Place, client: str, send: Send) -> Send:
        """Return `send`, which gives `place` back once there is a body to send."""

        async def send_without_place(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
            elif message.get("more_body", False) or len(message.get("body", b"")) <= _SHORT_BYTES:
                place.release()
                await send(message)
            else:
                await self._send_long_body(message, place, client, send)

        return send_without_place

    async def _send_long_body(self, message: Message, place: Place, client: str, send: Send) -> None:
        try:
            async with self._long_bodies.hold(client):
                place.release()
                await send(message)
        except QueueFull:
            await send(message)


def release_slot(scope: Scope) -> None:
    """Give the request's place back before its end: what follows takes long, and is bounded as chats are."""
    place: Place | None = scope.get(_PLACE)
    if place is not None:
        place.release()


@asynccontextmanager
async def slot_within_response(scope: Scope) -> AsyncIterator[None]:
    """Hold a place for the block: work for a response that has begun. Where too many wait, it tries again."""
    acquire: Callable[[], Awaitable[Place]] = scope[_ACQUIRE]
    place = None
    while place is None:
        try:
            place = await acquire()
        except QueueFull:
            await asyncio.sleep(_RETRY_SECONDS)
    try:
        yield
    finally:
        place.release()


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
