"""Contract of the gateway's ports; it applies to the gRPC adapters and to the local ones.

The domain objects are scripted. Each test runs over both adapters, the gRPC one with a real server and channel.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import msgspec
import pytest
from grpc import aio

from services.auth.keys.model import Denial, Key, KeyId, Verification
from services.auth.keys.verifier import KeyVerifier
from services.auth.rpc import AuthService
from services.auth.watch.feed import Change, ChangeEvent, ChangeFeed
from services.common.errors import (
    ErrorDetails,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    NotFound,
    ServiceError,
    Throttled,
    Unavailable,
)
from services.common.limits import Limit, Scope, Slot, Unit, Window, parse_limits
from services.common.rpc.channel import open_channel
from services.common.rpc.interceptors import ServiceInterceptor
from services.common.runtime.clock import SystemClock, utc_now
from services.common.surface import Surface
from services.common.verdict import CHARGED, RELEASED, Amounts, RowVerdict, Verdict
from services.gateway.apis.chat_completions.request import parse_chat
from services.gateway.apis.signed_receipts import ReceiptSigner
from services.gateway.apis.usage_webhook import UsageWebhook, UsageWebhooks
from services.gateway.clients.auth import GrpcAuthClient
from services.gateway.clients.batched_quota import BatchedQuota, QuotaBatches, ReserveItem, SettleItem
from services.gateway.clients.idempotency import GrpcIdempotencyStore
from services.gateway.clients.inference import GrpcInference
from services.gateway.clients.inference import multiplex_client as inference_client
from services.gateway.clients.quota import GrpcQuotaBatches
from services.gateway.clients.quota import multiplex_client as quota_client
from services.gateway.clients.refusals import GrpcRefusalRecord
from services.gateway.clients.responses import GrpcResponseStore
from services.gateway.clients.signed_receipts import GrpcReceiptSigner
from services.gateway.clients.usage_webhooks import GrpcUsageWebhooks
from services.gateway.keys.auth_client import AuthClient, Authentication, WatchEvent
from services.gateway.keys.refusals import RefusalRecord, RefusedRequests
from services.gateway.requests.idempotency_types import Claim, ClaimState, IdempotencyKey, IdempotencyStore
from services.gateway.requests.ports import Inference, ResponseStore
from services.gateway.requests.types import (
    Chat,
    CountedKey,
    Departure,
    Hold,
    JSONObject,
    LimitReached,
    Principal,
    RateLimit,
)
from services.inference.catalogue import Catalogue
from services.inference.chat import CallContext, ChatCall, Outcome
from services.inference.idempotency import model
from services.inference.idempotency.keys import KeysByKind
from services.inference.idempotency.rpc import IdempotencyService
from services.inference.key_pool.check import KeyCheck
from services.inference.ledger.writer import LedgerStore
from services.inference.receipts import signer as signing
from services.inference.receipts.rpc import ReceiptService
from services.inference.requests.lifecycle import Answer, Completions
from services.inference.responses.rpc import StoredResponseService
from services.inference.rpc import InferenceService, UsageService
from services.inference.webhooks.model import Webhook
from services.inference.webhooks.rpc import UsageWebhookService
from services.inference.webhooks.service import Webhooks
from services.local.adapters import (
    LocalAuthClient,
    LocalIdempotencyStore,
    LocalInference,
    LocalQuotaBatches,
    LocalReceiptSigner,
    LocalRefusalRecord,
    LocalResponseStore,
    LocalUsageWebhooks,
)
from services.quota import refusals as quota_refusals
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
from services.quota.rpc import QuotaService
from stack.auth.v1 import auth_pb2_grpc
from stack.inference.v1 import (
    idempotency_pb2_grpc,
    inference_pb2_grpc,
    receipts_pb2_grpc,
    responses_pb2_grpc,
    usage_pb2_grpc,
    webhooks_pb2_grpc,
)
from stack.quota.v1 import quota_pb2_grpc
from tests.integration.common.grpc_world import socket_path
from tests.integration.common.multiplexing import until_open

_SECONDS = 10
_DEADLINE_SECONDS = 0.3
_STATUS = DayStatus(20_000, 3, 1, 1_728_086_400.0)
_DAY = "2024-10-04"
_PRINCIPAL = Principal("key_1", "acc_1", 10, None, models=("llama*",))
_WEIGHT = 3
_OF_KEY = LimitStatus(Limit(Scope.KEY, Unit.REQUESTS, Window.DAY, 10), _STATUS)
_HOLD = Hold("req_1", _PRINCIPAL, _DAY, 1_728_000_000.25, RateLimit(10, 3, 1, _STATUS.reset_at))
_CHAT = Chat(
    {"messages": [{"role": "user", "content": "hi"}], "model": "llama"},
    stream=False,
    body_bytes=60,
    surface=Surface.RESPONSES,
)

ADAPTERS = pytest.mark.parametrize("adapter", ["grpc", "local"])
CALL_ADAPTERS = pytest.mark.parametrize("adapter", ["grpc", "multiplexed", "local"])
"""Those of quota and inference, whose calls may share a stream."""


@asynccontextmanager
async def _serving(register: Callable[[aio.Server], None]) -> AsyncIterator[aio.Channel]:
    server = aio.server(interceptors=[ServiceInterceptor()])
    register(server)
    path = socket_path()
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        async with open_channel(f"unix:{path}") as channel:
            await channel.channel_ready()
            yield channel
    finally:
        await server.stop(None)
        path.unlink(missing_ok=True)


async def _soon(work: Any) -> Any:
    return await asyncio.wait_for(work, _SECONDS)


# --- quota


@dataclass
class ScriptedHolds:
    """Stands in for `Holds`: returns the outcomes of a test, raises its error, or never returns."""

    outcomes: Sequence[Any] = ()
    error: Exception | None = None
    hangs: bool = False
    seen: list[Any] = field(default_factory=list)

    async def reserve(self, reservations: Sequence[Reservation]) -> Sequence[Any]:
        return await self._answer(reservations)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Any]:
        return await self._answer(settlements)

    async def _answer(self, items: Sequence[Any]) -> Sequence[Any]:
        self.seen.append(list(items))
        if self.hangs:
            await asyncio.Event().wait()
        if self.error:
            raise self.error
        return self.outcomes


@asynccontextmanager
async def _quota(
    adapter: str, holds: ScriptedHolds, *, timeout_seconds: float = _SECONDS
) -> AsyncIterator[QuotaBatches]:
    domain = cast(Holds, holds)
    if adapter == "local":
        yield LocalQuotaBatches(domain, timeout_seconds=timeout_seconds)
        return
    service = QuotaService(domain, cast(Any, None), cast(Any, None), cast(Any, None))
    async with _serving(lambda server: quota_pb2_grpc.add_QuotaServiceServicer_to_server(service, server)) as channel:
        if adapter == "grpc":
            yield GrpcQuotaBatches(channel, timeout_seconds=timeout_seconds)
            return
        async with quota_client(channel, timeout_seconds=timeout_seconds) as multiplexed:
            await until_open(multiplexed)
            yield GrpcQuotaBatches(channel, timeout_seconds=timeout_seconds, multiplexed=multiplexed)


@CALL_ADAPTERS
async def test_each_reserve_of_a_batch_gets_its_own_outcome(adapter: str) -> None:
    holds = ScriptedHolds([Held(_OF_KEY, 1_728_000_000.25), Denied(_OF_KEY), CounterUnavailable()])
    async with _quota(adapter, holds) as quota:
        held, denied, unavailable = await quota.reserve([ReserveItem(f"req_{n}", _PRINCIPAL) for n in range(3)])

    assert isinstance(held, Hold)
    assert (held.request_id, held.day, held.reserved_at) == ("req_0", _DAY, 1_728_000_000.25)
    assert held.rate_limit == RateLimit(10, 3, 1, _STATUS.reset_at)
    assert isinstance(denied, LimitReached)
    assert denied.rate_limit == held.rate_limit
    assert isinstance(unavailable, Unavailable)
    assert unavailable.reason == "quota_unavailable"
    assert holds.seen == [[Reservation(f"req_{n}", "key_1", "acc_1", 10) for n in range(3)]]


@CALL_ADAPTERS
async def test_the_accounts_limit_is_sent_and_shown_where_it_is_the_tightest(adapter: str) -> None:
    of_account = LimitStatus(Limit(Scope.ACCOUNT, Unit.REQUESTS, Window.DAY, 30), _STATUS)
    holds = ScriptedHolds([Held(of_account, 1_728_000_000.25), Denied(of_account)])
    principal = replace(_PRINCIPAL, account_limit=30)
    async with _quota(adapter, holds) as quota:
        held, denied = await quota.reserve([ReserveItem(f"req_{n}", principal) for n in range(2)])

    assert isinstance(held, Hold)
    assert held.rate_limit == RateLimit(30, 3, 1, _STATUS.reset_at, Scope.ACCOUNT)
    assert isinstance(denied, LimitReached)
    assert denied.rate_limit == held.rate_limit
    assert holds.seen == [[Reservation(f"req_{n}", "key_1", "acc_1", 10, 30) for n in range(2)]]


@CALL_ADAPTERS
async def test_quota_counts_an_account_that_continues_anothers_counts_under_that_ones_id(adapter: str) -> None:
    holds = ScriptedHolds([Held(_OF_KEY, 1_728_000_000.25)])
    principal = replace(_PRINCIPAL, quota_account_id="acc_old")
    async with _quota(adapter, holds) as quota:
        (held,) = await quota.reserve([ReserveItem("req_1", principal)])
        assert isinstance(held, Hold)
        await quota.settle([SettleItem(held, CHARGED)])

    assert holds.seen == [
        [Reservation("req_1", "key_1", "acc_old", 10)],
        [Settlement("req_1", "acc_old", 20_000, Verdict.CHARGED)],
    ]


@CALL_ADAPTERS
async def test_a_hold_that_cannot_be_closed_fails_alone(adapter: str) -> None:
    holds = ScriptedHolds([True, None, False])
    items = [SettleItem(_HOLD, verdict) for verdict in (CHARGED, RELEASED, RELEASED)]
    async with _quota(adapter, holds) as quota:
        results = await quota.settle(items)

    assert [type(result) for result in results] == [type(None), Unavailable, type(None)]
    assert holds.seen == [[Settlement("req_1", "acc_1", 20_000, item.verdict.verdict) for item in items]]


@CALL_ADAPTERS
@pytest.mark.parametrize("step", ["reserve", "settle"])
async def test_a_quota_that_does_not_answer_in_time_is_unavailable(adapter: str, step: str) -> None:
    async with _quota(adapter, ScriptedHolds(hangs=True), timeout_seconds=_DEADLINE_SECONDS) as quota:
        call = quota.reserve([ReserveItem("req_1", _PRINCIPAL)]) if step == "reserve" else None
        with pytest.raises(Unavailable) as raised:
            await _soon(call or quota.settle([SettleItem(_HOLD, CHARGED)]))
    assert raised.value.reason == "quota_unavailable"


@CALL_ADAPTERS
async def test_an_error_of_quota_arrives_with_its_reason(adapter: str) -> None:
    holds = ScriptedHolds(error=Unavailable("Redis is away.", reason="redis_unavailable"))
    async with _quota(adapter, holds) as quota:
        with pytest.raises(Unavailable) as raised:
            await quota.reserve([ReserveItem("req_1", _PRINCIPAL)])
    assert (raised.value.reason, raised.value.message) == ("redis_unavailable", "Redis is away.")


@CALL_ADAPTERS
async def test_an_unexpected_error_of_quota_is_an_internal_error_without_its_text(adapter: str) -> None:
    async with _quota(adapter, ScriptedHolds(error=ValueError("a secret"))) as quota:
        with pytest.raises(InternalError) as raised:
            await quota.reserve([ReserveItem("req_1", _PRINCIPAL)])
    assert "secret" not in raised.value.message


@CALL_ADAPTERS
async def test_a_client_that_disconnects_does_not_withdraw_the_reserves_of_others(adapter: str) -> None:
    holds = ScriptedHolds([Held(_OF_KEY, 1.0), Held(_OF_KEY, 1.0)])
    async with _quota(adapter, holds) as batches:
        quota = BatchedQuota(batches)
        leaving = asyncio.create_task(quota.reserve("req_1", _PRINCIPAL))
        staying = asyncio.create_task(quota.reserve("req_2", _PRINCIPAL))
        await asyncio.sleep(0)
        leaving.cancel()
        hold = await _soon(staying)
    assert hold.request_id == "req_2"
    assert [one.request_id for one in holds.seen[0]] == ["req_1", "req_2"]


@CALL_ADAPTERS
async def test_a_hold_whose_client_disconnected_during_its_reserve_is_released(adapter: str) -> None:
    holds = ScriptedHolds([Held(_OF_KEY, 1.0)])
    async with _quota(adapter, holds) as batches:
        quota = BatchedQuota(batches)
        leaving = asyncio.create_task(quota.reserve("req_1", _PRINCIPAL))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await _soon(quota.drain())
    assert holds.seen[1:] == [[Settlement("req_1", "acc_1", 20_000, Verdict.RELEASED)]]


# --- inference


@dataclass
class ScriptedCompletions:
    """Stands in for `Completions`: yields the parts of a test, raises an exception among them, or waits at the end."""

    parts: Sequence[Any] = ()
    waits: bool = False
    calls: list[tuple[ChatCall, CallContext]] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def create(self, call: ChatCall, context: CallContext) -> Answer:
        self.calls.append((call, context))
        try:
            self.began.set()
            if self.waits:
                await asyncio.Event().wait()
            (part,) = self.parts
            if isinstance(part, Exception):
                raise part
            return cast(Answer, part)
        finally:
            self.ended.set()

    async def stream(self, call: ChatCall, context: CallContext) -> AsyncGenerator[Any, None]:
        self.calls.append((call, context))
        try:
            for part in self.parts:
                if isinstance(part, Exception):
                    raise part
                yield part
            self.began.set()
            if self.waits:
                await asyncio.Event().wait()
        finally:
            self.ended.set()


class ScriptedStore:
    """Stands in for the ledger's store."""

    def __init__(self, *verdicts: RowVerdict | None) -> None:
        self._verdicts = list(verdicts)
        self.asked: list[tuple[str, Outcome | None]] = []

    async def resolve_abandoned(self, requests: Sequence[tuple[str, Outcome | None]]) -> list[RowVerdict | None]:
        self.asked += requests
        return [self._verdicts.pop(0) for _ in requests]


