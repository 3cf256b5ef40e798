"""gRPC client for the usage of one account, from quota's counters and inference's ledger."""

from collections.abc import Sequence

from grpc import aio

from services.common.batched import batched
from services.common.errors import NotFound
from services.common.receipts import Receipt
from services.common.rpc.status import rpc_errors
from services.common.rpc.surface import surface_to_proto
from services.common.timestamps import timestamp, unix_seconds
from services.gateway.apis.receipts import DayUsage
from services.gateway.clients.ledger import GrpcCounters, GrpcLedger, day_usage, receipt_of
from services.gateway.clients.usage_webhooks import GrpcUsageWebhooks
from services.gateway.console.clients.usage_reports import BREAKDOWNS, STEPS, report_of
from services.gateway.console.ports import RequestFilter, RequestPage, TodayUsage
from services.gateway.console.usage.ranges import UsageRange
from services.gateway.console.usage.reports import Breakdown, Report
from services.gateway.requests.types import Principal, RateLimit
from stack.inference.v1 import usage_pb2, usage_pb2_grpc
from stack.quota.v1 import quota_pb2, quota_pb2_grpc

_KEYS_MAX = 1_000
"""Maximum keys per call to quota and inference."""


class GrpcUsage:
    """A `UsageClient` over gRPC, restricted to one account."""

    def __init__(
        self,
        quota: aio.Channel,
        inference: aio.Channel,
        account_id: str,
        *,
        quota_account_id: str,
        timeout_seconds: float,
    ) -> None:
        """Read the usage of `account_id`, which must be that of the session; quota counts it under another id."""
        assert account_id, "without an account, the ledger would return the records of all accounts"
        self._quota = quota_pb2_grpc.QuotaServiceStub(quota)
        self._stub = usage_pb2_grpc.UsageServiceStub(inference)
        self._counters = GrpcCounters(quota, timeout_seconds=timeout_seconds)
        self._ledger = GrpcLedger(inference, timeout_seconds=timeout_seconds)
        self._webhooks = GrpcUsageWebhooks(inference, timeout_seconds=timeout_seconds)
        self._account_id = account_id
        self._quota_account_id = quota_account_id
        self._timeout_seconds = timeout_seconds

    async def today(self, key_ids: Sequence[str]) -> Sequence[TodayUsage | None]:
        """Return the usage of each key today, in order."""
        days: list[TodayUsage | None] = []
        for batch in batched(key_ids, _KEYS_MAX):
            with rpc_errors(unavailable_reason="quota_unavailable"):
                request = quota_pb2.GetStatusRequest(key_ids=batch, account_ids=[self._quota_account_id] * len(batch))
                answer = await self._quota.GetStatus(request, timeout=self._timeout_seconds)
            days += [
                TodayUsage(status.charged, status.held, unix_seconds(status.reset_at)) if status.day else None
                for status in answer.statuses
            ]
        return days

    async def limits(self, principal: Principal) -> Sequence[RateLimit]:
        """Return limits with what is used of them."""
        return await self._counters.limits(principal)

    async def last_uses(self, key_ids: Sequence[str]) -> Sequence[float | None]:
        """Return the time when each key was last used, in order."""
        times: list[float | None] = []
        for batch in batched(key_ids, _KEYS_MAX):
            with rpc_errors(unavailable_reason="inference_unavailable"):
                request = usage_pb2.ListLastUsesRequest(key_ids=batch)
                answer = await self._stub.ListLastUses(request, timeout=self._timeout_seconds)
            times += [unix_seconds(use.used_at) if use.HasField("used_at") else None for use in answer.last_uses]
        return times

    async def days(self, filters: RequestFilter) -> Sequence[DayUsage]:
        """Return the usage of the requests that match by day and model, newest first."""
        request = usage_pb2.SummarizeUsageRequest(
            account_id=self._account_id,
            key_id=filters.key_id,
            outcome=filters.outcome,
            from_day=filters.from_day,
            to_day=filters.to_day,
            surface=surface_to_proto(filters.surface),
        )
        with rpc_errors(unavailable_reason="inference_unavailable"):
            answer = await self._stub.SummarizeUsage(request, timeout=self._timeout_seconds)
        return [day_usage(summary) for summary in answer.summaries]

    async def report(
        self,
        filters: RequestFilter,
        chosen: UsageRange,
        breakdown: Breakdown,
        *,
        by_step: bool = False,
        with_latency: bool = False,
    ) -> Report:
        """Return the sums of the requests of a range that match, by breakdown."""
        request = usage_pb2.ReportUsageRequest(
            account_id=self._account_id,
            key_id=filters.key_id,
            model=filters.model,
            outcome=filters.outcome,
            surface=surface_to_proto(filters.surface),
            from_time=timestamp(chosen.start),
            to_time=timestamp(chosen.end),
            breakdown=BREAKDOWNS[breakdown],
            step=STEPS[chosen.step] if by_step else usage_pb2.STEP_UNSPECIFIED,
            with_latency=with_latency,
        )
        with rpc_errors(unavailable_reason="inference_unavailable"):
            answer = await self._stub.ReportUsage(request, timeout=self._timeout_seconds)
        return report_of(answer)

    async def requests(self, filters: RequestFilter, *, count: int, scan_max: int = 50_000) -> RequestPage:
        """Return a page of requests, newest first."""
        request = usage_pb2.ListRequestsRequest(
            account_id=self._account_id,
            key_id=filters.key_id,
            model=filters.model,
            outcome=filters.outcome,
            from_day=filters.from_day,
            to_day=filters.to_day,
            from_time=None if filters.from_time is None else timestamp(filters.from_time),
            to_time=None if filters.to_time is None else timestamp(filters.to_time),
            ended_from=None if filters.ended_from is None else timestamp(filters.ended_from),
            before=filters.before,
            page_size=count,
            scan_max=scan_max,
            surface=surface_to_proto(filters.surface),
        )
        with rpc_errors(unavailable_reason="inference_unavailable"):
            answer = await self._stub.ListRequests(request, timeout=self._timeout_seconds)
        return RequestPage([receipt_of(record) for record in answer.records], answer.next_before)

    async def webhook_url(self) -> str:
        """Return the URL of the account's active webhook; empty if there is none."""
        try:
            webhook = await self._webhooks.get(self._account_id)
        except NotFound:
            return ""
        return webhook.url if webhook.next_attempt_at is not None else ""

    async def delete_webhook(self) -> None:
        """Delete the account's usage webhook, if there is one."""
        await self._webhooks.delete(self._account_id)

    async def request(self, request_id: str) -> Receipt | None:
        """Return the receipt of a request, or None if the account has no such request."""
        owned = await self._ledger.find(request_id)
        return owned.receipt if owned is not None and owned.account_id == self._account_id else None
