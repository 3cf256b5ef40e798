"""Detection of client disconnects, which cancel the handler of the request."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive, Scope

from services.gateway.http_server.cycle import ON_DISCONNECT
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
    def watching(self, scope: Scope, receive: Receive) -> Iterator[None]:
        """Watch for a disconnect during the block, and suppress the cancellation that a disconnect causes.

        Enter the block in the task that handles the request.

        Args:
            scope: The ASGI scope of the request.
            receive: The ASGI `receive` of the request, after its body has been read.
        """
        self._handler = handler = asyncio.current_task()
        assert handler is not None, "a handler runs in a task"
        unwatch = _watch(scope, receive, self._on_disconnect)
        try:
            yield
        except asyncio.CancelledError:
            if not self._has_cancelled:
                raise
            handler.uncancel()
        finally:
            unwatch()
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

    def _on_disconnect(self) -> None:
        self.depart(Departure.CLIENT_LEFT)


def _watch(scope: Scope, receive: Receive, callback: Callable[[], None]) -> Callable[[], None]:
    """Call `callback` when the client disconnects, and return a function that ends the watch.

    An ASGI server other than ours reports a disconnect only to a task that waits for a message.
    """
    if set_callback := scope.get(ON_DISCONNECT):
        set_callback(callback)
        return lambda: set_callback(None)

    def on_message(received: "asyncio.Future[Message]") -> None:
        if not (received.cancelled() or received.exception()) and received.result()["type"] == "http.disconnect":
            callback()

    waiting = asyncio.ensure_future(receive())
    waiting.add_done_callback(on_message)

    def unwatch() -> None:
        waiting.remove_done_callback(on_message)
        waiting.cancel()

    return unwatch
