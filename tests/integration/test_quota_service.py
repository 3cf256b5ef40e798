"""QuotaService over gRPC: a real server, a real store, and a ledger that answers over gRPC as inference does."""

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from services.common import verdict
from services.common.errors import InvalidRequest, Unavailable
from services.common.rpc.channel import open_channel
from services.common.rpc.interceptors import ServiceInterceptor
from services.common.rpc.status import rpc_errors
from services.common.rpc.types import Context
from services.quota.days import day_number, iso_date
from services.quota.holds import Holds
from services.quota.ledger_client import GrpcLedger
from services.quota.redis.refusal_store import RedisRefusalStore
from services.quota.redis.store import RedisHoldStore, connect
from services.quota.redis.sweep_store import RedisSweepStore
from services.quota.rpc import QuotaService
from services.quota.sweeper import Sweeper
from stack.common.v1 import limits_pb2, verdict_pb2
from stack.inference.v1 import usage_pb2
from stack.quota.v1 import quota_pb2, quota_pb2_grpc
from tests.properties.hold_world import StoreClock
from tests.valkey_backend import valkey_server, valkey_url

__all__ = ["valkey_server", "valkey_url"]

CHARGED, NO_VERDICT = verdict_pb2.VERDICT_CHARGED, verdict_pb2.VERDICT_UNSPECIFIED
HELD, DENIED, UNAVAILABLE = (
    quota_pb2.RESERVE_OUTCOME_HELD,
    quota_pb2.RESERVE_OUTCOME_DENIED,
    quota_pb2.RESERVE_OUTCOME_UNAVAILABLE,
)


