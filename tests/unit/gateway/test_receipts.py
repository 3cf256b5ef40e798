"""Receipts over real gRPC to scripted services: what is shown, what is requested, and what is never exposed."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from starlette.applications import Starlette
from starlette.routing import Route

from services.common.errors import NotFound, Unavailable
from services.common.limits import parse_limits
from services.common.receipts import iso_time
from services.common.rpc.channel import open_channel
from services.common.rpc.interceptors import ServiceInterceptor
from services.common.rpc.limits import limit_to_proto
from services.common.rpc.types import Context
from services.gateway.apis.error_handlers import UNCOUNTED
from services.gateway.apis.receipts import Receipts
from services.gateway.clients.ledger import GrpcCounters, GrpcLedger
from services.gateway.requests.types import Principal
from stack.common.v1 import limits_pb2, surface_pb2
from stack.inference.v1 import usage_pb2, usage_pb2_grpc
from stack.quota.v1 import quota_pb2, quota_pb2_grpc

KEY_ID = "key_01KAKAKAKAKAKAKAKAKAKAKAKA"
OWN, FOREIGN, UNKNOWN = (f"req_01KAKAKAKAKAKAKAKAKAKAKAK{email}" for email in "ABC")
NOON = 1_795_348_800.0
"""2026-11-22T12:00:00Z."""
HEADERS = {"Authorization": "Bearer any"}
TOKENS: dict[str, Any] = {
    "prompt_tokens": 10,
    "completion_tokens": 20,
    "total_tokens": 30,
    "cached_tokens": 4,
    "reasoning_tokens": 5,
}


PRINCIPAL = Principal(
    KEY_ID,
    "acc_1",
    10,
    datetime(2027, 1, 1, tzinfo=UTC).timestamp(),
    models=("llama*",),
    account_limit=30,
    limits=parse_limits(["account:concurrent_requests=20", "key:cost:month=$5"]),
    quota_account_id="acc_old",
    key_name="laptop",
    deduplicate_retries=True,
    plan="free",
)


class NoonClock:
    """Return noon of a fixed day."""

    def now(self) -> float:
        return NOON

    def monotonic(self) -> float:
        return 0


class OnePrincipal:
    """Maps every key to the same account."""

    async def authenticate(self, api_key: str, *, address: str = "") -> Principal:
        return PRINCIPAL


@dataclass
class Quota(quota_pb2_grpc.QuotaServiceServicer):
    """Answers with a counter set by the test."""

    charged: int = 3
    is_down: bool = False
    delay_seconds: float = 0

    async def GetStatus(self, request: quota_pb2.GetStatusRequest, context: Context) -> quota_pb2.GetStatusResponse:
        await asyncio.sleep(self.delay_seconds)
        if self.is_down:
            raise Unavailable("quota cannot use Redis just now; try again", reason="quota_unavailable")
        midnight = Timestamp(seconds=int(NOON) + 12 * 3600)
        status = quota_pb2.DayStatus(day="2026-11-22", charged=self.charged, held=1, reset_at=midnight)
        return quota_pb2.GetStatusResponse(statuses=[status] * len(request.key_ids))

    async def GetLimits(self, request: quota_pb2.GetLimitsRequest, context: Context) -> quota_pb2.GetLimitsResponse:
        asked = request.reservation
        assert (asked.key_id, asked.account_id, asked.limit) == (KEY_ID, "acc_old", 10)
        midnight = Timestamp(seconds=int(NOON) + 12 * 3600)
        daily = [limit_to_proto(limit) for limit in parse_limits(["key:requests:day=10", "account:requests:day=999"])]
        limits = [*daily, *(limit for limit in asked.limits if limit.window != limits_pb2.WINDOW_DAY)]
        statuses = [
            quota_pb2.LimitStatus(limit=limit, charged=self.charged, held=1, reset_at=midnight) for limit in limits
        ]
        return quota_pb2.GetLimitsResponse(statuses=statuses)


@dataclass
class Usage(usage_pb2_grpc.UsageServiceServicer):
    """Holds one row of the account and one of another; records its requests."""

    rows: dict[str, usage_pb2.UsageRecord] = field(default_factory=dict)
    asked: list[Any] = field(default_factory=list)
    cost: int | None = 1_500_000

    async def GetRequest(self, request: usage_pb2.GetRequestRequest, context: Context) -> usage_pb2.GetRequestResponse:
        self.asked.append(request.request_id)
        if request.request_id not in self.rows:
            raise NotFound("no such row")
        return usage_pb2.GetRequestResponse(record=self.rows[request.request_id])

    async def SummarizeUsage(
        self, request: usage_pb2.SummarizeUsageRequest, context: Context
    ) -> usage_pb2.SummarizeUsageResponse:
        self.asked.append(request)
        summary = usage_pb2.UsageSummary(
            day="2026-11-22", model="llama", charged_requests=3, released_requests=1, cost=self.cost, **TOKENS
        )
        return usage_pb2.SummarizeUsageResponse(summaries=[summary])


@dataclass(frozen=True, slots=True)
class World:
    """The handlers in front of scripted services."""

    http: httpx.AsyncClient
    quota: Quota
    usage: Usage
    server: aio.Server

    async def get(self, path: str, **params: str) -> httpx.Response:
        return await self.http.get(path, params=params, headers=HEADERS)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Yield the handlers over a gRPC server on its own socket."""
    # The stubs are abstract in type only; a missing RPC answers UNIMPLEMENTED.
    quota, usage = Quota(), Usage({OWN: row(), FOREIGN: row(account_id="acc_2")})  # type: ignore[abstract]
    server = aio.server(interceptors=[ServiceInterceptor()])
    quota_pb2_grpc.add_QuotaServiceServicer_to_server(quota, server)
    usage_pb2_grpc.add_UsageServiceServicer_to_server(usage, server)
    with tempfile.TemporaryDirectory(prefix="receipts-", dir="/tmp") as folder:
        server.add_insecure_port(f"unix:{folder}/all.sock")
        await server.start()
        async with open_channel(f"unix:{folder}/all.sock") as channel:
            counters, ledger = GrpcCounters(channel, timeout_seconds=0.5), GrpcLedger(channel, timeout_seconds=0.5)
            transport = httpx.ASGITransport(_app(Receipts(OnePrincipal(), counters, ledger, NoonClock())))
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
                yield World(http, quota, usage, server)
        await server.stop(0)


