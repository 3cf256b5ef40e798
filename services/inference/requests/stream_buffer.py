"""Events of one stream between the task that reads Groq and the caller, who may be slow or gone."""

import asyncio
from itertools import accumulate, takewhile

from services.common.errors import InternalError, ServiceError
from services.inference.chat import Verdict

BYTES_MAX = 1024 * 1024
"""Bytes that may wait for a slow caller before reading pauses."""


class StreamBuffer:
    """Holds a stream's events and how it ended. The caller takes all that waits at once."""

    def __init__(self, *, bytes_max: int = BYTES_MAX) -> None:
        """Create an empty buffer that is full when `bytes_max` bytes wait in it."""
        self._bytes_max = bytes_max
        self._events: list[bytes] = []
        self._bytes = 0
        self._changed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_discarded = False
        self._is_closed = False
        self._verdict: Verdict | None = None
        self._error: BaseException | None = None
        self.is_empty = True
        """Whether nothing was ever put in."""

    @property
    def is_full(self) -> bool:
        """Whether as much waits as may."""
        return not self._has_room.is_set()

    async def until_room(self) -> None:
        """Return when the buffer is not full any more, or when its caller is gone."""
        await self._has_room.wait()

    def put(self, event: bytes) -> None:
        """Add the JSON of an event; it is dropped when the caller is gone."""
        if self._is_discarded:
            return
        self.is_empty = False
        self._events.append(event)
        self._bytes += len(event)
        if self._bytes >= self._bytes_max:
            self._has_room.clear()
        self._changed.set()

    def end(self, verdict: Verdict | None) -> None:
        """Set the verdict, before the task that fills the buffer ends."""
        self._verdict = verdict

    def fail(self, error: ServiceError) -> None:
        """Make the caller's next `take` raise after what waits; the task that fills the buffer may go on."""
        self._error = error
        self._is_closed = True
        self._changed.set()

    def close(self, task: "asyncio.Task[None]") -> None:
        """Close the buffer when the task that fills it has ended, however it ended."""
        if not self._is_closed:
            self._error = InternalError("The service is stopping. Try again.") if task.cancelled() else task.exception()
        self._is_closed = True
        self._changed.set()

    def discard(self) -> None:
        """Drop what waits and what is still to come: the caller is gone."""
        self._is_discarded = True
        self._events = []
        self._error = None  # Its traceback refers to the buffer.
        self._has_room.set()

    async def take(self) -> list[bytes] | None:
        """Return events that wait, at least one and as many as fill the buffer; None when the stream ended well.

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
        """Take as many events as the buffer is meant for, at least one: a message carries no more."""
        ends = accumulate(map(len, self._events))
        count = max(1, sum(1 for _ in takewhile(lambda end: end <= self._bytes_max, ends)))
        events, self._events = self._events[:count], self._events[count:]
        self._bytes = sum(map(len, self._events))
        if self._bytes < self._bytes_max:
            self._has_room.set()
        return events

    def verdict(self) -> Verdict | None:
        """Return the verdict, once `take` has returned None."""
        return self._verdict
