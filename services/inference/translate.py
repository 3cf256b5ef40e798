"""Conversions between protobuf messages and domain objects."""

import time
from typing import Any, TypeVar

import msgspec
from google.protobuf.message import Message

from services.common.errors import ErrorDetails, InvalidRequest
from services.common.ids import Kind, new_id
from services.common.limits import Unit
from services.common.rpc import json_codec
from services.common.rpc.limits import slot_from_proto, slot_to_proto, unit_from_proto
from services.common.rpc.surface import surface_from_proto, surface_to_proto
from services.common.rpc.verdict import amounts_from_proto
from services.common.timestamps import timestamp, unix_seconds
from services.inference.chat import CallContext, ChatCall, JSONObject
from services.inference.key_pool.check import KeyState
from services.inference.ledger.checks import check_day, check_id, check_required_id, check_time
from services.inference.ledger.writer import ChargedSum, LedgerRow, UsageSummary
from stack.inference.v1 import chat_pb2, inference_pb2, usage_pb2

_DEPENDENCY_STATES = {
    KeyState.UNCHECKED: inference_pb2.DEPENDENCY_STATE_UNSPECIFIED,
    KeyState.OK: inference_pb2.DEPENDENCY_STATE_OK,
    KeyState.REJECTED: inference_pb2.DEPENDENCY_STATE_REJECTED,
    KeyState.UNREACHABLE: inference_pb2.DEPENDENCY_STATE_UNREACHABLE,
}
_SUMMED = (Unit.REQUESTS, Unit.TOKENS, Unit.COST)
_WEIGHT_MAX = 1_000_000
_decode = msgspec.json.Decoder(JSONObject).decode
MessageT = TypeVar("MessageT", bound=Message)


def chat_call(chat: chat_pb2.ChatRequest, *, default_model: str) -> ChatCall:
    """Convert a chat request.

    Raises:
        InvalidRequest: There are no messages, `extra_json` is not a JSON object, or a member has the wrong type.
    """
    if not chat.messages:
        raise InvalidRequest("messages: expected at least one", details=ErrorDetails(param="messages"))
    try:
        members = json_codec.to_json(chat)
    except msgspec.DecodeError as exc:
        raise InvalidRequest("extra_json: expected the text of a JSON object") from exc
    model = _pop(members, "model", "a string") or default_model
    options = _pop(members, "stream_options", "an object")
    if options:
        members["stream_options"] = options
    members.pop("stream", None)  # The RPC determines whether to stream.
    return ChatCall(members, model, include_usage=chat.stream_options.include_usage, size_bytes=chat.ByteSize())


def multiplexed_chat_call(text: bytes, *, default_model: str) -> ChatCall:
    """Convert a chat request of a gateway, which has checked it.

    Raises:
        InvalidRequest: It is not a JSON object, or it has no messages.
    """
    try:
        members = _decode(text)
    except msgspec.DecodeError as exc:
        raise InvalidRequest("chat_json: expected the text of a JSON object") from exc
    if not members.get("messages"):
        raise InvalidRequest("messages: expected at least one", details=ErrorDetails(param="messages"))
    return ChatCall.from_members(members, default_model=default_model, size_bytes=len(text))


def request_context(context: inference_pb2.RequestContext) -> CallContext:
    """Convert a request's context; a caller without one gets a context that does not count against a key.

    Raises:
        InvalidRequest: The ledger could not store the ids or the date.
    """
    if not context.request_id:
        now = time.time()
        return CallContext(
            new_id(Kind.REQUEST),
            "",
            "",
            _utc_date(now),
            now,
            models=tuple(context.models),
            surface=surface_from_proto(context.surface),
            weight=_weight(context),
        )
    return required_context(context)


def required_context(context: inference_pb2.RequestContext) -> CallContext:
    """Convert the context of a request that has a hold.

    Raises:
        InvalidRequest: The ledger could not store the ids or the date.
    """
    for field in ("request_id", "account_id", "key_id", "quota_account_id"):
        check_id(field, getattr(context, field))
    check_day("day", context.day)
    check_time("reserved_at", context.reserved_at)
    return CallContext(
        context.request_id,
        context.account_id,
        context.key_id,
        context.day,
        unix_seconds(context.reserved_at),
        models=tuple(context.models),
        surface=surface_from_proto(context.surface),
        held=amounts_from_proto(context.held) if context.HasField("held") else None,
        quota_account_id=context.quota_account_id,
        slot=slot_from_proto(context.slot),
        weight=_weight(context),
    )


