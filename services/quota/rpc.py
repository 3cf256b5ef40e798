"""gRPC servicer of the quota service. Converts between protobuf and domain objects."""

from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from operator import attrgetter

from services.common.errors import InvalidRequest
from services.common.estimate import Estimate
from services.common.limits import Limit
from services.common.rpc.limits import limit_from_values, limit_to_proto, unit_to_proto, window_to_proto
from services.common.rpc.multiplex.server import MultiplexServer, Put
from services.common.rpc.types import Context
from services.common.rpc.verdict import amounts_from_proto, verdict_from_proto
from services.common.timestamps import timestamp
from services.quota import refusal_messages
from services.quota.checks import check_id, check_size
from services.quota.days import day_number, iso_date
from services.quota.holds import (
    CounterUnavailable,
    DayStatus,
    Denied,
    Held,
    Holds,
    KeyRef,
    LimitStatus,
    Reservation,
    Settlement,
)
from services.quota.redis.state import RedisState, State
from services.quota.refusals import RefusalStore
from services.quota.sweeper import Discrepancy, DiscrepancyKind, Sweeper
from stack.common.v1 import limits_pb2
from stack.quota.v1 import quota_pb2, quota_pb2_grpc

_KINDS = {
    DiscrepancyKind.COUNTER_ABOVE_LEDGER: quota_pb2.DISCREPANCY_KIND_COUNTER_ABOVE_LEDGER,
    DiscrepancyKind.COUNTER_BELOW_LEDGER: quota_pb2.DISCREPANCY_KIND_COUNTER_BELOW_LEDGER,
    DiscrepancyKind.HOLD_OVERDUE: quota_pb2.DISCREPANCY_KIND_HOLD_OVERDUE,
    DiscrepancyKind.OVER_LIMIT: quota_pb2.DISCREPANCY_KIND_OVER_LIMIT,
}
_KEY_REQUESTS, _ACCOUNT_REQUESTS = "key:requests:day", "account:requests:day"
_AMOUNT_MAX = 10**15
_VECTORS_MAX = 1_000
"""Most reserves have the limits of an earlier one."""
_LimitValues = tuple[int, int, int, int]
_limit_values = attrgetter("scope", "unit", "window", "limit")
_ACCOUNTS_MAX = 100_000
_STATES = {
    State.UNKNOWN: quota_pb2.DEPENDENCY_STATE_UNSPECIFIED,
    State.OK: quota_pb2.DEPENDENCY_STATE_OK,
    State.REJECTED: quota_pb2.DEPENDENCY_STATE_REJECTED,
    State.UNREACHABLE: quota_pb2.DEPENDENCY_STATE_UNREACHABLE,
}

_METHODS = {
    request: f"/{quota_pb2.DESCRIPTOR.services_by_name['QuotaService'].full_name}/{name}"
    for request, name in {"reserve": "Reserve", "settle": "Settle"}.items()
}


