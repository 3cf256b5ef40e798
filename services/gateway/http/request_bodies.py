"""Request bodies: read within bounds in size, time and encoding, and never too many at the same time."""

import asyncio
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from services.common.address_prefix import address_prefix
from services.common.concurrency.byte_budget import ByteBudget
from services.common.errors import TooLarge
from services.gateway.http.bearer import client_address

SECONDS_MAX = 60.0
"""Longest time that a body may take to arrive."""
_IDENTITY = ("", "identity")
_LENGTH_DIGITS_MAX = 19


def refuse_encoded(request: Request) -> None:
    """Return when a body comes as it is.

    Raises:
        HTTPException: 415: it is compressed. What we do accept is told as RFC 9110, 15.5.16 asks for.
    """
    encoding = request.headers.get("content-encoding", "").strip()
    if encoding.lower() not in _IDENTITY:
        message = f"Unsupported content-encoding '{encoding[:100]}': send the body uncompressed, without that header."
        raise HTTPException(415, message, headers={"accept-encoding": "identity"})


def content_length(scope: Scope) -> int | None:
    """Return the announced length of a body; None when there is none that is a number of bytes."""
    text = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return int(text) if text.isdigit() and len(text) <= _LENGTH_DIGITS_MAX else None


class RequestBodies:
    """Reads request bodies."""

    def __init__(self, budget: ByteBudget, *, bytes_max: int) -> None:
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
        if (content_length(request.scope) or 0) > self._bytes_max:
            raise self._too_large()
        try:
            async with asyncio.timeout(SECONDS_MAX):
                return await self._read(request, (key_id, address_prefix(client_address(request))))
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