@dataclass
class CountingLedger:
    """A ledger with counts set by the test."""

    counts: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    counts_accounts: bool = True
    """False imitates the previous version of inference."""

    def register(self, server: aio.Server) -> None:
        """Answer the RPCs that initialisation needs, under inference's name."""
        method = grpc.unary_unary_rpc_method_handler(
            self.count_charged,
            request_deserializer=usage_pb2.CountChargedRequest.FromString,
            response_serializer=usage_pb2.CountChargedResponse.SerializeToString,
        )
        summarize = grpc.unary_unary_rpc_method_handler(
            self.summarize,
            request_deserializer=usage_pb2.SummarizeUsageRequest.FromString,
            response_serializer=usage_pb2.SummarizeUsageResponse.SerializeToString,
        )
        methods: dict[str, Any] = {"CountCharged": method, "SummarizeUsage": summarize}
        handlers = grpc.method_handlers_generic_handler("stack.inference.v1.UsageService", methods)
        server.add_generic_rpc_handlers((handlers,))

    async def summarize(
        self, request: usage_pb2.SummarizeUsageRequest, context: Context
    ) -> usage_pb2.SummarizeUsageResponse:
        """Return an account's count as two summaries."""
        count = self.counts.get(request.account_id, 0)
        parts = [usage_pb2.UsageSummary(charged_requests=part) for part in (count - count // 2, count // 2)]
        return usage_pb2.SummarizeUsageResponse(summaries=parts)

    async def count_charged(
        self, request: usage_pb2.CountChargedRequest, context: Context
    ) -> usage_pb2.CountChargedResponse:
        """Return the counts."""
        self.asked += [(one.key_id, one.day) for one in request.key_days]
        return usage_pb2.CountChargedResponse(
            counts=[self.counts.get(one.key_id, 0) for one in request.key_days],
            account_counts=[self.counts.get(one.account_id, 0) for one in request.account_days if self.counts_accounts],
        )


@dataclass
class Quota:
    """A running quota service, its ledger and a client of it."""

    stub: Any
    ledger: CountingLedger
    ledger_server: aio.Server

    async def reserve(self, *reserve_items: quota_pb2.Reservation) -> Any:
        """Reserve, with errors of our tree."""
        with rpc_errors(unavailable_reason="quota_unavailable"):
            return (await self.stub.Reserve(quota_pb2.ReserveRequest(reservations=reserve_items), timeout=10)).results

    async def settle(self, *ends: quota_pb2.Settlement) -> list[bool]:
        """Settle, with errors of our tree."""
        with rpc_errors(unavailable_reason="quota_unavailable"):
            response = await self.stub.Settle(quota_pb2.SettleRequest(settlements=ends), timeout=10)
        return [result.closed for result in response.results]


@pytest.fixture
async def quota(valkey_url: str) -> AsyncIterator[Quota]:
    """A quota service on an empty store."""
    async with AsyncExitStack() as stack:
        ledger = CountingLedger()
        target, ledger_server = await _served(stack, ledger.register)
        client = connect(valkey_url, timeout_seconds=10)
        stack.push_async_callback(client.aclose)
        channel = await stack.enter_async_context(open_channel(target))
        store, counts = RedisHoldStore(client, hold_seconds=60), GrpcLedger(channel, timeout_seconds=5)
        sweeper = Sweeper(
            RedisSweepStore(client, store),
            counts,
            StoreClock(),
            hold_seconds=60,
            sweep_seconds=60,
            reconcile_seconds=60,
        )
        service = QuotaService(Holds(store, counts), sweeper, client.state, RedisRefusalStore(client))
        target, _ = await _served(
            stack, lambda server: quota_pb2_grpc.add_QuotaServiceServicer_to_server(service, server)
        )
        stub = quota_pb2_grpc.QuotaServiceStub(await stack.enter_async_context(open_channel(target)))
        yield Quota(stub, ledger, ledger_server)


async def _served(stack: AsyncExitStack, register: Callable[[aio.Server], None]) -> tuple[str, aio.Server]:
    """Serve on its own socket until the stack unwinds."""
    socket = Path(f"/tmp/quota-test-{uuid.uuid4().hex[:12]}.sock")
    server = aio.server(interceptors=[ServiceInterceptor()])
    register(server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    stack.callback(socket.unlink, missing_ok=True)
    stack.push_async_callback(server.stop, None)
    return f"unix:{socket}", server


def reserve_item(request_id: str = "req_1", *, key_id: str = "key_1", limit: int = 2) -> quota_pb2.Reservation:
    """Return a reserve request for one slot."""
    return quota_pb2.Reservation(request_id=request_id, key_id=key_id, account_id="acc_1", limit=limit)


async def test_reserves_are_answered_in_order_and_independently(quota: Quota) -> None:
    quota.ledger.counts = {"key_full": 9}

    results = await quota.reserve(
        reserve_item("req_1"), reserve_item("req_2", key_id="key_full", limit=9), reserve_item("req_3")
    )

    assert [result.outcome for result in results] == [HELD, DENIED, HELD]
    assert [(result.status.charged, result.status.held) for result in results] == [(0, 1), (9, 0), (0, 2)]
    assert results[0].reserved_at.seconds > 0
    assert results[0].status.reset_at.seconds % 86_400 == 0


async def test_the_day_of_a_reserve_is_the_ledgers_date_and_closes_the_hold(quota: Quota) -> None:
    (result,) = await quota.reserve(reserve_item())
    assert quota.ledger.asked == [("key_1", result.status.day)]

    end = quota_pb2.Settlement(request_id="req_1", key_id="key_1", day=result.status.day, verdict=CHARGED)

    assert await quota.settle(end, end) == [True, False]
    response = await quota.stub.GetStatus(quota_pb2.GetStatusRequest(key_ids=["key_1"], account_ids=["acc_1"]))
    assert (response.statuses[0].charged, response.statuses[0].held) == (1, 0)


async def test_an_unavailable_ledger_makes_a_new_key_unavailable_and_its_status_too(quota: Quota) -> None:
    await quota.reserve(reserve_item())
    await quota.ledger_server.stop(None)

    results = await quota.reserve(reserve_item("req_2"), reserve_item("req_3", key_id="key_new"))

    assert [result.outcome for result in results] == [HELD, UNAVAILABLE]
    assert not results[1].HasField("status")
    with pytest.raises(Unavailable) as raised, rpc_errors(unavailable_reason="x"):
        await quota.stub.GetStatus(quota_pb2.GetStatusRequest(key_ids=["key_new"]))
    assert raised.value.reason == "ledger_unavailable"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("request_id", ""),
        ("request_id", "a b"),
        ("request_id", "charged"),
        ("request_id", "limit"),
        ("key_id", ""),
        ("account_id", "a b"),
    ],
)
async def test_an_id_that_would_break_the_store_is_refused_by_name(quota: Quota, field: str, value: str) -> None:
    reservation = reserve_item()
    setattr(reservation, field, value)

    with pytest.raises(InvalidRequest, match=field):
        await quota.reserve(reservation)


async def test_a_negative_limit_is_refused(quota: Quota) -> None:
    with pytest.raises(InvalidRequest, match="limit"):
        await quota.reserve(reserve_item(limit=-1))


@pytest.mark.parametrize(("day", "verdict"), [("", CHARGED), ("yesterday", CHARGED), ("2026-08-01", NO_VERDICT)])
async def test_a_settle_without_a_day_or_a_verdict_is_refused_completely(quota: Quota, day: str, verdict: Any) -> None:
    (result,) = await quota.reserve(reserve_item())
    good = quota_pb2.Settlement(request_id="req_1", key_id="key_1", day=result.status.day, verdict=CHARGED)
    bad = quota_pb2.Settlement(request_id="req_2", key_id="key_1", day=day, verdict=verdict)

    with pytest.raises(InvalidRequest, match=r"day|verdict"):
        await quota.settle(good, bad)

    assert await quota.settle(good) == [True]


async def test_batch_sizes_are_limited(quota: Quota) -> None:
    for count in (0, 1_001):
        with pytest.raises(InvalidRequest, match="expected 1 to 1,000 items"):
            await quota.reserve(*[reserve_item(f"req_{number}") for number in range(count)])
    results = await quota.reserve(*[reserve_item(f"req_{number}", limit=1_000) for number in range(1_000)])
    assert {result.outcome for result in results} == {HELD}


async def test_an_unreachable_ledger_is_unavailable_by_name() -> None:
    async with open_channel("unix:/tmp/quota-test-nobody.sock") as channel:
        with pytest.raises(Unavailable) as raised:
            await GrpcLedger(channel, timeout_seconds=5).count_charged([])

    assert raised.value.reason == "ledger_unavailable"


async def test_a_verdict_that_is_unspecified_or_unknown_is_not_taken_for_a_release() -> None:
    async def close_unknown(request: bytes, context: Context) -> bytes:
        return b"\x0a\x04\x01\x00\x09\x02"  # verdicts: charged, unspecified, 9, released

    method: Any = grpc.unary_unary_rpc_method_handler(close_unknown)
    handlers = grpc.method_handlers_generic_handler("stack.inference.v1.UsageService", {"CloseUnknown": method})
    async with AsyncExitStack() as stack:
        target, _ = await _served(stack, lambda server: server.add_generic_rpc_handlers((handlers,)))
        channel = await stack.enter_async_context(open_channel(target))
        verdicts = await GrpcLedger(channel, timeout_seconds=5).close_unknown([])

    assert verdicts == [verdict.CHARGED, None, None, verdict.RELEASED]


def test_days_and_dates_are_the_same_days() -> None:
    assert iso_date(0) == "1970-01-01"
    assert iso_date(20_667) == "2026-08-02"
    assert all(day_number(iso_date(day)) == day for day in (0, 59, 11_016, 20_667, 2_932_896))


ACCOUNT_LIMIT = limits_pb2.Limit(
    scope=limits_pb2.SCOPE_ACCOUNT, unit=limits_pb2.UNIT_REQUESTS, window=limits_pb2.WINDOW_DAY, limit=2
)


def limited(request_id: str, key_id: str) -> quota_pb2.Reservation:
    """Return a reserve request under the account's limit of two."""
    reservation = reserve_item(request_id, key_id=key_id, limit=9)
    reservation.limits.append(ACCOUNT_LIMIT)
    return reservation


async def test_the_limit_of_an_account_is_kept_over_its_keys_and_named(quota: Quota) -> None:
    results = await quota.reserve(*[limited(f"req_{number}", f"key_{number}") for number in range(3)])

    assert [result.outcome for result in results] == [HELD, HELD, DENIED]
    assert all(result.tightest == ACCOUNT_LIMIT for result in results)
    assert (results[2].status.charged, results[2].status.held) == (0, 2)


async def test_an_account_starts_from_its_summary_while_inference_is_of_the_previous_version(quota: Quota) -> None:
    quota.ledger.counts, quota.ledger.counts_accounts = {"acc_1": 1}, False

    results = await quota.reserve(*[limited(f"req_{number}", f"key_{number}") for number in range(2)])

    assert [result.outcome for result in results] == [HELD, DENIED]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scope", limits_pb2.SCOPE_KEY),
        ("unit", limits_pb2.UNIT_UNSPECIFIED),
        ("window", limits_pb2.WINDOW_UNSPECIFIED),
        ("limit", -1),
    ],
)
async def test_a_limit_of_an_unknown_kind_is_refused_and_not_ignored(quota: Quota, field: str, value: int) -> None:
    reservation = limited("req_1", "key_1")
    setattr(reservation.limits[0], field, value)

    with pytest.raises(InvalidRequest, match="limits"):
        await quota.reserve(reservation)


