"""gRPC client of signed receipts."""

from grpc import aio

from services.common.rpc.status import rpc_errors
from stack.inference.v1 import receipts_pb2, receipts_pb2_grpc

_REASON = "inference_unavailable"


class GrpcReceiptSigner:
    """`ReceiptSigner` over gRPC."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Call over `channel`, with a timeout for each call."""
        self._stub = receipts_pb2_grpc.ReceiptServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def sign(self, request_id: str, *, account_id: str) -> str:
        """Return the receipt of an account's request; see `ReceiptSigner.sign`."""
        request = receipts_pb2.SignReceiptRequest(request_id=request_id, account_id=account_id)
        with rpc_errors(unavailable_reason=_REASON):
            response = await self._stub.SignReceipt(request, timeout=self._timeout_seconds)
        return response.receipt

    async def key_set(self) -> bytes:
        """Return the public keys; see `ReceiptSigner.key_set`."""
        with rpc_errors(unavailable_reason=_REASON):
            response = await self._stub.GetReceiptKeys(
                receipts_pb2.GetReceiptKeysRequest(), timeout=self._timeout_seconds
            )
        return response.keys_json
