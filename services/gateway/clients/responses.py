"""gRPC client of stored responses."""

import time
from collections.abc import Callable

import grpc
from grpc import aio

from services.common.rpc.status import rpc_errors
from stack.inference.v1 import responses_pb2, responses_pb2_grpc

_OFF_SECONDS = 10.0
"""How long it is remembered that responses are not stored."""
_REASON = "inference_unavailable"


class GrpcResponseStore:
    """`ResponseStore` over gRPC."""

    def __init__(
        self, channel: aio.Channel, *, timeout_seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Call over `channel`, with a timeout for each call."""
        self._stub = responses_pb2_grpc.StoredResponseServiceStub(channel)
        self._timeout_seconds = timeout_seconds
        self._monotonic = monotonic
        self._off_until = float("-inf")

    async def is_enabled(self) -> bool:
        """Return whether responses are stored; see `ResponseStore.is_enabled`."""
        if self._monotonic() < self._off_until:
            return False
        enabled = await self._status()
        self._off_until = float("-inf") if enabled else self._monotonic() + _OFF_SECONDS
        return enabled

    async def store(self, account_id: str, response_id: str, content: bytes) -> None:
        """Store a response; see `ResponseStore.store`."""
        request = responses_pb2.StoreResponseRequest(account_id=account_id, response_id=response_id, content=content)
        with rpc_errors(unavailable_reason=_REASON):
            await self._stub.StoreResponse(request, timeout=self._timeout_seconds)

    async def get(self, account_id: str, response_id: str) -> bytes:
        """Return the content of a response; see `ResponseStore.get`."""
        request = responses_pb2.GetResponseRequest(account_id=account_id, response_id=response_id)
        with rpc_errors(unavailable_reason=_REASON):
            response = await self._stub.GetResponse(request, timeout=self._timeout_seconds)
        return response.content

    async def delete(self, account_id: str, response_id: str) -> None:
        """Delete a response; see `ResponseStore.delete`."""
        request = responses_pb2.DeleteResponseRequest(account_id=account_id, response_id=response_id)
        with rpc_errors(unavailable_reason=_REASON):
            await self._stub.DeleteResponse(request, timeout=self._timeout_seconds)

    async def delete_account(self, account_id: str) -> None:
        """Delete all responses of an account; see `ResponseStore.delete_account`."""
        request = responses_pb2.DeleteResponsesRequest(account_id=account_id)
        with rpc_errors(unavailable_reason=_REASON):
            await self._stub.DeleteResponses(request, timeout=self._timeout_seconds)

    async def _status(self) -> bool:
        call = self._stub.GetStatus(responses_pb2.GetStatusRequest(), timeout=self._timeout_seconds)
        with rpc_errors(unavailable_reason=_REASON):
            try:
                return (await call).enabled
            except aio.AioRpcError as exc:
                if exc.code() is grpc.StatusCode.UNIMPLEMENTED:
                    return False  # An inference of the previous version.
                raise