class QuotaService(quota_pb2_grpc.QuotaServiceServicer):
    """Implements all RPCs of quota."""

    def __init__(self, holds: Holds, sweeper: Sweeper, redis: RedisState, refusals: RefusalStore) -> None:
        self._holds = holds
        self._sweeper = sweeper
        self._redis = redis
        self._refusals = refusals
        self._accounts: dict[str, str] = {}
        """Account of each key, for settlements by gateways of the previous version, which name only the key."""
        self._multiplexed = MultiplexServer(
            self._answer,
            response_type=quota_pb2.MultiplexResponse,
            result_type=quota_pb2.MultiplexedResult,
            method_of=lambda call: _METHODS.get(call.WhichOneof("request"), "unknown"),
        )

    def drain(self) -> None:
        """Make gateways send further calls to other replicas. Calls in progress continue."""
        self._multiplexed.drain()

    async def Multiplex(  # type: ignore[override] # gRPC also accepts a coroutine that reads and writes
        self, request_iterator: AsyncIterator[quota_pb2.MultiplexRequest], context: Context
    ) -> None:
        """Answer calls of a gateway."""
        await self._multiplexed.serve(context)

    async def _answer(self, call: quota_pb2.MultiplexedCall, put: Put) -> None:
        """Answer one call of a stream of calls."""
        result = quota_pb2.MultiplexedResult(is_last=True)
        if call.HasField("settle"):
            result.settle.CopyFrom(await self._settle(call.settle))
        else:
            result.reserve.CopyFrom(await self._reserve(call.reserve))
        await put(result, result.ByteSize())

    async def Reserve(self, request: quota_pb2.ReserveRequest, context: Context) -> quota_pb2.ReserveResponse:
        """Hold one slot for each reservation."""
        return await self._reserve(request)

    async def Settle(self, request: quota_pb2.SettleRequest, context: Context) -> quota_pb2.SettleResponse:
        """Close holds by their verdicts."""
        return await self._settle(request)

    async def _reserve(self, request: quota_pb2.ReserveRequest) -> quota_pb2.ReserveResponse:
        check_size(len(request.reservations), "reservations")
        reservations = [_reservation(item) for item in request.reservations]
        self._remember_accounts(reservations)
        outcomes = await self._holds.reserve(reservations)
        return quota_pb2.ReserveResponse(results=[_result(outcome) for outcome in outcomes])

    async def _settle(self, request: quota_pb2.SettleRequest) -> quota_pb2.SettleResponse:
        check_size(len(request.settlements), "settlements")
        items = [_settlement(item, self._accounts.get(item.key_id, "")) for item in request.settlements]
        known = [item for item in items if item.account_id]
        closed = iter(await self._holds.settle(known) if known else ())
        flags = [next(closed) if item.account_id else None for item in items]
        results = [quota_pb2.SettleResult(closed=flag is True, failed=flag is None) for flag in flags]
        return quota_pb2.SettleResponse(results=results)

    async def GetStatus(self, request: quota_pb2.GetStatusRequest, context: Context) -> quota_pb2.GetStatusResponse:
        """Return today's counters of keys."""
        check_size(len(request.key_ids), "key_ids")
        account_ids = request.account_ids or [""] * len(request.key_ids)
        if len(account_ids) != len(request.key_ids):
            raise InvalidRequest("account_ids: expected one for each key, or none")
        keys = [KeyRef(account_id, key_id) for account_id, key_id in zip(account_ids, request.key_ids, strict=True)]
        statuses = await self._holds.status(keys)
        return quota_pb2.GetStatusResponse(statuses=[_status(status) for status in statuses])

    async def GetLimits(self, request: quota_pb2.GetLimitsRequest, context: Context) -> quota_pb2.GetLimitsResponse:
        """Return the counts of all limits of a key and its account."""
        statuses = await self._holds.limits(_reservation(request.reservation))
        return quota_pb2.GetLimitsResponse(statuses=[_limit_status(status) for status in statuses])

    async def RecordRefusals(
        self, request: quota_pb2.RecordRefusalsRequest, context: Context
    ) -> quota_pb2.RecordRefusalsResponse:
        """Add to the numbers of refused requests of keys."""
        check_size(len(request.refusals), "refusals")
        await self._refusals.record([refusal_messages.refused_requests(one) for one in request.refusals])
        return quota_pb2.RecordRefusalsResponse()

    async def ListRefusals(
        self, request: quota_pb2.ListRefusalsRequest, context: Context
    ) -> quota_pb2.ListRefusalsResponse:
        """Return the numbers of refused requests of keys."""
        found = await self._refusals.list(refusal_messages.keys_of(request))
        return quota_pb2.ListRefusalsResponse(keys=[refusal_messages.key_refusals(one) for one in found])

    async def Verify(self, request: quota_pb2.VerifyRequest, context: Context) -> quota_pb2.VerifyResponse:
        """Compare counters and holds with the ledger."""
        report = await self._sweeper.verify()
        return quota_pb2.VerifyResponse(
            discrepancies=[_discrepancy(discrepancy) for discrepancy in report.discrepancies],
            key_days=report.key_days,
            held=report.held,
            discrepancies_count=sum(report.counts.values()),
        )

    async def GetDependencies(
        self, request: quota_pb2.GetDependenciesRequest, context: Context
    ) -> quota_pb2.GetDependenciesResponse:
        """Return whether Redis is usable."""
        redis = quota_pb2.Dependency(name="redis", state=_STATES[self._redis.state], message=self._redis.message)
        return quota_pb2.GetDependenciesResponse(dependencies=[redis])

    def _remember_accounts(self, reservations: Sequence[Reservation]) -> None:
        for reservation in reservations:
            self._accounts[reservation.key_id] = reservation.account_id
        while len(self._accounts) > _ACCOUNTS_MAX:
            del self._accounts[next(iter(self._accounts))]


def _reservation(item: quota_pb2.Reservation) -> Reservation:
    for field in ("request_id", "key_id", "account_id"):
        check_id(getattr(item, field), field)
    if item.limit < 0:
        raise InvalidRequest(f"limit: expected 0 or more, got {item.limit}")
    account_limit, others = _further_limits(tuple(map(_limit_values, item.limits))) if item.limits else (None, ())
    estimate = _estimate(item.estimate) if item.HasField("estimate") else None
    return Reservation(
        item.request_id, item.key_id, item.account_id, item.limit, account_limit, limits=others, estimate=estimate
    )


