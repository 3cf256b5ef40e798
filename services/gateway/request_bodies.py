"""Request bodies: read within bounds in size, time and encoding, and never too many at the same time."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from services.common import memory
from services.common.client_block import client_block
from services.common.errors import Throttled, TooLarge, Unavailable
from services.gateway.credentials import client_address

SECONDS_MAX = 60.0
"""Longest time that a body may take to arrive."""
_IDENTITY = ("", "identity")
_MUCH_BYTES = 16 * 1024 * 1024
_GIVE_BACK_SECONDS = 1.0
"""From the end of a burst of more than `_MUCH_BYTES` until its memory is given back: it may go on at once."""
_RETRY = {"retry_after_seconds": "1"}


def refuse_encoded(request: Request) -> None:
    """Return when a body comes as it is.

    Raises:
        HTTPException: 415: it is compressed. What we do accept is told as RFC 9110, 15.5.16 asks for.
    """
    encoding = request.headers.get("content-encoding", "").strip()
    if encoding.lower() not in _IDENTITY:
        message = f"Unsupported content-encoding '{encoding[:100]}': send the body uncompressed, without that header."
        raise HTTPException(415, message, headers={"accept-encoding": "identity"})


class ReceiveBudget:
    """Bounds the bytes of all request bodies that have begun to arrive and are not complete.

    What has arrived counts, not what was announced: an announcement costs nothing.
    """

    def __init__(self, *, total_max: int, share_max: int) -> None:
        """Admit `total_max` bytes in all, and `share_max` of each owner."""
        self._total_max = total_max
        self._share_max = share_max
        self._total = 0
        self._peak = 0
        self._shares: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Bytes that count now."""
        return self._total

    @contextmanager
    def lease(self, owners: Sequence[str]) -> Iterator["Lease"]:
        """Count a body that belongs to `owners`, such as a key and an address, until the end of the block."""
        lease = Lease(self, owners)
        try:
            yield lease
        finally:
            self.count(owners, -lease.size)

    def check(self, owners: Sequence[str], size: int) -> None:
        """Return when there is room for `size` more bytes.

        Raises:
            Throttled: Not for one of the owners.
            Unavailable: Not for anybody.
        """
        if any(self._shares[owner] + size > self._share_max for owner in owners):
            message = "Too many large requests of yours are being received at the same time; send fewer at once."
            raise Throttled(message, reason="too_many_bytes_at_once", metadata=_RETRY)
        if self._total + size > self._total_max:
            raise Unavailable(
                "The service is receiving too much at once; try again.", reason="overloaded", metadata=_RETRY
            )

    def count(self, owners: Sequence[str], size: int) -> None:
        """Count `size` more bytes, or fewer where it is negative."""
        self._total += size
        for owner in owners:
            self._shares[owner] += size
            if not self._shares[owner]:
                del self._shares[owner]
        self._peak = max(self._peak, self._total)
        if not self._total and self._peak > _MUCH_BYTES:
            self._peak = 0
            asyncio.get_running_loop().call_later(_GIVE_BACK_SECONDS, memory.give_back)


class Lease:
    """One body's part of a budget.

    Attributes:
        size: Its bytes so far.
    """

    __slots__ = ("_budget", "_owners", "size")

    def __init__(self, budget: ReceiveBudget, owners: Sequence[str]) -> None:
        self._budget = budget
        self._owners = owners
        self.size = 0

    def take(self, size: int) -> None:
        """Count `size` more bytes; raises as `ReceiveBudget.check`."""
        self._budget.check(self._owners, size)
        self._budget.count(self._owners, size)
        self.size += size


class RequestBodies:
    """Reads request bodies."""

    def __init__(self, budget: ReceiveBudget, *, bytes_max: int) -> None:
        """Read bodies of at most `bytes_max` bytes each, within `budget` all together."""
        self._budget = budget
        self._bytes_max = bytes_max

    async def read(self, request: Request, key_id: str) -> bytes:
        """Return the body of a request that was made with a key.

        Raises:
            HTTPException: It is compressed (415), or too slow (408).
            TooLarge: It is over the bound.
            Throttled: Too much is being received of the key, or from the address.
            Unavailable: Too much is being received in all.
            ClientDisconnect: The client left.
        """
        refuse_encoded(request)
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._bytes_max:
            raise self._too_large()
        try:
            async with asyncio.timeout(SECONDS_MAX):
                return await self._read(request, (key_id, client_block(client_address(request))))
        except TimeoutError as exc:
            raise HTTPException(408, f"The request body did not arrive within {SECONDS_MAX:.0f} s.") from exc

    async def _read(self, request: Request, owners: Sequence[str]) -> bytes:
        # Grows in one piece of memory, which the system gets back; many pieces would stay behind as holes.
        body = bytearray()
        with self._budget.lease(owners) as lease:
            while (message := await request.receive())["type"] != "http.disconnect":
                part = message.get("body", b"")
                is_last = not message.get("more_body", False)
                if lease.size + len(part) > self._bytes_max:
                    raise self._too_large()
                if is_last and not body:
                    return bytes(part)
                lease.take(len(part))
                body += part
                if is_last:
                    return bytes(body)
        raise ClientDisconnect

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The request body is larger than {self._bytes_max:,} bytes; shorten the messages.",
            reason="request_too_large",
        )