_MORE = {
    "root": "llama-9",
    "active": True,
    "name": None,
    "input_modalities": ["text", "image"],
    "supported_features": ["tools"],
}


class ScriptedCatalogue:
    """Stands in for the model list."""

    def list_models(self, *, permitted: Sequence[str] = ()) -> list[dict[str, Any]]:
        return [{"id": "llama", "object": "model", "created": 1, "owned_by": ",".join(permitted), **_MORE}]


@asynccontextmanager
async def _inference(
    adapter: str, completions: ScriptedCompletions, store: ScriptedStore | None = None
) -> AsyncIterator[Inference]:
    domain, catalogue = cast(Completions, completions), cast(Catalogue, ScriptedCatalogue())
    ledger = cast(LedgerStore, store or ScriptedStore())
    if adapter == "local":
        yield LocalInference(domain, catalogue, ledger, default_model="default")
        return
    chats = InferenceService(domain, catalogue, key_check=cast(KeyCheck, None), default_model="default")

    def register(server: aio.Server) -> None:
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(chats, server)
        usage_pb2_grpc.add_UsageServiceServicer_to_server(UsageService(ledger), server)

    async with _serving(register) as channel:
        if adapter == "grpc":
            yield GrpcInference(channel, timeout_seconds=_SECONDS)
            return
        async with inference_client(channel, timeout_seconds=_SECONDS) as multiplexed:
            await until_open(multiplexed)
            yield GrpcInference(channel, timeout_seconds=_SECONDS, multiplexed=multiplexed)


