"""Read flow control of one connection."""

import asyncio
import math

KEPT_BYTES_MAX = 65_536
"""Maximum bytes kept of an unread body or of pipelined requests. Beyond it, reading is paused."""
_LINGER_IDLE_SECONDS, _LINGER_SECONDS_MAX = 5.0, 30.0
"""How long a client may continue to send discarded data before it reads its response."""


class Reading:
    """Controls reading from a transport, and keeps bytes that are not parsed yet.

    Attributes:
        is_dropped: Whether all further data is discarded.
        is_paused: Whether reading is paused.
        unparsed: Bytes of pipelined requests.
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
        """Keep bytes for later, and pause reading if there are too many."""
        self.unparsed += data
        if len(self.unparsed) > KEPT_BYTES_MAX:
            self.pause()

    def take(self) -> bytes:
        """Return the kept bytes and clear them."""
        data = bytes(self.unparsed)
        self.unparsed.clear()
        return data

    def drop(self) -> None:
        """Discard the kept bytes and all further data."""
        self.is_dropped = True
        self.unparsed.clear()

    def pause(self) -> None:
        """Pause reading."""
        if not (self.is_paused or self.is_dropped or self._transport.is_closing()):
            self.is_paused = True
            self._transport.pause_reading()

    def resume(self) -> bool:
        """Resume reading, unless too many bytes are kept. Return whether reading was resumed."""
        if not self.is_paused or len(self.unparsed) > KEPT_BYTES_MAX or self._transport.is_closing():
            return False
        self.is_paused = False
        self._transport.resume_reading()
        return True

    def linger(self) -> float:
        """Close the sending side, discard further data until the client closes too, and return the deadline for that.

        Closing a connection while its client is still sending resets it, and the client may lose its response.
        """
        self.drop()
        self.resume()
        if self._transport.is_closing() or not self._transport.can_write_eof():
            self._transport.close()
            return math.inf
        self._transport.write_eof()
        self._lingers_until = self._loop.time() + _LINGER_SECONDS_MAX
        return self._loop.time() + _LINGER_IDLE_SECONDS

    def extend_linger(self) -> float:
        """Return the new deadline after further data was discarded; inf if `linger` has not been called."""
        is_lingering = self._lingers_until != math.inf
        return min(self._loop.time() + _LINGER_IDLE_SECONDS, self._lingers_until) if is_lingering else math.inf
