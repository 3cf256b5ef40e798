"""The ports of receipts over gRPC: quota's counters, and the ledger that inference keeps."""

from collections.abc import Sequence

from grpc import aio

from services.common.errors import NotFound, Unavailable
from services.common.rpc.status import rpc_errors
from services.gateway.apis.receipts import DayUsage, OwnedReceipt, Receipt, Usage, iso_time
from services.gateway.requests.types import Principal, RateLimit
from stack.inference.v1 import usage_pb2, usage_pb2_grpc
from stack.quota.v1 import quota_pb2, quota_pb2_grpc


class GrpcCounters:
    """Quota over gRPC, to look and not to touch."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Ask over `channel`, at most `timeout_seconds` for each call."""
        self._stub = quota_pb2_grpc.QuotaServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def status(self, principal: Principal) -> RateLimit:
        """Return the key's day."""
        request = quota_pb2.GetStatusRequest(key_ids=[principal.key_id])
        with rpc_errors(unavailable_reason="quota_unavailable"):
            response = await self._stub.GetStatus(request, timeout=self._timeout_seconds)
        if not response.statuses:
            raise Unavailable("today's count of this key cannot be read; try again", reason="quota_unavailable")
        status = response.statuses[0]
        return RateLimit(principal.daily_limit, status.charged, status.held, float(status.reset_at.seconds))


class GrpcLedger:
    """The ledger over gRPC."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Ask over `channel`, at most `timeout_seconds` for each call."""
        self._stub = usage_pb2_grpc.UsageServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def find(self, request_id: str) -> OwnedReceipt | None:
        """Return one request's receipt, or None."""
        request = usage_pb2.GetRequestRequest(request_id=request_id)
        try:
            with rpc_errors(unavailable_reason="inference_unavailable"):
                response = await self._stub.GetRequest(request, timeout=self._timeout_seconds)
        except NotFound:
            return None
        return OwnedReceipt(response.record.account_id, receipt_of(response.record))

    async def summarize(self, account_id: str, *, key_id: str, from_day: str, to_day: str) -> Sequence[DayUsage]:
        """Return sums by day and model."""
        request = usage_pb2.SummarizeUsageRequest(
            account_id=account_id, key_id=key_id, from_day=from_day, to_day=to_day
        )
        with rpc_errors(unavailable_reason="inference_unavailable"):
            response = await self._stub.SummarizeUsage(request, timeout=self._timeout_seconds)
        return [day_usage(summary) for summary in response.summaries]


def receipt_of(record: usage_pb2.UsageRecord) -> Receipt:
    """Return a ledger row as its owner sees it."""
    return Receipt(
        id=record.request_id,
        key_id=record.key_id,
        day=record.day,
        created_at=iso_time(record.reserved_at.ToNanoseconds() / 1e9),
        model=record.model,
        stream=record.stream,
        outcome=record.outcome,
        charged=record.charged,
        refund_reason=record.refund_reason or None,
        usage=Usage(
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
            total_tokens=record.total_tokens,
            cached_tokens=record.cached_tokens,
            reasoning_tokens=record.reasoning_tokens,
            source=record.usage_source,
        ),
        attempts=record.attempts,
        time_to_first_token_ms=record.time_to_first_token_ms or None,
        duration_ms=record.duration_ms,
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
    )