async def _ask(inference: Inference, received: list[Any], *, is_stream: bool, chat: Chat = _CHAT) -> None:
    if not is_stream:
        await inference.complete(_HOLD, chat)
        return
    async for part in inference.stream(_HOLD, chat):
        received.append(part)  # noqa: PERF401 - what came before an error is kept


_BODIES = [
    b'{"messages":[{"role":"user","content":"hi"}]}',
    b'{"messages":[{"role":"user","content":"hi"}],"model":"llama","temperature":1,"seed":5,"stop":["a","b"]}',
    b'{"messages":[{"role":"user","content":[{"type":"text","text":"caf\\u00e9 \\ud83d\\ude00"}]}],"model":"m","n":1}',
    b'{"messages":[{"role":"user","content":"hi","name":null}],"model":"m","top_p":0.30000000000000004}',
    b'{"messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true}}',
    b'{"messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":false}}',
    b'{"messages":[{"role":"user","content":"hi"}],"tools":[{"type":"function","function":{"name":"f","parameters":'
    b'{"type":"object","properties":{"x":{"type":"number","minimum":1e-7,"default":null}}}}}],"tool_choice":"auto"}',
    b'{"messages":[{"role":"user","content":"hi"}],"metadata":{"a":"b"},"logit_bias":{},"user":"u","response_format":'
    b'{"type":"json_schema","json_schema":{"name":"s","schema":{"a":[1,2.5,true,null,{"b":[]}]}}}}',
]


@CALL_ADAPTERS
async def test_the_account_and_the_one_of_its_counts_arrive_in_the_context(adapter: str) -> None:
    hold = replace(_HOLD, principal=replace(_PRINCIPAL, quota_account_id="acc_old"))
    completions = ScriptedCompletions([Answer(b"{}", CHARGED)])
    async with _inference(adapter, completions) as inference:
        await inference.complete(hold, _CHAT)
    ((_, context),) = completions.calls
    assert (context.account_id, context.quota_account_id) == ("acc_1", "acc_old")


@ADAPTERS
@pytest.mark.parametrize("scope", Scope)
async def test_the_slot_of_the_hold_arrives_in_the_context(adapter: str, scope: Scope) -> None:
    hold = replace(_HOLD, rate_limit=RateLimit(10, 3, 2, _STATUS.reset_at, scope))
    completions = ScriptedCompletions([Answer(b"{}", CHARGED)])
    async with _inference(adapter, completions) as inference:
        await inference.complete(hold, _CHAT)
    ((_, context),) = completions.calls
    assert context.slot == Slot(5, 10, scope)


@pytest.mark.parametrize("body", _BODIES)
async def test_all_adapters_pass_the_same_call_to_inference(body: bytes) -> None:
    chat = parse_chat(body)
    seen = []
    for adapter in ("grpc", "multiplexed", "local"):
        completions = ScriptedCompletions([Answer(b"{}", CHARGED)])
        async with _inference(adapter, completions) as inference:
            await inference.complete(_HOLD, chat)
        seen.append(completions.calls[0])
    (call, context), *others = seen

    for other_call, other_context in others:
        assert _json(other_call.members) == _json(call.members)
        assert (other_call.model, other_call.include_usage) == (call.model, call.include_usage)
        assert other_context == context


