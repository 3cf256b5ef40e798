"""Protobuf ↔ the nouns of a chat; nothing is decided here."""

import time
from typing import Any, TypeVar

import msgspec
from google.protobuf.message import Message

from services.common.errors import InvalidRequest
from services.common.ids import Kind, new_id
from services.common.rpc import json_codec
from services.common.timestamps import timestamp, unix_seconds
from services.inference.chat import ChatCall, JSONObject, RequestContext, Verdict
from services.inference.keys.check import KeyState
from services.inference.ledger.checks import check_day, check_id
from services.inference.ledger.writer import LedgerRow, UsageSummary
from stack.inference.v1 import chat_pb2, inference_pb2, usage_pb2

_VERDICTS = {
    Verdict.CHARGED: inference_pb2.VERDICT_CHARGED,
    Verdict.RELEASED: inference_pb2.VERDICT_RELEASED,
    None: inference_pb2.VERDICT_UNSPECIFIED,
}
_DEPENDENCY_STATES = {
    KeyState.UNCHECKED: inference_pb2.DEPENDENCY_STATE_UNSPECIFIED,
    KeyState.OK: inference_pb2.DEPENDENCY_STATE_OK,
    KeyState.REJECTED: inference_pb2.DEPENDENCY_STATE_REJECTED,
    KeyState.UNREACHABLE: inference_pb2.DEPENDENCY_STATE_UNREACHABLE,
}
_decode = msgspec.json.Decoder(JSONObject).decode
Mirrored = TypeVar("Mirrored", bound=Message)


def chat_call(chat: chat_pb2.ChatRequest, *, default_model: str) -> ChatCall:
    """Return what is asked for.

    Raises:
        InvalidRequest: There is no message, or what stands in the JSON of other members cannot be taken.
    """
    if not chat.messages:
        raise InvalidRequest("messages: expected at least one", metadata={"param": "messages"})
    try:
        members = json_codec.to_json(chat)
    except msgspec.DecodeError as exc:
        raise InvalidRequest("extra_json: expected the text of a JSON object") from exc
    model = _taken(members, "model", "a string") or default_model
    options = _taken(members, "stream_options", "an object")
    if options:
        members["stream_options"] = options
    members.pop("stream", None)  # Which RPC was called says it.
    return ChatCall(members, model, asks_for_usage=chat.stream_options.include_usage, size_bytes=chat.ByteSize())


def request_context(context: inference_pb2.RequestContext) -> RequestContext:
    """Return where a request is accounted; a caller without a context gets one that counts against no key.

    Raises:
        InvalidRequest: The ledger could not keep it: no later row would be written behind one that never can be.
    """
    if not context.request_id:
        now = time.time()
        return RequestContext(new_id(Kind.REQUEST), "", "", _utc_date(now), now, models=tuple(context.models))
    return known_context(context)


def known_context(context: inference_pb2.RequestContext) -> RequestContext:
    """Return where a request is accounted that has a hold.

    Raises:
        InvalidRequest: The ledger could not keep it.
    """
    for field in ("request_id", "account_id", "key_id"):
        check_id(field, getattr(context, field))
    check_day("day", context.day)
    return RequestContext(
        context.request_id,
        context.account_id,
        context.key_id,
        context.day,
        unix_seconds(context.reserved_at),
        models=tuple(context.models),
    )


def completion(text: bytes) -> chat_pb2.ChatCompletion:
    """Return an answer in one piece."""
    return _filled(chat_pb2.ChatCompletion(), _decode(text))


def chunks(texts: list[bytes]) -> list[chat_pb2.ChatChunk]:
    """Return a stream's events."""
    return [_filled(chat_pb2.ChatChunk(), _decode(text)) for text in texts]


def models(listed: list[JSONObject]) -> list[chat_pb2.Model]:
    """Return a list of models."""
    return [_filled(chat_pb2.Model(), members) for members in listed]


def _filled(message: Mirrored, members: JSONObject) -> Mirrored:
    json_codec.to_message(message, members)
    return message


def time_before(request: usage_pb2.CountChargedRequest) -> float | None:
    """Return the time that rows must have been reserved before, in Unix seconds; None when none was given."""
    if not request.HasField("reserved_before"):
        return None
    return unix_seconds(request.reserved_before)


def verdict(value: Verdict | None) -> inference_pb2.Verdict.ValueType:
    """Return a verdict; unspecified when there is none."""
    return _VERDICTS[value]


def dependency_state(state: KeyState) -> inference_pb2.DependencyState.ValueType:
    """Return the state of Groq."""
    return _DEPENDENCY_STATES[state]


def usage_record(row: LedgerRow) -> usage_pb2.UsageRecord:
    """Return a ledger row."""
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
    )


def usage_summary(summary: UsageSummary) -> usage_pb2.UsageSummary:
    """Return one sum."""
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
    )


def last_use(key_id: str, used_at: float | None) -> usage_pb2.LastUse:
    """Return when a key was last used; None means that it was not."""
    return usage_pb2.LastUse(key_id=key_id, used_at=None if used_at is None else timestamp(used_at))


def _taken(members: JSONObject, name: str, expected: str) -> Any:
    """Take a member out; None when it is absent or null. A value of another type than its field's comes as raw JSON."""
    value = members.pop(name, None)
    if not isinstance(value, msgspec.Raw):
        return value
    if bytes(value) != b"null":
        raise InvalidRequest(f"{name}: expected {expected}", metadata={"param": name})
    return None


def _utc_date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
