"""gRPC client of quota."""

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

from grpc import aio

from services.common.errors import Unavailable
from services.common.estimate import Estimate
from services.common.limits import Limit, Scope, Unit, Window
from services.common.rpc.limits import limit_from_proto, limit_to_proto
from services.common.rpc.multiplex.client import MultiplexClient
from services.common.rpc.multiplex.stream import NotSent
from services.common.rpc.status import rpc_errors
from services.common.rpc.verdict import amounts_to_proto, verdict_to_proto
from services.common.telemetry import tracing
from services.common.timestamps import unix_seconds
from services.gateway.clients.batched_quota import ReserveItem, SettleItem, counter_unavailable, not_settled
from services.gateway.requests.types import Hold, LimitReached, RateLimit
from stack.common.v1 import limits_pb2
from stack.quota.v1 import quota_pb2, quota_pb2_grpc


class GrpcQuotaBatches:
    """`QuotaBatches` over gRPC."""

    def __init__(
        self, channel: aio.Channel, *, timeout_seconds: float, multiplexed: MultiplexClient | None = None
    ) -> None:
        """Call over `channel`, or over the streams of `multiplexed`. One call takes at most `timeout_seconds`."""
        self._stub = quota_pb2_grpc.QuotaServiceStub(channel)
        self._timeout_seconds = timeout_seconds
        self._multiplexed = multiplexed

    async def reserve(self, items: Sequence[ReserveItem]) -> Sequence[Hold | LimitReached | Unavailable]:
        """Return the outcome of each item, in order."""
        request = quota_pb2.ReserveRequest(reservations=[reservation(item) for item in items])
        if result := await self._call(quota_pb2.MultiplexedCall(reserve=request)):
            response = result.reserve
        else:
            with rpc_errors(unavailable_reason="quota_unavailable"):
                response = await self._stub.Reserve(request, timeout=self._timeout_seconds)
        return [_outcome(item, result) for item, result in zip(items, response.results, strict=True)]

    async def settle(self, items: Sequence[SettleItem]) -> Sequence[Unavailable | None]:
        """Close each hold; `Unavailable` in place of None when one could not be closed."""
        request = quota_pb2.SettleRequest(settlements=[_settlement(item) for item in items])
        if result := await self._call(quota_pb2.MultiplexedCall(settle=request)):
            response = result.settle
        else:
            with rpc_errors(unavailable_reason="quota_unavailable"):
                response = await self._stub.Settle(request, timeout=self._timeout_seconds)
        return [not_settled() if one.failed else None for one in response.results]

    async def _call(self, call: quota_pb2.MultiplexedCall) -> quota_pb2.MultiplexedResult | None:
        """Make a call over a stream; None without one, and for a traced call, whose span is that of an RPC."""
        stream = self._multiplexed.stream() if self._multiplexed and not tracing.is_traced() else None
        if stream is None:
            return None
        result: quota_pb2.MultiplexedResult | None = None
        with suppress(NotSent):
            result = await stream.call(call, call.ByteSize())
        return result


def multiplex_client(channel: aio.Channel, *, timeout_seconds: float) -> MultiplexClient:
    """Return a client of quota's multiplexed calls."""
    return MultiplexClient(
        quota_pb2_grpc.QuotaServiceStub(channel).Multiplex,
        quota_pb2.MultiplexRequest,
        service="quota",
        timeout_seconds=timeout_seconds,
    )


def reservation(item: ReserveItem) -> quota_pb2.Reservation:
    """Return an item as a message."""
    principal, estimate = item.principal, item.estimate
    return quota_pb2.Reservation(
        request_id=item.request_id,
        key_id=principal.key_id,
        account_id=principal.quota_account_id,
        limit=principal.daily_limit,
        limits=_limits(principal.account_limit, principal.limits),
        estimate=None if estimate is None else _estimate(estimate),
    )


@lru_cache(maxsize=100)
def _limits(account_limit: int | None, others: tuple[Limit, ...]) -> tuple[limits_pb2.Limit, ...]:
    """Return limits as messages, which are copied into each reservation."""
    limits = others if account_limit is None else (*others, _account_requests(account_limit))
    return tuple(limit_to_proto(limit) for limit in limits)


def _account_requests(limit: int) -> Limit:
    return Limit(Scope.ACCOUNT, Unit.REQUESTS, Window.DAY, limit)


def _estimate(estimate: Estimate) -> quota_pb2.Estimate:
    return quota_pb2.Estimate(
        prompt_tokens=estimate.prompt_tokens,
        output_tokens=estimate.output_tokens,
        prompt_cost=estimate.prompt_cost,
        output_cost_per_million=estimate.output_cost_per_million,
    )


def _outcome(item: ReserveItem, result: quota_pb2.ReserveResult) -> Hold | LimitReached | Unavailable:
    if result.outcome == quota_pb2.RESERVE_OUTCOME_UNAVAILABLE:
        return counter_unavailable()
    rate_limit = _rate_limit(item, result)
    if result.outcome == quota_pb2.RESERVE_OUTCOME_DENIED:
        return LimitReached(rate_limit, item.requested(rate_limit.unit))
    reserved_at, estimate, output_tokens = unix_seconds(result.reserved_at), item.estimate, result.output_tokens
    if estimate is None or not output_tokens:  # Quota of the previous version limits no tokens.
        return Hold(item.request_id, item.principal, result.status.day, reserved_at, rate_limit)
    held, tokens = estimate.held(output_tokens), _tokens(result)
    return Hold(
        item.request_id, item.principal, result.status.day, reserved_at, rate_limit, output_tokens, held, tokens
    )


def _rate_limit(item: ReserveItem, result: quota_pb2.ReserveResult) -> RateLimit:
    status = result.status
    counts = status.charged, status.held, float(status.reset_at.seconds)
    limit = limit_from_proto(result.tightest) if result.HasField("tightest") else None
    if limit is None:
        return RateLimit(item.principal.daily_limit, *counts)
    return RateLimit(limit.limit, *counts, limit.scope, limit.unit, limit.window)


def rate_limit_of(status: quota_pb2.LimitStatus) -> RateLimit | None:
    """Return a limit and its counts; None if only a newer version knows the limit."""
    if (limit := limit_from_proto(status.limit)) is None:
        return None
    counts = status.charged, status.held, float(status.reset_at.seconds)
    return RateLimit(limit.limit, *counts, limit.scope, limit.unit, limit.window)


def _tokens(result: quota_pb2.ReserveResult) -> RateLimit | None:
    return rate_limit_of(result.tokens) if result.HasField("tokens") else None


def _settlement(item: SettleItem) -> quota_pb2.Settlement:
    hold, verdict = item.hold, item.verdict
    return quota_pb2.Settlement(
        request_id=hold.request_id,
        key_id=hold.principal.key_id,
        account_id=hold.principal.quota_account_id,
        day=hold.day,
        verdict=verdict_to_proto(verdict.verdict),
        amounts=None if hold.held is None else amounts_to_proto(verdict.amounts),
    )