@CALL_ADAPTERS
@pytest.mark.parametrize("is_stream", [False, True])
async def test_the_surface_of_a_request_arrives_in_its_context(adapter: str, is_stream: bool) -> None:
    completions = ScriptedCompletions([] if is_stream else [Answer(b"{}", CHARGED)])
    async with _inference(adapter, completions) as inference:
        for surface in Surface:
            await _ask(inference, [], is_stream=is_stream, chat=replace(_CHAT, surface=surface))
    assert [context.surface for _, context in completions.calls] == list(Surface)


@CALL_ADAPTERS
async def test_the_weight_of_the_account_arrives_in_the_context(adapter: str) -> None:
    completions = ScriptedCompletions([Answer(b"{}", CHARGED)])
    async with _inference(adapter, completions) as inference:
        for weight in (1, _WEIGHT):
            await inference.complete(replace(_HOLD, principal=replace(_PRINCIPAL, weight=weight)), _CHAT)

    assert [context.weight for _, context in completions.calls] == [1, _WEIGHT]


def _json(members: JSONObject) -> Any:
    """Return the request that Groq receives; some members are raw JSON."""
    return msgspec.json.decode(msgspec.json.encode(members))


@CALL_ADAPTERS
async def test_an_answer_arrives_with_its_verdict(adapter: str) -> None:
    members = {"id": "chatcmpl-1", "choices": [{"index": 0, "message": {"content": "é"}}], "extra": None}
    async with _inference(adapter, ScriptedCompletions([Answer(msgspec.json.encode(members), CHARGED)])) as inference:
        completion = await inference.complete(_HOLD, _CHAT)
    assert msgspec.json.decode(completion.body) == members
    assert completion.verdict == CHARGED


@CALL_ADAPTERS
@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_error_arrives_with_its_verdict_and_facts(adapter: str, is_stream: bool) -> None:
    error = InvalidRequest("No.", reason="refused", details=ErrorDetails(param="model", verdict=Verdict.RELEASED))
    parts = [[b'{"id":"1"}'], error] if is_stream else [error]
    received: list[Any] = []
    async with _inference(adapter, ScriptedCompletions(parts)) as inference:
        with pytest.raises(InvalidRequest) as raised:
            await _ask(inference, received, is_stream=is_stream)
    assert (raised.value.message, raised.value.reason) == ("No.", "refused")
    assert raised.value.details == error.details
    assert received == ([[b'{"id":"1"}']] if is_stream else [])


@CALL_ADAPTERS
@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_unexpected_error_of_inference_is_an_internal_error_without_its_text(
    adapter: str, is_stream: bool
) -> None:
    async with _inference(adapter, ScriptedCompletions([ValueError("a secret")])) as inference:
        with pytest.raises(InternalError) as raised:
            await _ask(inference, [], is_stream=is_stream)
    assert "secret" not in raised.value.message


@CALL_ADAPTERS
async def test_events_that_arrive_together_are_delivered_together_and_the_verdict_last(adapter: str) -> None:
    parts = [[b'{"a":1}', b'{"b":2}'], [b'{"c":3}'], RowVerdict(Verdict.CHARGED, Amounts(7, 9))]
    async with _inference(adapter, ScriptedCompletions(parts)) as inference:
        received = [part async for part in inference.stream(_HOLD, _CHAT)]
    assert received == [[b'{"a":1}', b'{"b":2}'], [b'{"c":3}'], *received[2:]]
    assert [part for part in received[2:] if part is not None] == [parts[-1]]


@CALL_ADAPTERS
async def test_cancelling_a_call_cancels_it_in_inference(adapter: str) -> None:
    completions = ScriptedCompletions(waits=True)
    async with _inference(adapter, completions) as inference:
        call = asyncio.create_task(inference.complete(_HOLD, _CHAT))
        await _soon(completions.began.wait())
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await _soon(completions.ended.wait())


@CALL_ADAPTERS
async def test_closing_a_stream_ends_it_in_inference(adapter: str) -> None:
    completions = ScriptedCompletions([[b'{"a":1}']], waits=True)
    async with _inference(adapter, completions) as inference:
        async with aclosing(inference.stream(_HOLD, _CHAT)) as events:
            assert await _soon(anext(events)) == [b'{"a":1}']
        await _soon(completions.ended.wait())


@CALL_ADAPTERS
async def test_cancelling_the_reader_of_a_stream_ends_it_in_inference(adapter: str) -> None:
    completions = ScriptedCompletions([[b'{"a":1}']], waits=True)
    async with _inference(adapter, completions) as inference:

        async def read() -> None:
            async with aclosing(inference.stream(_HOLD, _CHAT)) as events:
                async for _ in events:
                    pass

        reader = asyncio.create_task(read())
        await _soon(completions.began.wait())
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await _soon(completions.ended.wait())


@CALL_ADAPTERS
async def test_abandoned_requests_are_resolved_with_their_reason(adapter: str) -> None:
    store = ScriptedStore(CHARGED, None)
    async with _inference(adapter, ScriptedCompletions(), store) as inference:
        first = await inference.resolve_abandoned(_HOLD, Departure.KEY_REVOKED)
        second = await inference.resolve_abandoned(_HOLD, None)
    assert (first, second) == (CHARGED, None)
    assert store.asked == [("req_1", Outcome.KEY_REVOKED), ("req_1", None)]


@CALL_ADAPTERS
async def test_models_are_listed_for_the_patterns_of_a_key(adapter: str) -> None:
    async with _inference(adapter, ScriptedCompletions()) as inference:
        (model,) = await inference.list_models(("llama*", "qwen"))
    assert (model["id"], model["owned_by"]) == ("llama", "llama*,qwen")
    assert {name: model[name] for name in _MORE} == _MORE


# --- refused requests


@dataclass
class ScriptedRefusalStore:
    """Stands in for `RefusalStore`: records what is recorded, raises the error of a test, or never returns."""

    error: Exception | None = None
    hangs: bool = False
    seen: list[quota_refusals.RefusedRequests] = field(default_factory=list)

    async def record(self, refusals: Sequence[quota_refusals.RefusedRequests]) -> None:
        self.seen += refusals
        if self.hangs:
            await asyncio.Event().wait()
        if self.error:
            raise self.error


