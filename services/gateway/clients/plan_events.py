"""gRPC client of auth's plan events."""

from grpc import aio

from services.common.rpc.status import rpc_errors
from stack.auth.v1 import plans_pb2, plans_pb2_grpc

_STATUSES = {
    plans_pb2.PLAN_EVENT_STATUS_APPLIED: "applied",
    plans_pb2.PLAN_EVENT_STATUS_DUPLICATE: "duplicate",
    plans_pb2.PLAN_EVENT_STATUS_STALE: "stale",
    plans_pb2.PLAN_EVENT_STATUS_IGNORED: "ignored",
}


class GrpcPlanEvents:
    """A `PlanEvents` over gRPC."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Call over `channel`, with a timeout for each call."""
        self._stub = plans_pb2_grpc.PlanEventServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def receive(self, body: bytes, *, webhook_id: str, timestamp: str, signature: str, address: str) -> str:
        """Apply a signed event; see `PlanEvents.receive`."""
        request = plans_pb2.ApplyPlanEventRequest(
            webhook_id=webhook_id, webhook_timestamp=timestamp, webhook_signature=signature, body=body
        )
        metadata = (("stack-client-address", address),) if address.isascii() and address.isprintable() else ()
        with rpc_errors(unavailable_reason="auth_unavailable"):
            answer = await self._stub.ApplyPlanEvent(request, metadata=metadata, timeout=self._timeout_seconds)
        return _STATUSES.get(answer.status, "applied")
