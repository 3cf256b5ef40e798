"""The gateway's ports over gRPC: auth, quota and inference."""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

from grpc import aio

from services.common.rpc import json_codec
from services.common.concurrency.batch import Batcher
from services.common.errors import Unavailable, rpc_errors
from services.common.runtime.memory import Trimmer
from services.common.timestamps import unix_seconds
from services.gateway.clients import translate
from services.gateway.keys.auth_client import Authentication, WatchEvent
from services.gateway.requests.pipeline import (
    Chat,
    Completion,
    Departure,
    Hold,
    LimitReached,
    JSONObject,
    Principal,
    RateLimit,
    Verdict,
)
from stack.auth.v1 import auth_pb2, auth_pb2_grpc
from stack.inference.v1 import inference_pb2, inference_pb2_grpc, usage_pb2, usage_pb2_grpc
from stack.quota.v1 import quota_pb2, quota_pb2_grpc

_BATCH_ITEMS_MAX = 500
_BATCHES_MAX = 4
_OVERLAP_SECONDS = 0.005
"""Several times what a reserve takes."""
_SETTLES_GATHER_SECONDS = 0.01
"""No client waits for a settle, and a slot that it frees is free a moment later: together they cost a fifth."""
_RESOLVE_SECONDS = 5.0
_LIST_SECONDS = 5.0

_DENIALS = {
    auth_pb2.DENIAL_REASON_UNKNOWN: "unknown",
    auth_pb2.DENIAL_REASON_REVOKED: "revoked",
    auth_pb2.DENIAL_REASON_EXPIRED: "expired",
}
_VERDICTS = {Verdict.CHARGED: quota_pb2.VERDICT_CHARGED, Verdict.RELEASED: quota_pb2.VERDICT_RELEASED}


class GrpcAuthClient:
    """Auth over gRPC."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Ask over `channel`, at most `timeout_seconds` for each look-up."""
        self._stub = auth_pb2_grpc.AuthServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def authenticate(self, api_key: str) -> Authentication:
        """Ask about a key."""
        request = auth_pb2.AuthenticateRequest(api_key=api_key)
        with rpc_errors(unavailable_reason="auth_unavailable"):
            response = await self._stub.Authenticate(request, timeout=self._timeout_seconds)
        if response.WhichOneof("outcome") == "principal":
            return Authentication(principal_of(response.principal), "", response.revision)
        return Authentication(None, _DENIALS.get(response.denial.reason, "unknown"), response.revision)

    async def watch(self, after_revision: int | None) -> AsyncIterator[WatchEvent]:
        """Yield changes after a revision, or from now on when None, and heartbeats."""
        call = self._stub.WatchKeys(auth_pb2.WatchKeysRequest(after_revision=after_revision))
        try:
            with rpc_errors(unavailable_reason="auth_unavailable"):
                async for event in call:
                    yield WatchEvent(event.revision, event.changed_key_id, event.is_revoked, event.all_keys_changed)
        finally:
            call.cancel()


@dataclass(frozen=True, slots=True)
class _ReserveItem:
    request_id: str
    principal: Principal


@dataclass(frozen=True, slots=True)
class _SettleItem:
    hold: Hold
    verdict: Verdict


class GrpcQuota:
    """Quota over gRPC; what is asked at the same time travels in one call."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Ask over `channel`, at most `timeout_seconds` for each call."""
        self._stub = quota_pb2_grpc.QuotaServiceStub(channel)
        self._timeout_seconds = timeout_seconds
        self._wishes = Batcher(
            self._reserve,
            name="reserve",
            max_items=_BATCH_ITEMS_MAX,
            max_concurrent_batches=_BATCHES_MAX,
            overlap_seconds=_OVERLAP_SECONDS,
        )
        self._ending: Counter[str] = Counter()
        """Settles under way, by key."""
        self._ends = Batcher(
            self._settle,
            name="settle",
            max_items=_BATCH_ITEMS_MAX,
            max_concurrent_batches=1,
            gather_seconds=_SETTLES_GATHER_SECONDS,
        )

    async def reserve(self, request_id: str, principal: Principal) -> Hold:
        """Hold a slot."""
        wish = _ReserveItem(request_id, principal)
        result = await self._wishes.submit(wish)
        if self._ending[principal.key_id] and _is_in_use(result):
            # Verdicts that wait here for others tell how some of those in use have ended.
            await self._ends.flush()
            result = await self._wishes.submit(wish)
        return _hold(wish, result)

    async def settle(self, hold: Hold, verdict: Verdict) -> None:
        """Close a hold."""
        key_id = hold.principal.key_id
        self._ending[key_id] += 1
        try:
            await self._ends.submit(_SettleItem(hold, verdict))
        finally:
            self._ending[key_id] -= 1
            if not self._ending[key_id]:
                del self._ending[key_id]

    async def _reserve(self, wishes: Sequence[_ReserveItem]) -> Sequence[quota_pb2.ReserveResult]:
        request = quota_pb2.ReserveRequest(reservations=[_reservation(wish) for wish in wishes])
        with rpc_errors(unavailable_reason="quota_unavailable"):
            response = await self._stub.Reserve(request, timeout=self._timeout_seconds)
        return response.results

    async def _settle(self, ends: Sequence[_SettleItem]) -> Sequence[Unavailable | None]:
        request = quota_pb2.SettleRequest(settlements=[_settlement(end) for end in ends])
        with rpc_errors(unavailable_reason="quota_unavailable"):
            response = await self._stub.Settle(request, timeout=self._timeout_seconds)
        return [_not_settled() if result.failed else None for result in response.results]