@asynccontextmanager
async def _refusal_record(
    adapter: str, store: ScriptedRefusalStore, *, timeout_seconds: float = _SECONDS
) -> AsyncIterator[RefusalRecord]:
    if adapter == "local":
        yield LocalRefusalRecord(cast(Any, store), timeout_seconds=timeout_seconds)
        return
    nothing = cast(Any, None)
    service = QuotaService(nothing, nothing, nothing, cast(Any, store))
    async with _serving(lambda server: quota_pb2_grpc.add_QuotaServiceServicer_to_server(service, server)) as channel:
        yield GrpcRefusalRecord(channel, timeout_seconds=timeout_seconds)


_REFUSED = RefusedRequests(CountedKey("key_1", "acc_old"), 429, "rate_limit_exceeded", 3, 7.9)


@ADAPTERS
async def test_refused_requests_are_recorded_under_the_account_that_quota_counts(adapter: str) -> None:
    store = ScriptedRefusalStore()
    async with _refusal_record(adapter, store) as record:
        await record.record([_REFUSED])
    assert store.seen == [quota_refusals.RefusedRequests(KeyRef("acc_old", "key_1"), 429, "rate_limit_exceeded", 3, 7)]


@ADAPTERS
@pytest.mark.parametrize(
    "store", [ScriptedRefusalStore(hangs=True), ScriptedRefusalStore(Unavailable("away", reason="quota_unavailable"))]
)
async def test_a_quota_that_does_not_record_refused_requests_is_unavailable(
    adapter: str, store: ScriptedRefusalStore
) -> None:
    async with _refusal_record(adapter, store, timeout_seconds=_DEADLINE_SECONDS) as record:
        with pytest.raises(Unavailable) as raised:
            await _soon(record.record([_REFUSED]))
    assert raised.value.reason == "quota_unavailable"


# --- auth


class ScriptedVerifier:
    """Stands in for `KeyVerifier`."""

    def __init__(self, outcome: Key | Denial | Exception | None, denied_key: Key | None = None) -> None:
        self._outcome = outcome
        self._denied_key = denied_key

    async def authenticate(self, secret: str) -> Verification:
        if self._outcome is None:
            await asyncio.Event().wait()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return Verification(cast(Any, self._outcome), 7, self._denied_key)


class ScriptedFeed:
    """Stands in for `ChangeFeed`."""

    def __init__(self, *events: ChangeEvent | ServiceError) -> None:
        self._events = events
        self.is_closed = asyncio.Event()

    async def watch(self, after_revision: int | None) -> AsyncGenerator[ChangeEvent, None]:
        assert after_revision == 3
        try:
            for event in self._events:
                if isinstance(event, ServiceError):
                    raise event
                yield event
            await asyncio.Event().wait()
        finally:
            self.is_closed.set()


@asynccontextmanager
async def _auth(
    adapter: str, verifier: ScriptedVerifier, feed: ScriptedFeed | None = None, *, timeout_seconds: float = _SECONDS
) -> AsyncIterator[AuthClient]:
    keys, changes = cast(KeyVerifier, verifier), cast(ChangeFeed, feed or ScriptedFeed())
    if adapter == "local":
        yield LocalAuthClient(keys, changes, timeout_seconds=timeout_seconds)
        return
    service = AuthService(keys, changes)
    async with _serving(lambda server: auth_pb2_grpc.add_AuthServiceServicer_to_server(service, server)) as channel:
        yield GrpcAuthClient(channel, timeout_seconds=timeout_seconds)


def _key(**changes: Any) -> Key:
    now = utc_now(SystemClock())
    facts = {"name": "k", "prefix": "sk", "daily_limit": 5, "created_at": now, "revoked_at": None, "expires_at": None}
    return Key(KeyId("key_1"), cast(Any, "acc_1"), **{**facts, **changes})


@ADAPTERS
async def test_a_key_is_authenticated_with_all_of_its_permissions(adapter: str) -> None:
    expires_at = utc_now(SystemClock()).replace(microsecond=250_000)
    limits = parse_limits(["account:concurrent_requests=20", "key:cost:month=$5"])
    more: dict[str, Any] = {"models": ("a", "b*"), "limits": limits, "weight": 4, "quota_account_id": "acc_old"}
    more |= {"plan": "pro", "deduplicate_retries": True}
    async with _auth(adapter, ScriptedVerifier(_key(expires_at=expires_at, **more))) as auth:
        found = await auth.authenticate("sk_stk_1")
    assert found.principal is not None
    assert found.principal.expires_at == pytest.approx(expires_at.timestamp(), abs=1e-6)
    principal = Principal("key_1", "acc_1", 5, found.principal.expires_at, **more, key_name="k")
    assert found == Authentication(principal, "", 7)


@ADAPTERS
@pytest.mark.parametrize("denial", Denial)
async def test_a_denial_arrives_with_its_reason(adapter: str, denial: Denial) -> None:
    async with _auth(adapter, ScriptedVerifier(denial)) as auth:
        assert await auth.authenticate("sk_stk_1") == Authentication(None, denial.value, 7)


@ADAPTERS
@pytest.mark.parametrize(("continues", "counted"), [(None, "acc_1"), ("acc_old", "acc_old")])
async def test_a_denial_names_the_key_as_quota_counts_it(adapter: str, continues: str | None, counted: str) -> None:
    key = _key(quota_account_id=continues)
    async with _auth(adapter, ScriptedVerifier(Denial.REVOKED, key)) as auth:
        assert await auth.authenticate("sk_stk_1") == Authentication(None, "revoked", 7, CountedKey("key_1", counted))


@ADAPTERS
@pytest.mark.parametrize("outcome", [None, Unavailable("The database is away.", reason="auth_unavailable")])
async def test_an_auth_that_cannot_answer_is_unavailable(adapter: str, outcome: Exception | None) -> None:
    async with _auth(adapter, ScriptedVerifier(outcome), timeout_seconds=_DEADLINE_SECONDS) as auth:
        with pytest.raises(Unavailable) as raised:
            await _soon(auth.authenticate("sk_stk_1"))
    assert raised.value.reason == "auth_unavailable"


@ADAPTERS
async def test_changes_of_keys_are_watched_until_the_watch_is_closed(adapter: str) -> None:
    feed = ScriptedFeed(
        ChangeEvent(4),
        ChangeEvent(5, Change(KeyId("key_1"), 5, is_revoked=True)),
        ChangeEvent(6, Change(None, 6)),
    )
    async with _auth(adapter, ScriptedVerifier(Denial.UNKNOWN), feed) as auth:
        async with aclosing(cast(AsyncGenerator[WatchEvent, None], auth.watch(3))) as events:
            seen = [await _soon(anext(events)) for _ in range(3)]
        await _soon(feed.is_closed.wait())
    assert seen == [
        WatchEvent(4),
        WatchEvent(5, "key_1", is_revoked=True),
        WatchEvent(6, "", all_keys_changed=True),
    ]