async def test_a_settlement_without_an_account_is_completed_for_a_known_key_and_fails_for_another(quota: Quota) -> None:
    """Gateways of the previous version do not send the account."""
    (result,) = await quota.reserve(reserve_item())
    ends = [
        quota_pb2.Settlement(request_id="req_1", key_id=key_id, day=result.status.day, verdict=CHARGED)
        for key_id in ("key_unknown", "key_1")
    ]

    response = await quota.stub.Settle(quota_pb2.SettleRequest(settlements=ends))

    assert [(one.closed, one.failed) for one in response.results] == [(False, True), (True, False)]


async def test_the_status_of_a_key_without_its_account_is_the_ledgers(quota: Quota) -> None:
    await quota.reserve(reserve_item())
    quota.ledger.counts = {"key_1": 5}

    response = await quota.stub.GetStatus(quota_pb2.GetStatusRequest(key_ids=["key_1"]))
    with pytest.raises(InvalidRequest), rpc_errors(unavailable_reason="x"):
        await quota.stub.GetStatus(quota_pb2.GetStatusRequest(key_ids=["key_1"], account_ids=["a", "b"]))

    assert [(one.charged, one.held) for one in response.statuses] == [(5, 0)]


def refused_requests(**changes: Any) -> quota_pb2.RefusedRequests:
    """Return a number of refused requests."""
    fields: dict[str, Any] = {"key_id": "key_1", "account_id": "acc_1", "status": 400, "code": "invalid_type"}
    return quota_pb2.RefusedRequests(**{**fields, "count": 1, **changes})


