"""Buffer between the task that reads a stream from Groq and its caller."""

import asyncio
from itertools import accumulate, takewhile

from services.common.errors import InternalError, ServiceError
from services.common.verdict import RowVerdict

BYTES_MAX = 1024 * 1024
"""Buffered bytes at which reading from Groq pauses."""


class StreamBuffer:
    """A buffer of a stream's events and its verdict or error."""

    def __init__(self, *, bytes_max: int = BYTES_MAX) -> None:
        """Create an empty buffer.

        Args:
            bytes_max: Number of bytes at which the buffer is full.
        """
        self._bytes_max = bytes_max
        self._events: list[bytes] = []
        self._bytes = 0
        self._changed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_discarded = False
        self._is_closed = False
        self._verdict: RowVerdict | None = None
        self._error: BaseException | None = None
        self.is_empty = True
        """Whether no event was ever added."""

    @property
    def is_full(self) -> bool:
        """Whether the size limit is reached."""
        return not self._has_room.is_set()

    async def until_room(self) -> None:
        """Wait until the buffer is not full or is discarded."""
        await self._has_room.wait()

    def put(self, event: bytes) -> None:
        """Add the JSON of an event; a discarded buffer drops it."""
        if self._is_discarded:
            return
        self.is_empty = False
        self._events.append(event)
        self._bytes += len(event)
        if self._bytes >= self._bytes_max:
            self._has_room.clear()
        self._changed.set()

    def end(self, verdict: RowVerdict | None) -> None:
        """Set the verdict. Call it before the task that fills the buffer ends."""
        self._verdict = verdict

    def fail(self, error: ServiceError) -> None:
        """Make `take` raise `error` after the buffered events. The task that fills the buffer may continue."""
        self._error = error
        self._is_closed = True
        self._changed.set()

    def close(self, task: "asyncio.Task[None]") -> None:
        """Close the buffer with the result of the task that fills it; a callback for `Task.add_done_callback`."""
        if not self._is_closed:
            stopping = "The service is restarting. Try again in a moment."
            self._error = InternalError(stopping) if task.cancelled() else task.exception()
        self._is_closed = True
        self._changed.set()

    def discard(self) -> None:
        """Drop buffered and future events, after the caller has disconnected."""
        self._is_discarded = True
        self._events = []
        self._error = None  # Break the reference cycle: the error's traceback refers to the buffer.
        self._has_room.set()

    async def take(self) -> list[bytes] | None:
        """Wait for events and return at least one, at most as many as fill the buffer; None at the end of a stream.

        Raises:
            BaseException: The stream's error, after its last event.
        """
        while not self._events:
            if self._is_closed:
                if self._error is not None:
                    raise self._error
                return None
            self._changed.clear()
            await self._changed.wait()
        if self._bytes > self._bytes_max:
            return self._take_some()
        events, self._events, self._bytes = self._events, [], 0
        self._has_room.set()
        return events

    def _take_some(self) -> list[bytes]:
        """Take at least one event, and at most as many bytes as fit into one message."""
        ends = accumulate(map(len, self._events))
        count = max(1, sum(1 for _ in takewhile(lambda end: end <= self._bytes_max, ends)))
        events, self._events = self._events[:count], self._events[count:]
        self._bytes = sum(map(len, self._events))
        if self._bytes < self._bytes_max:
            self._has_room.set()
        return events

    def verdict(self) -> RowVerdict | None:
        """Return the verdict. Call it after `take` has returned None."""
        return self._verdict
