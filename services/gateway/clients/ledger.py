"""gRPC clients of the usage API: quota's counters and inference's ledger."""

from collections.abc import Sequence

from grpc import aio

from services.common.errors import NotFound, Unavailable
from services.common.prices import dollars
from services.common.rpc.status import rpc_errors
from services.common.rpc.surface import surface_from_proto
from services.gateway.apis.receipts import DayUsage, OwnedReceipt, Receipt, ReceiptUsage, iso_time
from services.gateway.clients.batched_quota import ReserveItem, without_unlimited
from services.gateway.clients.quota import rate_limit_of, reservation
from services.gateway.requests.types import Principal, RateLimit
from stack.inference.v1 import usage_pb2, usage_pb2_grpc
from stack.quota.v1 import quota_pb2, quota_pb2_grpc


class GrpcCounters:
    """A read-only gRPC client of quota."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Call over `channel`, with a timeout for each call."""
        self._stub = quota_pb2_grpc.QuotaServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def status(self, principal: Principal) -> RateLimit:
        """Return today's quota of a key.

        Raises:
            ServiceError: The counters cannot be read.
        """
        request = quota_pb2.GetStatusRequest(key_ids=[principal.key_id], account_ids=[principal.quota_account_id])
        with rpc_errors(unavailable_reason="quota_unavailable"):
            response = await self._stub.GetStatus(request, timeout=self._timeout_seconds)
        if not response.statuses:
            raise Unavailable("Today's count of this key cannot be read. Try again.", reason="quota_unavailable")
        status = response.statuses[0]
        return RateLimit(principal.daily_limit, status.charged, status.held, float(status.reset_at.seconds))

    async def limits(self, principal: Principal) -> list[RateLimit]:
        """Return all limits of a key and its account; see `Counters.limits`."""
        request = quota_pb2.GetLimitsRequest(reservation=reservation(ReserveItem("none", principal)))
        with rpc_errors(unavailable_reason="quota_unavailable"):
            response = await self._stub.GetLimits(request, timeout=self._timeout_seconds)
        limits = [limit for status in response.statuses if (limit := rate_limit_of(status)) is not None]
        return without_unlimited(principal, limits)


class GrpcLedger:
    """A gRPC client of the ledger."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Call over `channel`, with a timeout for each call."""
        self._stub = usage_pb2_grpc.UsageServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def find(self, request_id: str) -> OwnedReceipt | None:
        """Return the receipt of a request, or None if the ledger has no row for it."""
        request = usage_pb2.GetRequestRequest(request_id=request_id)
        try:
            with rpc_errors(unavailable_reason="inference_unavailable"):
                response = await self._stub.GetRequest(request, timeout=self._timeout_seconds)
        except NotFound:
            return None
        return OwnedReceipt(response.record.account_id, receipt_of(response.record))

    async def summarize(self, account_id: str, *, key_id: str, from_day: str, to_day: str) -> Sequence[DayUsage]:
        """Return the usage of an account by day and model."""
        request = usage_pb2.SummarizeUsageRequest(
            account_id=account_id, key_id=key_id, from_day=from_day, to_day=to_day
        )
        with rpc_errors(unavailable_reason="inference_unavailable"):
            response = await self._stub.SummarizeUsage(request, timeout=self._timeout_seconds)
        return [day_usage(summary) for summary in response.summaries]


def receipt_of(record: usage_pb2.UsageRecord) -> Receipt:
    """Return the public part of a ledger row."""
    return Receipt(
        id=record.request_id,
        key_id=record.key_id,
        day=record.day,
        created_at=iso_time(record.reserved_at.ToNanoseconds() / 1e9),
        model=record.model,
        upstream_model=record.upstream_model if record.attempts else None,
        surface=surface_from_proto(record.surface),
        stream=record.stream,
        outcome=record.outcome,
        charged=record.charged,
        refund_reason=record.refund_reason or None,
        usage=ReceiptUsage(
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
            total_tokens=record.total_tokens,
            cached_tokens=record.cached_tokens,
            reasoning_tokens=record.reasoning_tokens,
            source=record.usage_source,
        ),
        cost_microdollars=record.cost if record.HasField("cost") else None,
        cost_usd=dollars(record.cost) if record.HasField("cost") else None,
        attempts=record.attempts,
        time_to_first_token_ms=record.time_to_first_token_ms or None,
        duration_ms=record.duration_ms,
        queue_ms=record.queue_ms if record.HasField("queue_ms") else None,
    )


def day_usage(summary: usage_pb2.UsageSummary) -> DayUsage:
    return DayUsage(
        day=summary.day,
        model=summary.model,
        requests=summary.charged_requests,
        released_requests=summary.released_requests,
        prompt_tokens=summary.prompt_tokens,
        completion_tokens=summary.completion_tokens,
        total_tokens=summary.total_tokens,
        cached_tokens=summary.cached_tokens,
        reasoning_tokens=summary.reasoning_tokens,
        cost_microdollars=summary.cost if summary.HasField("cost") else None,
        cost_usd=dollars(summary.cost) if summary.HasField("cost") else None,
    )
