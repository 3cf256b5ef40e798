"""Reading from one connection: paused while more has come than can be used, and dropped once nothing more is wanted."""

import asyncio
import math

KEPT_BYTES_MAX = 65_536
"""Of a body that the application does not take, or of requests behind the one under way; then reading pauses."""
_LINGER_IDLE_SECONDS, _LINGER_SECONDS_MAX = 5.0, 30.0
"""How long a client may go on sending what is dropped, to read its response at last."""


class Reading:
    """What has been read and not parsed, and whether the transport reads on.

    Attributes:
        is_dropped: Nothing more is wanted; what comes is dropped.
        is_paused: The transport does not read.
        unparsed: Bytes of requests behind the one under way.
    """

    __slots__ = ("_lingers_until", "_loop", "_transport", "is_dropped", "is_paused", "unparsed")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._lingers_until = math.inf
        self.is_dropped = False
        self.is_paused = False
        self.unparsed = bytearray()

    def keep(self, data: bytes) -> None:
        """Keep bytes for later; too many pause the reading."""
        self.unparsed += data
        if len(self.unparsed) > KEPT_BYTES_MAX:
            self.pause()

    def take(self) -> bytes:
        """Return what was kept, which is kept no longer."""
        data = bytes(self.unparsed)
        self.unparsed.clear()
        return data

    def drop(self) -> None:
        """Want nothing more."""
        self.is_dropped = True
        self.unparsed.clear()

    def pause(self) -> None:
        """Leave in the kernel what comes next."""
        if not (self.is_paused or self.is_dropped or self._transport.is_closing()):
            self.is_paused = True
            self._transport.pause_reading()

    def resume(self) -> bool:
        """Read on, unless too much is kept; return whether that is new."""
        if not self.is_paused or len(self.unparsed) > KEPT_BYTES_MAX or self._transport.is_closing():
            return False
        self.is_paused = False
        self._transport.resume_reading()
        return True

    def linger(self) -> float:
        """Say that nothing more will be written, and drop what comes until the client has closed too.

        A connection that is closed while its client still sends is reset, and the client may lose its response unread.
        Returns the deadline.
        """
        self.drop()
        self.resume()
        if self._transport.is_closing() or not self._transport.can_write_eof():
            self._transport.close()
            return math.inf
        self._transport.write_eof()
        self._lingers_until = self._loop.time() + _LINGER_SECONDS_MAX
        return self._loop.time() + _LINGER_IDLE_SECONDS

    def linger_on(self) -> float:
        """Return the deadline after more has come that is dropped; none before `linger`."""
        is_lingering = self._lingers_until != math.inf
        return min(self._loop.time() + _LINGER_IDLE_SECONDS, self._lingers_until) if is_lingering else math.inf
