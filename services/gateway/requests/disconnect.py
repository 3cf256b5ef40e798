"""Client disconnects: noticed at once, and the handler of the request is cancelled."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive

from services.gateway.requests.types import Departure


class DisconnectMonitor:
    """Watches one client from the end of its request's body on.

    Once `cancel_on_departure` was called, a client that is gone cancels its request's handler. Inference reads Groq to
    the end by itself, and the pipeline settles the hold by the ledger's row.

    Attributes:
        departure: Why the client is gone; None while it is there.
    """

    def __init__(self) -> None:
        """Create a monitor of a client that is there."""
        self.departure: Departure | None = None
        self._cancels = False
        self._has_cancelled = False
        self._handler: asyncio.Task[object] | None = None

    @contextmanager
    def watching(self, receive: Receive) -> Iterator[None]:
        """Watch for the block, which runs in the handler's task; a block that is cancelled for it ends quietly.

        Args:
            receive: The request's ASGI `receive`, whose body has been read.
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
        """Whether the client is gone."""
        return self.departure is not None

    def cancel_on_departure(self) -> None:
        """Cancel the handler when the client leaves from now on."""
        self._cancels = True

    def depart(self, departure: Departure) -> None:
        """Note that the client is gone; the first reason stays."""
        self.departure = self.departure or departure
        if self._cancels and self._handler is not None and not self._has_cancelled:
            self._has_cancelled = self._handler.cancel()

    def _on_message(self, received: "asyncio.Future[Message]") -> None:
        if received.cancelled() or received.exception() or received.result()["type"] != "http.disconnect":
            return
        self.depart(Departure.CLIENT_LEFT)
