"""Writing to clients that read slowly: they may take as long as they like, as long as they take something."""

import asyncio
from collections.abc import Callable

_LOOKS = 8
"""Looks at the progress in the time of a stall, which may therefore last an eighth longer."""


class ClientStalled(OSError):
    """The client is connected and has taken nothing for the time of a stall."""


class WriteFlow:
    """Writes to one connection, waits while its buffer is full, and notices when nothing moves.

    Progress is what the kernel has accepted. With `TCP_NOTSENT_LOWAT` (listener.py) the kernel accepts no more than the
    client's side makes room for, so this is the client's own pace.

    Attributes:
        is_paused: The transport's buffer is full, and `drain` waits.
        is_stalled: The client took nothing for the time of a stall. It is given that time once more to read the end of
            its response; then the connection is aborted.
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
        """Write to `transport`; call `on_stall` when the client has stalled."""
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
        """Write at once, whatever waits before it."""
        self._written += len(data)
        self._transport.write(data)

    async def drain(self) -> None:
        """Return when there is room in the buffer.

        Raises:
            ClientStalled: There is none, and the client takes nothing.
        """
        while self.is_paused:
            if self.is_stalled:
                raise ClientStalled("the client reads nothing")
            if self._resumed is None:
                self._resumed = asyncio.Event()
            self._resumed.clear()
            await self._resumed.wait()

    def pause(self) -> None:
        """Have `drain` wait: the transport's buffer is full."""
        self.is_paused = True
        self.watch()

    def resume(self) -> None:
        """Let `drain` return: the transport's buffer has room."""
        self.is_paused = False
        self._wake()

    def watch(self) -> None:
        """Watch the progress until nothing is left to write."""
        if self._timer is None and self._unsent():
            self._accepted, self._moved_at = self._written - self._unsent(), self._loop.time()
            self._look_again()

    def close(self) -> None:
        """Let every `drain` return: the connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
        self._on_stall = _nothing  # The connection would otherwise hold itself.
        self.is_paused = False
        self._wake()

    def _unsent(self) -> int:
        return self._transport.get_write_buffer_size()

    def _look_again(self) -> None:
        self._timer = self._loop.call_later(self._stall_seconds / _LOOKS, self._look)

    def _look(self) -> None:
        self._timer = None
        unsent, now = self._unsent(), self._loop.time()
        if not unsent:
            return
        if self._written - unsent > self._accepted:
            self._accepted, self._moved_at = self._written - unsent, now
        elif now - self._moved_at >= self._stall_seconds:
            self._moved_at = now
            self._stall()
        self._look_again()

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
    """Do nothing."""