async def test_refused_requests_are_recorded_and_listed(quota: Quota) -> None:
    refusals = [refused_requests(), refused_requests(count=2), refused_requests(status=429, code="", key_id="key_2")]
    await quota.stub.RecordRefusals(quota_pb2.RecordRefusalsRequest(refusals=refusals), timeout=10)

    request = quota_pb2.ListRefusalsRequest(key_ids=["key_1", "key_2", "key_3"], account_ids=["acc_1"] * 3)
    first, second, third = (await quota.stub.ListRefusals(request, timeout=10)).keys

    ((one,), (other,)) = (first.refusals, second.refusals)
    assert (one.status, one.code, [hour.count for hour in one.hours]) == (400, "invalid_type", [3])
    assert one.hours[0].hour.seconds <= one.last_at.seconds < one.hours[0].hour.seconds + 3_600
    assert (other.status, other.code, [hour.count for hour in other.hours]) == (429, "", [1])
    assert not third.refusals


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"key_id": "key 1"}, "key_id"),
        ({"account_id": ""}, "account_id"),
        ({"status": 200}, "status"),
        ({"status": 600}, "status"),
        ({"count": 0}, "count"),
        ({"count": 2**62}, "count"),
        ({"age_seconds": -1}, "age_seconds"),
        ({"age_seconds": 8 * 86_400}, "age_seconds"),
    ],
)
async def test_an_invalid_number_of_refused_requests_is_rejected_with_its_field(
    quota: Quota, changes: dict[str, Any], field: str
) -> None:
    request = quota_pb2.RecordRefusalsRequest(refusals=[refused_requests(), refused_requests(**changes)])
    with pytest.raises(InvalidRequest, match=rf"^{field}: "), rpc_errors(unavailable_reason="quota_unavailable"):
        await quota.stub.RecordRefusals(request, timeout=10)
    listed = quota_pb2.ListRefusalsRequest(key_ids=["key_1"], account_ids=["acc_1"])
    assert not (await quota.stub.ListRefusals(listed, timeout=10)).keys[0].refusals


@pytest.mark.parametrize("count", [0, 1_001])
async def test_a_call_with_too_few_or_too_many_refused_requests_is_rejected(quota: Quota, count: int) -> None:
    request = quota_pb2.RecordRefusalsRequest(refusals=[refused_requests()] * count)
    with pytest.raises(InvalidRequest, match=r"^refusals: "), rpc_errors(unavailable_reason="quota_unavailable"):
        await quota.stub.RecordRefusals(request, timeout=10)


@pytest.mark.parametrize(
    ("key_ids", "account_ids", "field"),
    [
        ([], [], "key_ids"),
        (["key_1"] * 101, ["acc_1"] * 101, "key_ids"),
        (["key_1"], [], "account_ids"),
        (["key:1"], ["acc_1"], "key_ids"),
        (["key_1"], ["acc*"], "account_ids"),
    ],
)
async def test_a_list_of_refused_requests_names_keys_and_accounts(
    quota: Quota, key_ids: list[str], account_ids: list[str], field: str
) -> None:
    request = quota_pb2.ListRefusalsRequest(key_ids=key_ids, account_ids=account_ids)
    with pytest.raises(InvalidRequest, match=rf"^{field}: "), rpc_errors(unavailable_reason="quota_unavailable"):
        await quota.stub.ListRefusals(request, timeout=10)