@lru_cache(maxsize=_VECTORS_MAX)
def _further_limits(values: tuple[_LimitValues, ...]) -> tuple[int | None, tuple[Limit, ...]]:
    """Return the account's limit in requests per day, or None, and all other limits."""
    try:
        limits = [limit_from_values(*one) for one in values]
    except InvalidRequest as exc:
        raise InvalidRequest(f"limits: {exc.message}") from exc
    known = [limit for limit in limits if limit is not None]
    if len(known) < len(limits):
        raise InvalidRequest("limits: a scope, unit or window is unknown. Upgrade quota before its callers.")
    if len({limit.name for limit in known}) < len(known) or "key:requests:day" in {limit.name for limit in known}:
        raise InvalidRequest("limits: expected each limit once, and the key's in requests per day in `limit`")
    account_limit = next((one.limit for one in known if one.name == _ACCOUNT_REQUESTS), None)
    return account_limit, tuple(one for one in known if one.name != _ACCOUNT_REQUESTS)


def _estimate(item: quota_pb2.Estimate) -> Estimate:
    amounts = (item.prompt_tokens, item.output_tokens, item.prompt_cost, item.output_cost_per_million)
    if not all(0 <= amount <= _AMOUNT_MAX for amount in amounts) or not item.output_tokens:
        raise InvalidRequest(f"estimate: expected 0 to {_AMOUNT_MAX:,}, and at least one token of output")
    return Estimate(*amounts)


def _settlement(item: quota_pb2.Settlement, known_account_id: str) -> Settlement:
    check_id(item.request_id, "request_id")
    check_id(item.key_id, "key_id")
    if item.account_id:
        check_id(item.account_id, "account_id")
    verdict = verdict_from_proto(item.verdict)
    if verdict is None:
        raise InvalidRequest("verdict: expected charged or released")
    try:
        day = day_number(item.day)
    except ValueError as exc:
        raise InvalidRequest(f"day: expected YYYY-MM-DD, got {item.day!r}") from exc
    amounts = amounts_from_proto(item.amounts) if item.HasField("amounts") else None
    return Settlement(item.request_id, item.account_id or known_account_id, day, verdict, amounts)


def _result(outcome: Held | Denied | CounterUnavailable) -> quota_pb2.ReserveResult:
    if isinstance(outcome, CounterUnavailable):
        return quota_pb2.ReserveResult(outcome=quota_pb2.RESERVE_OUTCOME_UNAVAILABLE)
    if isinstance(outcome, Denied):
        return quota_pb2.ReserveResult(
            outcome=quota_pb2.RESERVE_OUTCOME_DENIED,
            status=_status(outcome.status),
            tightest=_tightest(outcome.tightest),
        )
    return quota_pb2.ReserveResult(
        outcome=quota_pb2.RESERVE_OUTCOME_HELD,
        status=_status(outcome.status),
        reserved_at=timestamp(outcome.reserved_at),
        tightest=_tightest(outcome.tightest),
        output_tokens=outcome.output_tokens,
        tokens=None if outcome.tokens is None else _limit_status(outcome.tokens),
    )


def _tightest(status: LimitStatus) -> limits_pb2.Limit | None:
    return None if status.limit.name == _KEY_REQUESTS else limit_to_proto(status.limit)


def _limit_status(status: LimitStatus) -> quota_pb2.LimitStatus:
    counts = status.counts
    return quota_pb2.LimitStatus(
        limit=limit_to_proto(status.limit),
        charged=counts.charged,
        held=counts.held,
        reset_at=timestamp(counts.reset_at),
    )


def _status(status: DayStatus) -> quota_pb2.DayStatus:
    return quota_pb2.DayStatus(
        day=iso_date(status.day), charged=status.charged, held=status.held, reset_at=timestamp(status.reset_at)
    )


def _discrepancy(discrepancy: Discrepancy) -> quota_pb2.Discrepancy:
    entries = discrepancy.entries
    return quota_pb2.Discrepancy(
        account_id=entries.counter.account_id,
        key_id=entries.counter.key_id,
        day=iso_date(entries.counter.day),
        kind=_KINDS[discrepancy.kind],
        charged=entries.charged,
        held=entries.held,
        ledger_charged=discrepancy.ledger_charged,
        unit=unit_to_proto(entries.counter.unit),
        window=window_to_proto(entries.counter.window),
    )
