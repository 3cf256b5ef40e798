"""Writing of events: one by one, several in one write, or split into pieces."""

from collections.abc import Callable, Iterator
from itertools import pairwise

from tools.groq_standin.exchange import Exchange
from tools.groq_standin.journal import Entry

_EVENTS_PER_YIELD = 32
"""Events after which the task yields to the event loop, so that a long stream does not starve others."""
_DRIP_MS = 1


def drops(data: bytes) -> Iterator[bytes]:
    """Yield `data` in pieces, split within the first multi-byte character, at each third and before the last byte."""
    inside = next((index + 1 for index, byte in enumerate(data) if byte >= 0xC0), 1)
    wanted = {0, inside, len(data) // 3, 2 * len(data) // 3, len(data) - 1, len(data)}
    return (data[start:end] for start, end in pairwise(sorted(cut for cut in wanted if 0 <= cut <= len(data))))


class Outlet:
    """Writes events and counts them in the journal entry.

    Attributes:
        encode: Encodes an event for sending.
    """

    def __init__(
        self,
        exchange: Exchange,
        entry: Entry,
        *,
        encode: Callable[[bytes], bytes] = bytes,
        burst: int = 1,
        drips: bool = False,
    ) -> None:
        self._exchange = exchange
        self._entry = entry
        self.encode = encode
        self._burst = burst
        self._drips = drips
        self._buffer: list[bytes] = []

    async def event(self, data: bytes) -> None:
        """Send one event, or buffer it until there are `burst` events.

        Raises:
            ClientLeft: The connection is closed.
        """
        data = self.encode(data)
        if self._burst > 1:
            self._buffer.append(data)
            if len(self._buffer) >= self._burst:
                await self._write_buffer()
            return
        if self._drips:
            await self.drip(data)
        else:
            await self._exchange.write(data)
        await self._count(1)

    async def flush(self) -> None:
        """Write buffered events and wait until the kernel has accepted all bytes."""
        await self._write_buffer()
        await self._exchange.settle()

    async def drip(self, data: bytes) -> None:
        """Write `data` in pieces, with a pause after each."""
        for drop in drops(data):
            await self._exchange.write(drop)
            await self._exchange.pause(_DRIP_MS)

    async def _write_buffer(self) -> None:
        if self._buffer:
            events, self._buffer = self._buffer, []
            await self._exchange.write(b"".join(events))
            await self._count(len(events))

    async def _count(self, events: int) -> None:
        before = self._entry.events_sent
        self._entry.events_sent += events
        if before // _EVENTS_PER_YIELD != self._entry.events_sent // _EVENTS_PER_YIELD:
            await self._exchange.pause(0)
