"""Look-ups of a host's addresses. Concurrent connections share one, whose result is used for ten seconds."""

import asyncio
import socket
from collections.abc import Sequence

import aiohappyeyeballs
from aiohappyeyeballs import AddrInfoType

from services.inference.http.origin import Origin

_CACHE_SECONDS = 10.0
_NEXT_ADDRESS_SECONDS = 0.25
"""Time after which the next address is tried too (RFC 8305)."""


class Resolver:
    """Opens sockets to one server, at any of its addresses."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._lookup: asyncio.Task[Sequence[AddrInfoType]] | None = None
        self._expires_at = 0.0

    async def open_socket(self) -> socket.socket:
        """Connect to the first address that answers and return the socket.

        Raises:
            OSError: The look-up failed, or no address could be connected to.
            UnicodeError: The host is not a valid name.
        """
        addresses = await self._addresses()
        return await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS)

    async def _addresses(self) -> Sequence[AddrInfoType]:
        lookup = self._lookup
        if lookup is None or (lookup.done() and asyncio.get_running_loop().time() >= self._expires_at):
            lookup = self._lookup = asyncio.create_task(self._look_up())
        return await asyncio.shield(lookup)  # Others wait for it too.

    async def _look_up(self) -> Sequence[AddrInfoType]:
        loop = asyncio.get_running_loop()
        flags = socket.AI_ADDRCONFIG
        found = await loop.getaddrinfo(self._origin.host, self._origin.port, type=socket.SOCK_STREAM, flags=flags)
        self._expires_at = loop.time() + _CACHE_SECONDS
        return found