def _app(receipts: Receipts) -> Starlette:
    paths = [
        Route("/key", receipts.key),
        Route("/limits", receipts.limits),
        Route("/usage", receipts.usage),
        Route("/usage/{request_id}", receipts.receipt),
    ]
    return Starlette(routes=paths, exception_handlers=UNCOUNTED)


def row(**fields: Any) -> usage_pb2.UsageRecord:
    """Return a charged row of the calling account, changed by `fields`."""
    values: dict[str, Any] = {
        "request_id": OWN,
        "account_id": "acc_1",
        "key_id": KEY_ID,
        "day": "2026-11-22",
        "model": "llama",
        "upstream_model": "openai/gpt-oss-20b",
        "stream": True,
        "outcome": "answered",
        "charged": True,
        "usage_source": "reported",
        "upstream_id": "req_secretupstreamid",
        "attempts": 2,
        "time_to_first_token_ms": 40,
        "duration_ms": 900,
        "queue_ms": None,
        "surface": surface_pb2.SURFACE_RESPONSES,
        "cost": 1_234,
        "reserved_at": Timestamp(seconds=int(NOON), nanos=250_000_000),
        "slot": limits_pb2.Slot(number=4, limit=10, scope=limits_pb2.SCOPE_KEY),
        **TOKENS,
    }
    return usage_pb2.UsageRecord(**values | fields)


async def test_a_key_can_read_its_own_day(world: World) -> None:
    assert (await world.get("/key")).json() == {
        "object": "key",
        "id": KEY_ID,
        "name": "laptop",
        "plan": "free",
        "models": ["llama*"],
        "expires_at": "2027-01-01T00:00:00Z",
        "deduplicate_retries": True,
        "limits": [
            {"scope": "key", "unit": "requests", "window": "day", "limit": 10},
            {"scope": "account", "unit": "requests", "window": "day", "limit": 30},
            {"scope": "account", "unit": "concurrent_requests", "window": None, "limit": 20},
            {"scope": "key", "unit": "cost", "window": "month", "limit": 5_000_000},
        ],
        "limit": 10,
        "used": 3,
        "held": 1,
        "remaining": 6,
        "resets_at": "2026-11-23T00:00:00Z",
        "reset_in_seconds": 43_200,
    }