@ADAPTERS
async def test_a_broken_watch_raises(adapter: str) -> None:
    feed = ScriptedFeed(ChangeEvent(4), Unavailable("The database is away.", reason="auth_unavailable"))
    async with _auth(adapter, ScriptedVerifier(Denial.UNKNOWN), feed) as auth:
        events = auth.watch(3)
        assert await _soon(anext(events)) == WatchEvent(4)
        with pytest.raises(Unavailable):
            await _soon(anext(events))


# --- stored responses


@dataclass
class ScriptedResponses:
    """Stands in for the store of responses: records its calls, and raises the error of a test or never returns."""

    error: Exception | None = None
    hangs: bool = False
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    async def check(self) -> None:
        await self._called("check")

    async def store(self, account_id: str, response_id: str, content: bytes) -> None:
        await self._called("store", account_id, response_id, content)

    async def get(self, account_id: str, response_id: str) -> bytes:
        await self._called("get", account_id, response_id)
        return _CONTENT

    async def delete(self, account_id: str, response_id: str) -> None:
        await self._called("delete", account_id, response_id)

    async def delete_account(self, account_id: str) -> None:
        await self._called("delete_account", account_id)

    async def _called(self, *call: Any) -> None:
        self.calls.append(call)
        if self.hangs:
            await asyncio.Event().wait()
        if self.error:
            raise self.error


_CONTENT = bytes(range(256)) * 4_096
_CALLS: list[Callable[[ResponseStore], Any]] = [
    lambda store: store.is_enabled(),
    lambda store: store.store("acc_1", "resp_1", _CONTENT),
    lambda store: store.get("acc_1", "resp_1"),
    lambda store: store.delete("acc_1", "resp_1"),
    lambda store: store.delete_account("acc_1"),
]
RESPONSE_CALLS = pytest.mark.parametrize("call", _CALLS, ids=["is_enabled", "store", "get", "delete", "account"])


@asynccontextmanager
async def _responses(
    adapter: str, domain: ScriptedResponses | None, *, timeout_seconds: float = _SECONDS
) -> AsyncIterator[ResponseStore]:
    if adapter == "local":
        yield LocalResponseStore(domain, timeout_seconds=timeout_seconds)
        return
    service = StoredResponseService(domain)

    def register(server: aio.Server) -> None:
        responses_pb2_grpc.add_StoredResponseServiceServicer_to_server(service, server)

    async with _serving(register) as channel:
        yield GrpcResponseStore(channel, timeout_seconds=timeout_seconds)


@ADAPTERS
async def test_calls_to_stored_responses_arrive(adapter: str) -> None:
    domain = ScriptedResponses()
    async with _responses(adapter, domain) as store:
        answers = [await call(store) for call in _CALLS]
    assert answers == [True, None, _CONTENT, None, None]
    owned = ("acc_1", "resp_1")
    expected = [("check",), ("store", *owned, _CONTENT), ("get", *owned), ("delete", *owned)]
    assert domain.calls == [*expected, ("delete_account", "acc_1")]


@ADAPTERS
async def test_responses_that_are_not_stored_are_not_enabled(adapter: str) -> None:
    async with _responses(adapter, None) as store:
        assert [await store.is_enabled() for _ in range(2)] == [False, False]
        for call in _CALLS[1:]:
            with pytest.raises(FailedPrecondition, match="INFERENCE_RESPONSES_REDIS_URL"):
                await call(store)


@ADAPTERS
@RESPONSE_CALLS
@pytest.mark.parametrize("kind", [Unavailable, NotFound])
async def test_an_error_of_stored_responses_arrives_with_its_reason(
    adapter: str, call: Callable[[ResponseStore], Any], kind: type[ServiceError]
) -> None:
    async with _responses(adapter, ScriptedResponses(kind("The cause.", reason="a_reason"))) as store:
        with pytest.raises(kind) as raised:
            await call(store)
    assert (raised.value.message, raised.value.reason) == ("The cause.", "a_reason")


@ADAPTERS
@RESPONSE_CALLS
async def test_stored_responses_that_do_not_answer_in_time_are_unavailable(
    adapter: str, call: Callable[[ResponseStore], Any]
) -> None:
    async with _responses(adapter, ScriptedResponses(hangs=True), timeout_seconds=_DEADLINE_SECONDS) as store:
        with pytest.raises(Unavailable) as raised:
            await _soon(call(store))
    assert raised.value.reason == "inference_unavailable"


@ADAPTERS
async def test_an_unexpected_error_of_stored_responses_is_internal_without_its_text(adapter: str) -> None:
    async with _responses(adapter, ScriptedResponses(ValueError("a secret"))) as store:
        with pytest.raises(InternalError) as raised:
            await store.get("acc_1", "resp_1")
    assert "secret" not in raised.value.message


async def test_an_inference_of_the_previous_version_stores_no_responses() -> None:
    async with _serving(lambda server: None) as channel:
        assert not await GrpcResponseStore(channel, timeout_seconds=_SECONDS).is_enabled()


async def test_a_gateway_notices_within_seconds_that_responses_are_stored() -> None:
    now = 0.0
    service = StoredResponseService(None)
    async with _serving(
        lambda server: responses_pb2_grpc.add_StoredResponseServiceServicer_to_server(service, server)
    ) as channel:
        store = GrpcResponseStore(channel, timeout_seconds=_SECONDS, monotonic=lambda: now)
        assert not await store.is_enabled()
        service._store = ScriptedResponses()
        assert not await store.is_enabled()
        now = 10.0
        assert await store.is_enabled()


@pytest.mark.parametrize(
    ("account", "response"), [("", "resp_1"), ("a" * 65, "resp_1"), ("acc_1", ""), ("acc_1", "resp_1 2")]
)
async def test_calls_with_invalid_ids_are_refused(account: str, response: str) -> None:
    async with _responses("grpc", ScriptedResponses()) as store:
        with pytest.raises(InvalidRequest):
            await store.get(account, response)


# --- idempotency keys


_CLAIM = model.Claim(model.State.CLAIMED, "req_1")