def _weight(context: inference_pb2.RequestContext) -> int:
    return min(max(context.weight, 1), _WEIGHT_MAX)


def completion(text: bytes) -> chat_pb2.ChatCompletion:
    """Convert the JSON of an answer without streaming."""
    return _to_message(chat_pb2.ChatCompletion(), _decode(text))


def chunks(texts: list[bytes]) -> list[chat_pb2.ChatChunk]:
    """Convert the JSON of stream events."""
    return [_to_message(chat_pb2.ChatChunk(), _decode(text)) for text in texts]


def models(listed: list[JSONObject]) -> list[chat_pb2.Model]:
    """Convert a list of models."""
    return [_to_message(chat_pb2.Model(), members) for members in listed]


def _to_message(message: MessageT, members: JSONObject) -> MessageT:
    json_codec.to_message(message, members)
    return message


def charged_sum(counter: usage_pb2.Counter) -> ChargedSum:
    """Convert a counter.

    Raises:
        InvalidRequest: An id or a day is invalid, or the unit is unknown.
    """
    check_id("key_id", counter.key_id)
    check_required_id("account_id", counter.account_id)
    unit = unit_from_proto(counter.unit)
    if unit not in _SUMMED:
        raise InvalidRequest("counters: expected the unit requests, tokens or cost")
    check_day("from_day", counter.from_day)
    check_day("to_day", counter.to_day)
    return ChargedSum(counter.key_id, counter.account_id, unit, counter.from_day, counter.to_day)


def reserved_before(request: usage_pb2.CountChargedRequest) -> float | None:
    """Return `reserved_before` in Unix seconds; None if it is absent."""
    if not request.HasField("reserved_before"):
        return None
    return unix_seconds(request.reserved_before)


def dependency_state(state: KeyState) -> inference_pb2.DependencyState.ValueType:
    """Convert the state of Groq's keys."""
    return _DEPENDENCY_STATES[state]


def usage_record(row: LedgerRow) -> usage_pb2.UsageRecord:
    """Convert a ledger row."""
    return usage_pb2.UsageRecord(
        request_id=row.request_id,
        account_id=row.account_id,
        key_id=row.key_id,
        day=row.day,
        model=row.model,
        upstream_model=row.upstream_model,
        stream=row.stream,
        outcome=row.outcome.value,
        charged=row.charged,
        refund_reason=row.refund_reason,
        prompt_tokens=row.usage.prompt_tokens,
        completion_tokens=row.usage.completion_tokens,
        total_tokens=row.usage.total_tokens,
        cached_tokens=row.usage.cached_tokens,
        reasoning_tokens=row.usage.reasoning_tokens,
        usage_source=row.usage.source.value,
        upstream_id=row.upstream_id,
        attempts=row.attempts,
        time_to_first_token_ms=row.time_to_first_token_ms,
        duration_ms=row.duration_ms,
        reserved_at=timestamp(row.reserved_at),
        surface=surface_to_proto(row.surface),
        cost=row.cost,
        queue_ms=row.queue_ms,
        slot=slot_to_proto(row.slot),
    )


def usage_summary(summary: UsageSummary) -> usage_pb2.UsageSummary:
    """Convert a usage summary."""
    return usage_pb2.UsageSummary(
        day=summary.day,
        model=summary.model,
        charged_requests=summary.charged_requests,
        released_requests=summary.released_requests,
        prompt_tokens=summary.prompt_tokens,
        completion_tokens=summary.completion_tokens,
        total_tokens=summary.total_tokens,
        cached_tokens=summary.cached_tokens,
        reasoning_tokens=summary.reasoning_tokens,
        surface=surface_to_proto(summary.surface),
        cost=summary.cost,
        hour=None if summary.hour is None else timestamp(summary.hour.timestamp()),
        user_digest=summary.user_digest,
    )


def last_use(key_id: str, used_at: float | None) -> usage_pb2.LastUse:
    """Convert the time of a key's last use; None means never."""
    return usage_pb2.LastUse(key_id=key_id, used_at=None if used_at is None else timestamp(used_at))


def _pop(members: JSONObject, name: str, expected: str) -> Any:
    """Remove and return a member; None if it is absent or null.

    Raises:
        InvalidRequest: The member has the wrong type, which `json_codec.to_json` returns as raw JSON.
    """
    value = members.pop(name, None)
    if not isinstance(value, msgspec.Raw):
        return value
    if bytes(value) != b"null":
        raise InvalidRequest(f"{name}: expected {expected}", details=ErrorDetails(param=name))
    return None


def _utc_date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