async def test_all_limits_of_a_key_and_its_account_are_listed_with_what_is_used(world: World) -> None:
    body = (await world.get("/limits")).json()

    assert body["object"] == "list"
    assert [(one["scope"], one["unit"], one["window"], one["limit"]) for one in body["data"]] == [
        ("key", "requests", "day", 10),
        ("account", "requests", "day", 999),
        ("account", "concurrent_requests", None, 20),
        ("key", "cost", "month", 5_000_000),
    ]
    assert body["data"][3] == {
        "object": "limit",
        "scope": "key",
        "unit": "cost",
        "window": "month",
        "limit": 5_000_000,
        "used": 3,
        "held": 1,
        "remaining": 4_999_996,
        "resets_at": "2026-11-23T00:00:00Z",
        "reset_in_seconds": 43_200,
    }
    assert (body["data"][2]["resets_at"], body["data"][2]["reset_in_seconds"]) == (None, None)


async def test_an_account_without_a_daily_limit_has_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quota counts its requests anyway."""

    async def authenticate(self: OnePrincipal, api_key: str, *, address: str = "") -> Principal:
        return replace(PRINCIPAL, account_limit=None)

    monkeypatch.setattr(OnePrincipal, "authenticate", authenticate)
    listed = [(one["scope"], one["window"]) for one in (await world.get("/limits")).json()["data"]]
    assert listed == [("key", "day"), ("account", None), ("key", "month")]
    assert ("account", "day") not in {
        (one["scope"], one["window"]) for one in (await world.get("/key")).json()["limits"]
    }


async def test_a_limit_lowered_below_use_leaves_zero_remaining(world: World) -> None:
    world.quota.charged = 50

    assert (await world.get("/key")).json()["remaining"] == 0


async def test_a_receipt_is_the_ledger_row_without_operator_fields(world: World) -> None:
    response = await world.get(f"/usage/{OWN}")

    assert response.json() == {
        "object": "usage.record",
        "id": OWN,
        "key_id": KEY_ID,
        "day": "2026-11-22",
        "created_at": "2026-11-22T12:00:00.250Z",
        "model": "llama",
        "upstream_model": "openai/gpt-oss-20b",
        "surface": "responses",
        "stream": True,
        "outcome": "answered",
        "charged": True,
        "refund_reason": None,
        "slot": {"number": 4, "limit": 10, "scope": "key"},
        "usage": {**TOKENS, "source": "reported"},
        "cost_microdollars": 1_234,
        "cost_usd": "0.001234",
        "attempts": 2,
        "time_to_first_token_ms": 40,
        "duration_ms": 900,
        "queue_ms": None,
    }
    assert "secret" not in response.text


async def test_a_request_without_a_slot_or_a_call_to_a_model_has_neither(world: World) -> None:
    world.usage.rows[OWN] = row(slot=None, attempts=0, upstream_model="llama")

    receipt = (await world.get(f"/usage/{OWN}")).json()

    assert (receipt["slot"], receipt["upstream_model"], receipt["model"]) == (None, None, "llama")


async def test_an_uncharged_request_has_a_reason_and_no_first_token_time(world: World) -> None:
    world.usage.rows[OWN] = row(charged=False, refund_reason="upstream_unavailable", time_to_first_token_ms=0)

    receipt = (await world.get(f"/usage/{OWN}")).json()

    assert (receipt["charged"], receipt["refund_reason"]) == (False, "upstream_unavailable")
    assert receipt["time_to_first_token_ms"] is None


async def test_another_accounts_request_and_an_unknown_one_get_the_same_answer(world: World) -> None:
    world.usage.rows[FOREIGN] = row(account_id="acc_2")

    foreign, unknown = await world.get(f"/usage/{FOREIGN}"), await world.get(f"/usage/{UNKNOWN}")

    assert foreign.status_code == unknown.status_code == 404
    assert foreign.text.replace(FOREIGN, UNKNOWN) == unknown.text
    assert dict(foreign.headers) == dict(unknown.headers)


@pytest.mark.parametrize("request_id", ["req_1", "chatcmpl-1", f"{OWN}0", "%00", "req_%F0%9F%98%80"])
async def test_an_invalid_request_id_is_404_without_a_call(world: World, request_id: str) -> None:
    response = await world.get(f"/usage/{request_id}")

    assert (response.status_code, response.json()["error"]["code"]) == (404, "request_not_found")
    assert world.usage.asked == []


async def test_usage_has_the_documented_members_of_the_account(world: World) -> None:
    body = (await world.get("/usage")).json()

    day = {"day": "2026-11-22", "model": "llama", "requests": 3, "released_requests": 1, **TOKENS}
    assert body == {"object": "list", "data": [{**day, "cost_microdollars": 1_500_000, "cost_usd": "1.50"}]}
    assert [(one.account_id, one.key_id) for one in world.usage.asked] == [("acc_1", "")]


@pytest.mark.parametrize(
    ("cost", "shown"), [pytest.param(0, [0, "0.00"], id="zero"), pytest.param(None, [None, None], id="not known")]
)
async def test_a_cost_that_is_not_known_is_null_and_not_zero(
    world: World, cost: int | None, shown: list[int | str | None]
) -> None:
    world.usage.rows[OWN] = row()
    world.usage.rows[OWN].ClearField("cost")
    if cost is not None:
        world.usage.rows[OWN].cost = cost
    world.usage.cost = cost

    receipt, usage = (await world.get(f"/usage/{OWN}")).json(), (await world.get("/usage")).json()

    for one in (receipt, usage["data"][0]):
        assert [one["cost_microdollars"], one["cost_usd"]] == shown


@pytest.mark.parametrize(
    ("params", "span"),
    [
        pytest.param({}, ("2026-10-24", ""), id="the last 30 days"),
        pytest.param({"from": "2026-11-01"}, ("2026-11-01", ""), id="from a day on"),
        pytest.param({"to": "2026-03-30"}, ("2026-03-01", "2026-03-30"), id="30 days to a day"),
        pytest.param({"from": "2026-02-01", "to": "2026-02-01"}, ("2026-02-01", "2026-02-01"), id="one day"),
        pytest.param({"to": "0001-01-02"}, ("0001-01-01", "0001-01-02"), id="the first days that there are"),
    ],
)
async def test_usage_covers_the_requested_days(world: World, params: dict[str, str], span: tuple[str, str]) -> None:
    assert (await world.get("/usage", **params)).status_code == 200

    assert [(one.from_day, one.to_day) for one in world.usage.asked] == [span]


async def test_usage_of_one_key_is_limited_to_the_account(world: World) -> None:
    await world.get("/usage", key_id=KEY_ID)

    assert [(one.account_id, one.key_id) for one in world.usage.asked] == [("acc_1", KEY_ID)]


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"from": "yesterday"}, "from"),
        ({"from": ""}, "from"),
        ({"from": "20261122"}, "from"),
        ({"from": "2026-W47-7"}, "from"),
        ({"from": "2026-02-30"}, "from"),
        ({"from": "202\u0666-11-22"}, "from"),
        ({"to": "2026-13-01"}, "to"),
        ({"from": "2026-11-22", "to": "2026-11-21"}, "from"),
        ({"key_id": ""}, "key_id"),
        ({"key_id": "sk_stk_secret"}, "key_id"),
        ({"key_id": "key_\0"}, "key_id"),
    ],
)
async def test_an_invalid_parameter_is_400_with_its_name_without_a_call(
    world: World, params: dict[str, str], named: str
) -> None:
    response = await world.get("/usage", **params)

    assert (response.status_code, response.json()["error"]["param"]) == (400, named)
    assert f"`{named}`" in response.json()["error"]["message"]
    assert world.usage.asked == []


@pytest.mark.parametrize("path", ["/key", "/usage", f"/usage/{OWN}"])
async def test_without_a_key_nothing_is_returned(world: World, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Basic dXNlcg=="}):
        response = await world.http.get(path, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/key", "quota_unavailable"),
        ("/usage", "inference_unavailable"),
        (f"/usage/{OWN}", "inference_unavailable"),
    ],
)
async def test_an_outage_is_503_and_names_the_unavailable_service(world: World, path: str, reason: str) -> None:
    await world.server.stop(0)

    response = await world.get(path)

    assert (response.status_code, response.json()["error"]["code"]) == (503, reason)
    assert response.headers["retry-after"] == "1"


async def test_the_reason_given_by_a_service_is_passed_on(world: World) -> None:
    world.quota.is_down = True

    response = await world.get("/key")

    assert (response.status_code, response.json()["error"]["code"]) == (503, "quota_unavailable")
    assert "Redis" in response.json()["error"]["message"]


async def test_a_service_that_does_not_answer_in_time_is_503(world: World) -> None:
    world.quota.delay_seconds = 30

    async with asyncio.timeout(5):
        response = await world.get("/key")

    assert (response.status_code, response.json()["error"]["code"]) == (503, "quota_unavailable")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (NOON, "2026-11-22T12:00:00Z"),
        (NOON + 0.001, "2026-11-22T12:00:00.001Z"),
        (NOON + 0.9999, "2026-11-22T12:00:01Z"),
        (0, "1970-01-01T00:00:00Z"),
    ],
)
def test_times_are_iso_8601_in_utc(seconds: float, text: str) -> None:
    assert iso_time(seconds) == text
