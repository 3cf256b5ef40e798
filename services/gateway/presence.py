"""Whether a client still listens, noticed at once, and how many requests may go on for clients that left."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from starlette.types import Message, Receive


class Departure(StrEnum):
    """Why a request has no client any more."""

    DISCONNECTED = "disconnected"
    REVOKED = "revoked"
    """Its key was revoked, and its stream ended."""
    STALLED = "stalled"
    """It was connected and read nothing."""


class Leavers:
    """Bounds the requests that are followed to their end though their client left."""

    def __init__(self, at_most: int) -> None:
        """Follow so many at the same time."""
        self._at_most = at_most
        self.count = 0

    def admit(self) -> bool:
        """Count one more; false when that is one too many, and then it is not counted."""
        if self.count >= self._at_most:
            return False
        self.count += 1
        return True

    def release(self) -> None:
        """Count one less."""
        self.count -= 1


class Presence:
    """Watches one client from the end of its request's body on.

    A request whose client left is followed to its end, to learn its verdict. Where too many are, its handler is
    cancelled: inference goes on by its own bound, and the hold is quota's sweeper's.

    Attributes:
        departure: Why the client is gone; None while it is there.
    """

    def __init__(self, leavers: Leavers) -> None:
        """Begin with a client that is there."""
        self.departure: Departure | None = None
        self._is_followed = False
        self._was_dropped = False
        self._handler: asyncio.Task[object] | None = None
        self._leavers = leavers

    @contextmanager
    def watching(self, receive: Receive) -> Iterator[None]:
        """Watch for the block, which the handler that may be cancelled runs; a cancelled block ends quietly."""
        self._handler = handler = asyncio.current_task()
        assert handler is not None, "watching needs a task"
        watch = asyncio.ensure_future(receive())
        watch.add_done_callback(self._on_message)
        try:
            yield
        except asyncio.CancelledError:
            if not self._was_dropped:
                raise
            handler.uncancel()
        finally:
            watch.remove_done_callback(self._on_message)
            watch.cancel()
            self._end()

    @property
    def has_left(self) -> bool:
        """Whether the client is gone."""
        return self.departure is not None

    def write_off(self, departure: Departure) -> None:
        """Take the client for gone: whatever comes of its request is not for it any more. The first reason counts."""
        self.departure = self.departure or departure
        if self._handler is None or self._is_followed or self._was_dropped:
            return
        self._is_followed = self._leavers.admit()
        if not self._is_followed:
            self._was_dropped = self._handler.cancel()

    def _on_message(self, received: "asyncio.Future[Message]") -> None:
        if received.cancelled() or received.exception() or received.result()["type"] != "http.disconnect":
            return
        self.write_off(Departure.DISCONNECTED)

    def _end(self) -> None:
        self._handler = None
        if self._is_followed:
            self._is_followed = False
            self._leavers.release()