@dataclass
class ScriptedKeys:
    """Stands in for idempotency keys: records its calls, returns a claim, raises an error or never returns."""

    result: model.Claim = _CLAIM
    error: Exception | None = None
    hangs: bool = False
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    async def claim(self, key: model.ClaimedKey, claimant: model.Claimant) -> model.Claim:
        await self._called("claim", key, claimant)
        return self.result

    async def rename(self, key: model.ClaimedKey, request_id: str, new_request_id: str) -> None:
        await self._called("rename", key, request_id, new_request_id)

    async def complete(self, key: model.ClaimedKey, request_id: str, content: bytes) -> None:
        await self._called("complete", key, request_id, content)

    async def release(self, key: model.ClaimedKey, request_id: str) -> None:
        await self._called("release", key, request_id)

    async def _called(self, *call: Any) -> None:
        self.calls.append(call)
        if self.hangs:
            await asyncio.Event().wait()
        if self.error:
            raise self.error


_DIGEST, _FINGERPRINT = bytes(range(32)), bytes(range(32, 64))
_KEY = IdempotencyKey("acc_1", "key_1", _DIGEST)
_KEY_CALLS: list[Callable[[IdempotencyStore], Any]] = [
    lambda store: store.claim(_KEY, _FINGERPRINT, "req_1"),
    lambda store: store.rename(_KEY, "req_1", "req_2"),
    lambda store: store.complete(_KEY, "req_1", _CONTENT),
    lambda store: store.release(_KEY, "req_1"),
]
KEY_CALLS = pytest.mark.parametrize("call", _KEY_CALLS, ids=["claim", "rename", "complete", "release"])


@asynccontextmanager
async def _idempotency(
    adapter: str, domain: model.IdempotencyKeys | None, *, timeout_seconds: float = _SECONDS
) -> AsyncIterator[IdempotencyStore]:
    if adapter == "local":
        yield LocalIdempotencyStore(domain, timeout_seconds=timeout_seconds)
        return
    service = IdempotencyService(domain)

    def register(server: aio.Server) -> None:
        idempotency_pb2_grpc.add_IdempotencyServiceServicer_to_server(service, server)

    async with _serving(register) as channel:
        yield GrpcIdempotencyStore(channel, timeout_seconds=timeout_seconds)


@ADAPTERS
async def test_calls_to_idempotency_keys_arrive(adapter: str) -> None:
    domain = ScriptedKeys()
    async with _idempotency(adapter, domain) as store:
        answers = [await call(store) for call in _KEY_CALLS]
    assert answers == [Claim(ClaimState.CLAIMED, "req_1"), None, None, None]
    key = model.ClaimedKey("acc_1", _DIGEST)
    assert domain.calls == [
        ("claim", key, model.Claimant("req_1", "key_1", _FINGERPRINT)),
        ("rename", key, "req_1", "req_2"),
        ("complete", key, "req_1", _CONTENT),
        ("release", key, "req_1"),
    ]


@ADAPTERS
async def test_calls_to_implicit_keys_arrive(adapter: str) -> None:
    domain, key = ScriptedKeys(), replace(_KEY, is_implicit=True)
    async with _idempotency(adapter, domain) as store:
        for replaces in (True, False):
            claim = await store.claim(key, _FINGERPRINT, "req_1", replaces=replaces)
            assert claim == Claim(ClaimState.CLAIMED, "req_1")
        await store.rename(key, "req_1", "req_2")
        await store.complete(key, "req_1", _CONTENT)
        await store.release(key, "req_1")
    claimed = model.ClaimedKey("acc_1", _DIGEST, is_implicit=True)
    assert domain.calls == [
        ("claim", claimed, model.Claimant("req_1", "key_1", _FINGERPRINT, replaces=True)),
        ("claim", claimed, model.Claimant("req_1", "key_1", _FINGERPRINT)),
        ("rename", claimed, "req_1", "req_2"),
        ("complete", claimed, "req_1", _CONTENT),
        ("release", claimed, "req_1"),
    ]


@ADAPTERS
async def test_one_kind_of_keys_that_is_off_does_not_switch_off_the_other(adapter: str) -> None:
    domain = KeysByKind(ScriptedKeys(), None)
    async with _idempotency(adapter, domain) as store:
        for _ in range(2):
            implicit = replace(_KEY, is_implicit=True)
            assert await store.claim(implicit, _FINGERPRINT, "req_1", replaces=True) == Claim(ClaimState.DISABLED)
            assert await store.claim(_KEY, _FINGERPRINT, "req_1") == Claim(ClaimState.CLAIMED, "req_1")


@ADAPTERS
@pytest.mark.parametrize("state", list(ClaimState))
async def test_each_state_of_a_claim_arrives(adapter: str, state: ClaimState) -> None:
    result = model.Claim(model.State(state.value), "req_1", _CONTENT)
    async with _idempotency(adapter, ScriptedKeys(result)) as store:
        assert await store.claim(_KEY, _FINGERPRINT, "req_2") == Claim(state, "req_1", _CONTENT)


@ADAPTERS
async def test_idempotency_keys_that_are_off_are_disabled(adapter: str) -> None:
    async with _idempotency(adapter, None) as store:
        for _ in range(2):
            assert await store.claim(_KEY, _FINGERPRINT, "req_1") == Claim(ClaimState.DISABLED)
        for call in _KEY_CALLS[1:]:
            with pytest.raises(FailedPrecondition):
                await call(store)


@ADAPTERS
@KEY_CALLS
@pytest.mark.parametrize("kind", [Unavailable, Throttled])
async def test_an_error_of_idempotency_keys_arrives_with_its_reason(
    adapter: str, call: Callable[[IdempotencyStore], Any], kind: type[ServiceError]
) -> None:
    async with _idempotency(adapter, ScriptedKeys(error=kind("The cause.", reason="a_reason"))) as store:
        with pytest.raises(kind) as raised:
            await call(store)
    assert (raised.value.message, raised.value.reason) == ("The cause.", "a_reason")


@ADAPTERS
@KEY_CALLS
async def test_idempotency_keys_that_do_not_answer_in_time_are_unavailable(
    adapter: str, call: Callable[[IdempotencyStore], Any]
) -> None:
    async with _idempotency(adapter, ScriptedKeys(hangs=True), timeout_seconds=_DEADLINE_SECONDS) as store:
        with pytest.raises(Unavailable) as raised:
            await _soon(call(store))
    assert raised.value.reason == "inference_unavailable"


