"""A chat completion as a message, and parts that complete and streamed messages share."""

from typing import Any

import msgspec

from services.gateway.apis.messages.thinking import Thinking
from services.gateway.apis.translation.chunks import ChunkUsage, Message, ToolCall
from services.gateway.apis.translation.reasoning import encode_reasoning
from services.gateway.apis.translation.tool_names import ToolNames
from services.gateway.requests.types import JSONObject

RAW_ARGUMENTS = "_arguments"
"""Member of a tool's input that has the arguments as text if they are not a JSON object."""
_SIGNATURE = "Z3J0"
"""Signature of thinking whose text is shown. Clients drop thinking blocks without a signature."""
_STOP_REASONS = {"length": "max_tokens", "content_filter": "refusal"}
_decode = msgspec.json.Decoder().decode


def message_id(request_id: str) -> str:
    """Return the id of the message that answers a request."""
    return f"msg_{request_id.removeprefix('req_')}"


def call_id(request_id: str, number: int) -> str:
    """Return the id of a tool call that has none. `number` is its position."""
    return f"toolu_{request_id.removeprefix('req_')}_{number}"


def signature_of(text: str, thinking: Thinking) -> str:
    """Return the signature of a thinking block, never empty. It carries the text if the block does not show it."""
    return encode_reasoning(text) if thinking is Thinking.OMITTED else _SIGNATURE


def stop_reason(finish_reason: str | None, *, has_calls: bool) -> str:
    """Return the stop reason for Groq's finish reason. An unknown one counts as the end of the turn."""
    return _STOP_REASONS.get(finish_reason or "", "tool_use" if has_calls else "end_turn")


def usage_of(usage: ChunkUsage | None) -> JSONObject:
    """Return token counts in Anthropic's form; zeros if they are not known."""
    usage = usage or ChunkUsage()
    cached = min(usage.cached, usage.input)
    return {
        "input_tokens": usage.input - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.output,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
    }


def content_blocks(
    message: Message, names: ToolNames[str], thinking: Thinking, *, request_id: str
) -> list[dict[str, Any]]:
    """Return the content blocks for a chat message: thinking, text and tool calls; empty ones are dropped."""
    blocks: list[dict[str, Any]] = []
    if message.reasoning and thinking is not Thinking.DISABLED:
        shown = message.reasoning if thinking is Thinking.SHOWN else ""
        signature = signature_of(message.reasoning, thinking)
        blocks.append({"type": "thinking", "thinking": shown, "signature": signature})
    if message.content:
        blocks.append({"type": "text", "text": message.content})
    for number, call in enumerate(message.tool_calls or ()):
        blocks.append(_tool_use(call, names, call_id(request_id, number)))
    return blocks


def _tool_use(call: ToolCall, names: ToolNames[str], default_id: str) -> dict[str, Any]:
    name = (call.function.name if call.function else None) or ""
    arguments = (call.function.arguments if call.function else None) or ""
    return {
        "type": "tool_use",
        "id": call.id or default_id,
        "name": client_name(names, name),
        "input": _input_of(arguments),
    }


def client_name(names: ToolNames[str], name: str) -> str:
    """Return the client's name of a tool that the model called. Unknown names are returned as they are."""
    known = names.key(name)
    return name if known is None else known


def _input_of(arguments: str) -> Any:
    """Return a call's arguments as the input of a tool, without a change of numbers and their order."""
    if not arguments or arguments.isspace():
        return {}
    try:
        is_object = isinstance(_decode(arguments), dict)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        is_object = False
    return msgspec.Raw(arguments.encode()) if is_object else {RAW_ARGUMENTS: arguments}
