"""Signed receipts, and the public keys to verify them with.

Inference signs, from its own ledger. The gateway has no key, so it cannot make up a receipt.
"""

import asyncio
from typing import Protocol

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from services.common.errors import NotFound, ServiceError
from services.common.ids import Kind, is_id
from services.common.runtime.clock import Clock
from services.gateway.apis.receipts import request_not_found
from services.gateway.http.bearer import bearer_token, client_address
from services.gateway.requests.ports import Authenticator

_MEDIA_TYPE = "application/jose"
_KEYS_MEDIA_TYPE = "application/jwk-set+json"
_UNSIGNED = "receipts_unsigned"
_KEYS_SECONDS = 60.0
"""How long the gateway remembers the public keys."""
_RETRY_SECONDS = 1.0
_CACHE_CONTROL = "public, max-age=300"


class ReceiptSigner(Protocol):
    """Port to inference's signed receipts. Methods raise a `ServiceError` if it cannot be reached."""

    async def sign(self, request_id: str, *, account_id: str) -> str:
        """Return the receipt of an account's request, as a JWS.

        Raises:
            NotFound: Receipts are not signed (`receipts_unsigned`), or the account has no such request.
        """

    async def key_set(self) -> bytes:
        """Return the public keys as a JWK Set.

        Raises:
            NotFound: Receipts are not signed (`receipts_unsigned`).
        """


class SignedReceipts:
    """The endpoints of signed receipts. They answer 404 while receipts are not signed."""

    def __init__(self, authenticator: Authenticator, signer: ReceiptSigner, clock: Clock) -> None:
        self._authenticator = authenticator
        self._signer = signer
        self._clock = clock
        self._reading = asyncio.Lock()
        self._key_set = b""
        self._failure: ServiceError | None = None
        self._read_again_at = float("-inf")

    async def receipt(self, request: Request) -> Response:
        """`GET /api/v1/usage/{request_id}/jws`: return the signed receipt of one request of the account."""
        principal = await self._authenticator.authenticate(bearer_token(request), address=client_address(request))
        request_id = request.path_params["request_id"]
        if not is_id(request_id, Kind.REQUEST):
            raise request_not_found(request_id)
        try:
            receipt = await self._signer.sign(request_id, account_id=principal.account_id)
        except NotFound as exc:
            raise exc if exc.reason == _UNSIGNED else request_not_found(request_id) from exc
        return Response(receipt, media_type=_MEDIA_TYPE)

    async def key_set(self, request: Request) -> Response:
        """`GET /.well-known/jwks.json`: return the public keys. It needs no API key, so it asks inference rarely."""
        async with self._reading:
            if self._clock.monotonic() >= self._read_again_at:
                await self._read_key_set()
        if self._key_set:
            return Response(self._key_set, media_type=_KEYS_MEDIA_TYPE, headers={"cache-control": _CACHE_CONTROL})
        raise self._failure or HTTPException(404)

    async def _read_key_set(self) -> None:
        """Read the keys. If that fails, those that are known are kept, and all callers of the next second get them."""
        seconds, self._failure = _KEYS_SECONDS, None
        try:
            self._key_set = await self._signer.key_set()
        except NotFound:
            self._key_set = b""
        except ServiceError as exc:
            seconds, self._failure = _RETRY_SECONDS, exc
        self._read_again_at = self._clock.monotonic() + seconds
