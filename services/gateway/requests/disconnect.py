"""Detection of client disconnects, which cancel the handler of the request."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive

from services.gateway.requests.types import Departure


class DisconnectMonitor:
    """A monitor of one client's connection, from the end of the request body.

    After `cancel_on_departure`, a disconnect cancels the handler of the request. Inference still reads Groq's answer to
    the end, and the request handler settles the hold from the ledger row.

    Attributes:
        departure: Why the request ended early; None while the client is connected.
    """

    def __init__(self) -> None:
        self.departure: Departure | None = None
        self._cancels = False
        self._has_cancelled = False
        self._handler: asyncio.Task[object] | None = None

    @contextmanager
    def watching(self, receive: Receive) -> Iterator[None]:
        """Watch for a disconnect during the block, and suppress the cancellation that a disconnect causes.

        Enter the block in the task that handles the request.

        Args:
            receive: The ASGI `receive` of the request, after its body has been read.
        """
        self._handler = handler = asyncio.current_task()
        assert handler is not None, "a handler runs in a task"
        watch = asyncio.ensure_future(receive())
        watch.add_done_callback(self._on_message)
        try:
            yield
        except asyncio.CancelledError:
            if not self._has_cancelled:
                raise
            handler.uncancel()
        finally:
            watch.remove_done_callback(self._on_message)
            watch.cancel()
            self._handler = None

    @property
    def has_left(self) -> bool:
        """Whether the client disconnected, stalled or was revoked."""
        return self.departure is not None

    def cancel_on_departure(self) -> None:
        """Cancel the handler on any later departure. Earlier ones do not cancel it."""
        self._cancels = True

    def depart(self, departure: Departure) -> None:
        """Record a departure and cancel the handler if requested. The first reason is kept."""
        self.departure = self.departure or departure
        if self._cancels and self._handler is not None and not self._has_cancelled:
            self._has_cancelled = self._handler.cancel()

    def _on_message(self, received: "asyncio.Future[Message]") -> None:
        if received.cancelled() or received.exception() or received.result()["type"] != "http.disconnect":
            return
        self.depart(Departure.CLIENT_LEFT)
