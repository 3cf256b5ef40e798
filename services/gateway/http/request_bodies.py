"""Reading of request bodies within limits on size, time and memory."""

import asyncio
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from services.common.address_prefix import address_prefix
from services.common.concurrency.byte_budget import ByteBudget
from services.common.errors import TooLarge
from services.common.web.bodies import content_length, refuse_encoded
from services.gateway.http.bearer import client_address

SECONDS_MAX = 60.0
"""Maximum time to receive a body."""


class RequestBodies:
    """Reads request bodies within limits."""

    def __init__(self, budget: ByteBudget, *, bytes_max: int, remedy: str = "Shorten the messages.") -> None:
        """Limit each body to `bytes_max` bytes, and all bodies together to `budget`.

        `remedy` tells clients what to do about a body that is too large.
        """
        self._budget = budget
        self._bytes_max = bytes_max
        self._remedy = remedy

    async def read(self, request: Request, key_id: str) -> bytes:
        """Return the body of a request that was authenticated with the key `key_id`.

        Raises:
            HTTPException: The body is compressed (415) or too slow (408).
            TooLarge: The body is larger than the limit.
            Throttled: The key or the client's address is sending too many bytes.
            Unavailable: Too many bytes are being received in total.
            ClientDisconnect: The client disconnected.
        """
        refuse_encoded(request)
        if (content_length(request.scope) or 0) > self._bytes_max:
            raise self._too_large()
        try:
            async with asyncio.timeout(SECONDS_MAX):
                return await self._read(request, (key_id, address_prefix(client_address(request))))
        except TimeoutError as exc:
            raise HTTPException(
                408, f"The request body did not arrive within {SECONDS_MAX:.0f} s. Send it again."
            ) from exc

    async def _read(self, request: Request, owners: Sequence[str]) -> bytes:
        # A single growing buffer is returned to the system. Many small parts would fragment the heap.
        body = bytearray()
        with self._budget.allocate(owners) as allocation:
            while (message := await request.receive())["type"] != "http.disconnect":
                part = message.get("body", b"")
                is_last = not message.get("more_body", False)
                if allocation.size + len(part) > self._bytes_max:
                    raise self._too_large()
                if is_last and not body:
                    return bytes(part)
                allocation.take(len(part))
                body += part
                if is_last:
                    return bytes(body)
        raise ClientDisconnect

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The request body is larger than {self._bytes_max:,} bytes. {self._remedy}",
            reason="request_too_large",
        )
