"""gRPC client that records refused requests in quota."""

from collections.abc import Sequence

from grpc import aio

from services.common.rpc.status import rpc_errors
from services.gateway.keys.refusals import RefusedRequests
from stack.quota.v1 import quota_pb2, quota_pb2_grpc


class GrpcRefusalRecord:
    """A `RefusalRecord` over gRPC."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Call over `channel`. One call takes at most `timeout_seconds`."""
        self._stub = quota_pb2_grpc.QuotaServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def record(self, refusals: Sequence[RefusedRequests]) -> None:
        """Add numbers; see `RefusalRecord.record`."""
        request = quota_pb2.RecordRefusalsRequest(refusals=map(_refused_requests, refusals))
        with rpc_errors(unavailable_reason="quota_unavailable"):
            await self._stub.RecordRefusals(request, timeout=self._timeout_seconds)


def _refused_requests(one: RefusedRequests) -> quota_pb2.RefusedRequests:
    return quota_pb2.RefusedRequests(
        key_id=one.key.key_id,
        account_id=one.key.quota_account_id,
        status=one.status,
        code=one.code,
        count=one.count,
        age_seconds=int(one.age_seconds),
    )
