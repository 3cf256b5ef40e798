"""gRPC client of idempotency keys."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from services.common.errors import Unavailable
from services.common.rpc.status import rpc_errors
from services.gateway.requests.idempotency_types import Claim, ClaimState, IdempotencyKey
from stack.inference.v1 import idempotency_pb2, idempotency_pb2_grpc

_OFF_SECONDS = 10.0
"""How long it is remembered that explicit or implicit keys are not supported."""
_REASON = "inference_unavailable"
_STATES = {
    idempotency_pb2.CLAIM_STATE_CLAIMED: ClaimState.CLAIMED,
    idempotency_pb2.CLAIM_STATE_DISABLED: ClaimState.DISABLED,
    idempotency_pb2.CLAIM_STATE_RUNNING: ClaimState.RUNNING,
    idempotency_pb2.CLAIM_STATE_MISMATCHED: ClaimState.MISMATCHED,
    idempotency_pb2.CLAIM_STATE_COMPLETED: ClaimState.COMPLETED,
    idempotency_pb2.CLAIM_STATE_GONE: ClaimState.GONE,
}
_DISABLED = Claim(ClaimState.DISABLED)


class GrpcIdempotencyStore:
    """`IdempotencyStore` over gRPC."""

    def __init__(
        self, channel: aio.Channel, *, timeout_seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Call over `channel`, with a timeout for each call."""
        self._stub = idempotency_pb2_grpc.IdempotencyServiceStub(channel)
        self._timeout_seconds = timeout_seconds
        self._monotonic = monotonic
        self._off_until = {False: float("-inf"), True: float("-inf")}
        self._is_supported = False

    async def claim(self, key: IdempotencyKey, fingerprint: bytes, request_id: str, *, replaces: bool = False) -> Claim:
        """Claim a key; see `IdempotencyStore.claim`."""
        if self._monotonic() < self._off_until[key.is_implicit]:
            return _DISABLED
        fields: dict[str, Any] = {"key_id": key.key_id, "fingerprint": fingerprint, "request_id": request_id}
        if key.is_implicit:
            implicit = idempotency_pb2.ClaimImplicitRequest(key=_key(key), replaces=replaces, **fields)
            call = self._stub.ClaimImplicit(implicit, timeout=self._timeout_seconds)
            claim = await self._claimed(call, implicit=True)
        else:
            explicit = idempotency_pb2.ClaimRequest(key=_key(key), **fields)
            claim = await self._claimed(self._stub.Claim(explicit, timeout=self._timeout_seconds), implicit=False)
        if claim.state is ClaimState.DISABLED:
            self._off_until[key.is_implicit] = self._monotonic() + _OFF_SECONDS
        return claim

    async def rename(self, key: IdempotencyKey, request_id: str, new_request_id: str) -> None:
        """Change the id of a request; see `IdempotencyStore.rename`."""
        request = idempotency_pb2.RenameRequest(key=_key(key), request_id=request_id, new_request_id=new_request_id)
        with rpc_errors(unavailable_reason=_REASON):
            await self._stub.Rename(request, timeout=self._timeout_seconds)

    async def complete(self, key: IdempotencyKey, request_id: str, content: bytes) -> None:
        """End a request; see `IdempotencyStore.complete`."""
        request = idempotency_pb2.CompleteRequest(key=_key(key), request_id=request_id, content=content)
        with rpc_errors(unavailable_reason=_REASON):
            await self._stub.Complete(request, timeout=self._timeout_seconds)

    async def release(self, key: IdempotencyKey, request_id: str) -> None:
        """Free a key; see `IdempotencyStore.release`."""
        request = idempotency_pb2.ReleaseRequest(key=_key(key), request_id=request_id)
        with rpc_errors(unavailable_reason=_REASON):
            await self._stub.Release(request, timeout=self._timeout_seconds)

    async def _claimed(
        self, call: Awaitable[idempotency_pb2.ClaimResponse | idempotency_pb2.ClaimImplicitResponse], *, implicit: bool
    ) -> Claim:
        with rpc_errors(unavailable_reason=_REASON):
            try:
                response = await call
            except aio.AioRpcError as exc:
                if exc.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise
                if implicit or not self._is_supported:
                    return _DISABLED
                # A replica of the previous version does not know the keys that others have claimed.
                message = "Idempotency keys cannot be used while the service is updated. Try again in a moment."
                raise Unavailable(message, reason=_REASON) from exc
        self._is_supported = True
        return Claim(_STATES[response.state], response.request_id, response.content)


def _key(key: IdempotencyKey) -> idempotency_pb2.IdempotencyKey:
    return idempotency_pb2.IdempotencyKey(account_id=key.account_id, digest=key.digest, is_implicit=key.is_implicit)
