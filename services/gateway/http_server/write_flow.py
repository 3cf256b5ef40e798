"""Write flow control of one connection. Clients may read slowly, but must make progress."""

import asyncio
from collections.abc import Callable

_CHECKS_PER_STALL = 8
"""Progress checks per stall time. A stall is therefore detected up to an eighth late."""


class ClientStalled(OSError):
    """The client is connected but has accepted no data for the stall time."""


class WriteFlow:
    """Writes to one connection, waits while its buffer is full, and detects stalled clients.

    Progress is measured by the bytes that the kernel accepts. With `TCP_NOTSENT_LOWAT` (listener.py), the kernel
    accepts only as much as the client can receive, so progress follows the client's pace.

    Attributes:
        is_paused: Whether the transport's buffer is full, so that `drain` waits.
        is_stalled: Whether the client has accepted nothing for the stall time. After a second stall time, in which it
        can
            still read the end of its response, the connection is aborted.
    """

    __slots__ = (
        "_accepted",
        "_loop",
        "_moved_at",
        "_on_stall",
        "_resumed",
        "_stall_seconds",
        "_timer",
        "_transport",
        "_written",
        "is_paused",
        "is_stalled",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        *,
        stall_seconds: float,
        on_stall: Callable[[], None],
    ) -> None:
        """Create a flow on `transport`. `on_stall` is called when the client has stalled for `stall_seconds`."""
        self._transport = transport
        self._loop = loop
        self._stall_seconds = stall_seconds
        self._on_stall = on_stall
        self.is_paused = False
        self._resumed: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._written = 0
        self._accepted = 0
        self._moved_at = 0.0
        self.is_stalled = False

    def write(self, data: bytes) -> None:
        """Write data without waiting for space in the buffer."""
        self._written += len(data)
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait until there is space in the buffer.

        Raises:
            ClientStalled: The buffer is full and the client reads nothing.
        """
        while self.is_paused:
            if self.is_stalled:
                raise ClientStalled("the client reads nothing")
            if self._resumed is None:
                self._resumed = asyncio.Event()
            self._resumed.clear()
            await self._resumed.wait()

    def pause(self) -> None:
        """Make `drain` wait, because the transport's buffer is full."""
        self.is_paused = True
        self.watch()

    def resume(self) -> None:
        """Let `drain` return, because the transport's buffer has space."""
        self.is_paused = False
        self._wake()

    def watch(self) -> None:
        """Check the progress periodically until everything is written."""
        if self._timer is None and self._unsent():
            self._accepted, self._moved_at = self._written - self._unsent(), self._loop.time()
            self._schedule_check()

    def close(self) -> None:
        """Stop checking and let `drain` return, because the connection is lost."""
        if self._timer is not None:
            self._timer.cancel()
        self._on_stall = _nothing  # Breaks the reference cycle with the connection.
        self.is_paused = False
        self._wake()

    def _unsent(self) -> int:
        return self._transport.get_write_buffer_size()

    def _schedule_check(self) -> None:
        self._timer = self._loop.call_later(self._stall_seconds / _CHECKS_PER_STALL, self._check)

    def _check(self) -> None:
        self._timer = None
        unsent, now = self._unsent(), self._loop.time()
        if not unsent:
            return
        if self._written - unsent > self._accepted:
            self._accepted, self._moved_at = self._written - unsent, now
        elif now - self._moved_at >= self._stall_seconds:
            self._moved_at = now
            self._stall()
        self._schedule_check()

    def _stall(self) -> None:
        if self.is_stalled:
            self._transport.abort()
            return
        self.is_stalled = True
        self._wake()
        self._on_stall()

    def _wake(self) -> None:
        if self._resumed is not None:
            self._resumed.set()


def _nothing() -> None:
    pass