async def test_an_inference_of_the_previous_version_ignores_idempotency_keys() -> None:
    async with _serving(lambda server: None) as channel:
        store = GrpcIdempotencyStore(channel, timeout_seconds=_SECONDS)
        for key in (_KEY, replace(_KEY, is_implicit=True)):
            assert await store.claim(key, _FINGERPRINT, "req_1") == Claim(ClaimState.DISABLED)


@pytest.mark.parametrize("is_implicit", [False, True])
@pytest.mark.parametrize(
    ("key", "fingerprint", "request_id"),
    [
        (replace(_KEY, account_id=""), _FINGERPRINT, "req_1"),
        (replace(_KEY, account_id="acc}1"), _FINGERPRINT, "req_1"),
        (replace(_KEY, key_id="key 1"), _FINGERPRINT, "req_1"),
        (replace(_KEY, digest=b"short"), _FINGERPRINT, "req_1"),
        (_KEY, b"", "req_1"),
        (_KEY, _FINGERPRINT, "req 1"),
    ],
)
async def test_claims_with_invalid_ids_or_digests_are_refused(
    key: IdempotencyKey, fingerprint: bytes, request_id: str, is_implicit: bool
) -> None:
    async with _idempotency("grpc", ScriptedKeys()) as store:
        with pytest.raises(InvalidRequest):
            await store.claim(replace(key, is_implicit=is_implicit), fingerprint, request_id)


# --- signed receipts


class ScriptedSigner:
    """Stands in for `ReceiptSigner` of inference."""

    def __init__(self, error: Exception | None = None, *, hangs: bool = False) -> None:
        self._error = error
        self._hangs = hangs

    async def sign(self, request_id: str, *, account_id: str) -> str:
        if self._hangs:
            await asyncio.Event().wait()
        if self._error:
            raise self._error
        return f"{request_id} of {account_id}"

    @property
    def key_set(self) -> bytes:
        if self._error:
            raise self._error
        return b'{"keys":[]}'


@asynccontextmanager
async def _signer(
    adapter: str, domain: ScriptedSigner, *, timeout_seconds: float = _SECONDS
) -> AsyncIterator[ReceiptSigner]:
    signer = cast(signing.ReceiptSigner, domain)
    if adapter == "local":
        yield LocalReceiptSigner(signer, timeout_seconds=timeout_seconds)
        return
    service = ReceiptService(signer)
    async with _serving(
        lambda server: receipts_pb2_grpc.add_ReceiptServiceServicer_to_server(service, server)
    ) as channel:
        yield GrpcReceiptSigner(channel, timeout_seconds=timeout_seconds)


@ADAPTERS
async def test_signed_receipts_and_their_keys_arrive(adapter: str) -> None:
    async with _signer(adapter, ScriptedSigner()) as signer:
        assert await signer.sign("req_1", account_id="acc_1") == "req_1 of acc_1"
        assert await signer.key_set() == b'{"keys":[]}'


@ADAPTERS
async def test_an_error_of_signed_receipts_arrives_with_its_reason(adapter: str) -> None:
    async with _signer(adapter, ScriptedSigner(NotFound("Not signed.", reason="receipts_unsigned"))) as signer:
        for call in (signer.sign("req_1", account_id="acc_1"), signer.key_set()):
            with pytest.raises(NotFound) as raised:
                await call
            assert (raised.value.message, raised.value.reason) == ("Not signed.", "receipts_unsigned")


@ADAPTERS
async def test_a_receipt_that_is_not_signed_in_time_is_unavailable(adapter: str) -> None:
    async with _signer(adapter, ScriptedSigner(hangs=True), timeout_seconds=_DEADLINE_SECONDS) as signer:
        with pytest.raises(Unavailable) as raised:
            await _soon(signer.sign("req_1", account_id="acc_1"))
    assert raised.value.reason == "inference_unavailable"


async def test_a_receipt_without_an_account_is_refused() -> None:
    async with _signer("grpc", ScriptedSigner()) as signer:
        with pytest.raises(InvalidRequest, match="account_id"):
            await signer.sign("req_1", account_id="")


# --- usage webhooks


class ScriptedWebhooks:
    """Stands in for `Webhooks` of inference."""

    webhook = Webhook("acc_1", "whk_1", "https://example.com/", b"sealed", "2026-11-29", 1_795_997_700.5, 3, "Why.")

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    async def set(self, account_id: str, url: str) -> tuple[Webhook, str]:
        return replace(await self.get(account_id), url=url), "whsec_x"

    async def get(self, account_id: str) -> Webhook:
        if self._error:
            raise self._error
        return replace(self.webhook, next_attempt_at=None if account_id == "acc_2" else 1_795_997_700.5)

    async def delete(self, account_id: str) -> bool:
        return account_id == "acc_1"


@asynccontextmanager
async def _webhooks(adapter: str, domain: ScriptedWebhooks) -> AsyncIterator[UsageWebhooks]:
    webhooks = cast(Webhooks, domain)
    if adapter == "local":
        yield LocalUsageWebhooks(webhooks, timeout_seconds=_SECONDS)
        return
    service = UsageWebhookService(webhooks)
    async with _serving(
        lambda server: webhooks_pb2_grpc.add_UsageWebhookServiceServicer_to_server(service, server)
    ) as channel:
        yield GrpcUsageWebhooks(channel, timeout_seconds=_SECONDS)


@ADAPTERS
async def test_usage_webhooks_arrive_without_their_stored_secret(adapter: str) -> None:
    expected = UsageWebhook("whk_1", "https://example.com/", "2026-11-29", 1_795_997_700.5, 3, "Why.")
    async with _webhooks(adapter, ScriptedWebhooks()) as webhooks:
        assert await webhooks.get("acc_1") == expected
        assert await webhooks.get("acc_2") == replace(expected, next_attempt_at=None)
        assert await webhooks.set("acc_1", "https://a.b/") == (replace(expected, url="https://a.b/"), "whsec_x")
        assert [await webhooks.delete(account_id) for account_id in ("acc_1", "acc_2")] == [True, False]


@ADAPTERS
async def test_an_error_of_usage_webhooks_arrives_with_its_parameter(adapter: str) -> None:
    error = InvalidRequest("Invalid `url`.", reason="invalid_webhook_url", details=ErrorDetails(param="url"))
    async with _webhooks(adapter, ScriptedWebhooks(error)) as webhooks:
        with pytest.raises(InvalidRequest) as raised:
            await webhooks.set("acc_1", "http://10.0.0.1/")
    assert (raised.value.reason, raised.value.details.param) == ("invalid_webhook_url", "url")
