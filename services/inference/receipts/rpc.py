"""gRPC servicer of signed receipts."""

from services.common.rpc.types import Context
from services.inference.ledger.checks import check_required_id
from services.inference.receipts.signer import ReceiptSigner
from stack.inference.v1 import receipts_pb2, receipts_pb2_grpc


class ReceiptService(receipts_pb2_grpc.ReceiptServiceServicer):
    """Signs receipts, and returns the keys to verify them with."""

    def __init__(self, signer: ReceiptSigner) -> None:
        self._signer = signer

    async def SignReceipt(
        self, request: receipts_pb2.SignReceiptRequest, context: Context
    ) -> receipts_pb2.SignReceiptResponse:
        """Return the signed receipt of a request."""
        check_required_id("request_id", request.request_id)
        check_required_id("account_id", request.account_id)
        receipt = await self._signer.sign(request.request_id, account_id=request.account_id)
        return receipts_pb2.SignReceiptResponse(receipt=receipt)

    async def GetReceiptKeys(
        self, request: receipts_pb2.GetReceiptKeysRequest, context: Context
    ) -> receipts_pb2.GetReceiptKeysResponse:
        """Return the public keys."""
        return receipts_pb2.GetReceiptKeysResponse(keys_json=self._signer.key_set)
