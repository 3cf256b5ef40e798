"""gRPC client of quota."""

from collections.abc import Sequence
from functools import lru_cache

from grpc import aio

from services.common.errors import Unavailable
from services.common.rpc.status import rpc_errors
from services.common.rpc.verdict import verdict_to_proto
from services.common.timestamps import unix_seconds
from services.gateway.clients.batched_quota import ReserveItem, SettleItem, counter_unavailable, not_settled
from services.gateway.requests.types import Hold, LimitReached, RateLimit
from stack.common.v1 import limits_pb2
from stack.quota.v1 import quota_pb2, quota_pb2_grpc


class GrpcQuotaBatches:
    """`QuotaBatches` over gRPC."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Call over `channel`. One call takes at most `timeout_seconds`."""
        self._stub = quota_pb2_grpc.QuotaServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def reserve(self, items: Sequence[ReserveItem]) -> Sequence[Hold | LimitReached | Unavailable]:
        """Return the outcome of each item, in order."""
        request = quota_pb2.ReserveRequest(reservations=[_reservation(item) for item in items])
        with rpc_errors(unavailable_reason="quota_unavailable"):
            response = await self._stub.Reserve(request, timeout=self._timeout_seconds)
        return [_outcome(item, result) for item, result in zip(items, response.results, strict=True)]

    async def settle(self, items: Sequence[SettleItem]) -> Sequence[Unavailable | None]:
        """Close each hold; `Unavailable` in place of None when one could not be closed."""
        request = quota_pb2.SettleRequest(settlements=[_settlement(item) for item in items])
        with rpc_errors(unavailable_reason="quota_unavailable"):
            response = await self._stub.Settle(request, timeout=self._timeout_seconds)
        return [not_settled() if result.failed else None for result in response.results]


def _reservation(item: ReserveItem) -> quota_pb2.Reservation:
    principal = item.principal
    return quota_pb2.Reservation(
        request_id=item.request_id,
        key_id=principal.key_id,
        account_id=principal.quota_account_id,
        limit=principal.daily_limit,
        limits=() if principal.account_limit is None else (_account_limit(principal.account_limit),),
    )


@lru_cache(maxsize=100)
def _account_limit(limit: int) -> limits_pb2.Limit:
    """Return the limit of an account as a message, which is copied into each reservation."""
    return limits_pb2.Limit(
        scope=limits_pb2.SCOPE_ACCOUNT,
        unit=limits_pb2.UNIT_REQUESTS,
        window=limits_pb2.WINDOW_DAY,
        limit=limit,
    )


def _outcome(item: ReserveItem, result: quota_pb2.ReserveResult) -> Hold | LimitReached | Unavailable:
    if result.outcome == quota_pb2.RESERVE_OUTCOME_UNAVAILABLE:
        return counter_unavailable()
    status = result.status
    is_of_account = result.HasField("tightest")
    limit = result.tightest.limit if is_of_account else item.principal.daily_limit
    rate_limit = RateLimit(limit, status.charged, status.held, float(status.reset_at.seconds), is_of_account)
    if result.outcome == quota_pb2.RESERVE_OUTCOME_DENIED:
        return LimitReached(rate_limit)
    return Hold(item.request_id, item.principal, status.day, unix_seconds(result.reserved_at), rate_limit)


def _settlement(item: SettleItem) -> quota_pb2.Settlement:
    return quota_pb2.Settlement(
        request_id=item.hold.request_id,
        key_id=item.hold.principal.key_id,
        account_id=item.hold.principal.quota_account_id,
        day=item.hold.day,
        verdict=verdict_to_proto(item.verdict),
    )
