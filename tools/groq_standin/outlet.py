"""How a stream's events leave: one by one, several in a write, or torn into pieces."""

from collections.abc import Callable, Iterator
from itertools import pairwise

from tools.groq_standin.exchange import Exchange
from tools.groq_standin.journal import Entry

_EVENTS_PER_TURN = 32
"""After so many events without a pause the loop turns once, so that a long stream cannot starve the others."""
_DRIP_MS = 1


def drops(data: bytes) -> Iterator[bytes]:
    """Yield `data` in pieces, cut inside its first multi-byte character, at its thirds and before its last byte."""
    inside = next((index + 1 for index, byte in enumerate(data) if byte >= 0xC0), 1)
    wanted = {0, inside, len(data) // 3, 2 * len(data) // 3, len(data) - 1, len(data)}
    return (data[start:end] for start, end in pairwise(sorted(cut for cut in wanted if 0 <= cut <= len(data))))


class Outlet:
    """Writes events and counts those written in the journal's entry.

    Attributes:
        encode: Gives an event the form in which it leaves.
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
        self._held: list[bytes] = []

    async def event(self, data: bytes) -> None:
        """Send one event, or hold it until `burst` of them are together.

        Raises:
            ClientLeft: The connection is gone.
        """
        data = self.encode(data)
        if self._burst > 1:
            self._held.append(data)
            if len(self._held) >= self._burst:
                await self._write_held()
            return
        if self._drips:
            await self.drip(data)
        else:
            await self._exchange.write(data)
        await self._count(1)

    async def flush(self) -> None:
        """Write what is held and wait until the kernel has everything."""
        await self._write_held()
        await self._exchange.settle()

    async def drip(self, data: bytes) -> None:
        """Write `data` in pieces that arrive one by one."""
        for drop in drops(data):
            await self._exchange.write(drop)
            await self._exchange.pause(_DRIP_MS)

    async def _write_held(self) -> None:
        if self._held:
            held, self._held = self._held, []
            await self._exchange.write(b"".join(held))
            await self._count(len(held))

    async def _count(self, events: int) -> None:
        before = self._entry.events_sent
        self._entry.events_sent += events
        if before // _EVENTS_PER_TURN != self._entry.events_sent // _EVENTS_PER_TURN:
            await self._exchange.pause(0)