class GrpcInference:
    """Inference over gRPC."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Ask over `channel`; `timeout_seconds` bounds a request's whole life."""
        self._stub = inference_pb2_grpc.InferenceServiceStub(channel)
        self._usage = usage_pb2_grpc.UsageServiceStub(channel)
        self._timeout_seconds = timeout_seconds
        self._trimmer = Trimmer()
        self._abandoned = Batcher(
            self._resolve_abandoned, name="resolve", max_items=_BATCH_ITEMS_MAX, max_concurrent_batches=1
        )

    async def complete(self, hold: Hold, chat: Chat) -> Completion:
        """Return the answer in one piece."""
        request = inference_pb2.CreateChatCompletionRequest(
            context=translate.request_context(hold), chat=translate.chat_request(chat), wants_json=True
        )
        try:
            with rpc_errors(unavailable_reason="inference_unavailable"):
                response = await self._stub.CreateChatCompletion(request, timeout=self._timeout_seconds)
        finally:
            self._trimmer.note_freed(chat.body_bytes)
        # An inference of the last version knows no JSON.
        text = response.completion_json or json_codec.encode(response.completion)
        return Completion(text, translate.verdict(response.verdict))

    async def stream(self, hold: Hold, chat: Chat) -> AsyncGenerator[list[bytes] | Verdict | None, None]:
        """Yield the events that arrived together as JSON texts, and at last the verdict."""
        request = inference_pb2.StreamChatCompletionRequest(
            context=translate.request_context(hold), chat=translate.chat_request(chat), wants_json=True
        )
        verdict: Verdict | None = None
        call = self._stub.StreamChatCompletion(request, timeout=self._timeout_seconds)
        try:
            with rpc_errors(unavailable_reason="inference_unavailable"):
                async for response in call:
                    if response.chunks_json:
                        yield list(response.chunks_json)
                    elif response.chunks:
                        yield [json_codec.encode(chunk) for chunk in response.chunks]
                    verdict = translate.verdict(response.verdict)
            yield verdict
        finally:
            call.cancel()  # Does nothing to a call that ended.
            self._trimmer.note_freed(chat.body_bytes)

    async def resolve_abandoned(self, hold: Hold, departure: Departure | None) -> Verdict | None:
        """Return the verdict of an abandoned request's row, and note on it why; None when there is no row yet."""
        outcome = "" if departure is None else departure.value
        return await self._abandoned.submit(usage_pb2.AbandonedRequest(request_id=hold.request_id, outcome=outcome))

    async def _resolve_abandoned(self, requests: Sequence[usage_pb2.AbandonedRequest]) -> Sequence[Verdict | None]:
        request = usage_pb2.ResolveAbandonedRequest(requests=requests)
        with rpc_errors(unavailable_reason="inference_unavailable"):
            response = await self._usage.ResolveAbandoned(request, timeout=_RESOLVE_SECONDS)
        return [translate.verdict(verdict) for verdict in response.verdicts]

    async def list_models(self, permitted: Sequence[str] = ()) -> list[JSONObject]:
        """Return the models that match one of some patterns, as JSON objects; all where there is no pattern."""
        request = inference_pb2.ListModelsRequest(permitted=permitted)
        with rpc_errors(unavailable_reason="inference_unavailable"):
            response = await self._stub.ListModels(request, timeout=_LIST_SECONDS)
        return translate.models(list(response.models))


def principal_of(principal: auth_pb2.Principal) -> Principal:
    """Return auth's principal as the pipeline knows it."""
    expires_at = principal.expires_at.ToNanoseconds() / 1e9 if principal.HasField("expires_at") else None
    return Principal(
        principal.key_id, principal.account_id, principal.daily_limit, expires_at, models=tuple(principal.models)
    )


def _reservation(wish: _ReserveItem) -> quota_pb2.Reservation:
    return quota_pb2.Reservation(
        request_id=wish.request_id,
        key_id=wish.principal.key_id,
        account_id=wish.principal.account_id,
        limit=wish.principal.daily_limit,
    )


def _is_in_use(result: quota_pb2.ReserveResult) -> bool:
    """Return whether a slot was denied that requests in flight have, and not all of the limit is used up."""
    return result.outcome == quota_pb2.RESERVE_OUTCOME_DENIED and result.status.held > 0


def _hold(wish: _ReserveItem, result: quota_pb2.ReserveResult) -> Hold:
    if result.outcome == quota_pb2.RESERVE_OUTCOME_UNAVAILABLE:
        raise Unavailable("today's count of this key cannot be read; try again", reason="quota_unavailable")
    status = result.status
    rate_limit = RateLimit(wish.principal.daily_limit, status.charged, status.held, float(status.reset_at.seconds))
    if result.outcome == quota_pb2.RESERVE_OUTCOME_DENIED:
        raise LimitReached(rate_limit)
    return Hold(wish.request_id, wish.principal, status.day, unix_seconds(result.reserved_at), rate_limit)


def _not_settled() -> Unavailable:
    return Unavailable("The hold could not be settled.", reason="quota_unavailable")


def _settlement(end: _SettleItem) -> quota_pb2.Settlement:
    return quota_pb2.Settlement(
        request_id=end.hold.request_id,
        key_id=end.hold.principal.key_id,
        day=end.hold.day,
        verdict=_VERDICTS[end.verdict],
    )
