"""The messages of a chat request: what each role may hold, and what is left out on the way to Groq."""

from typing import Any

from services.gateway.checks import array_of, by_type, mapping, missing, one_of, record, string
from services.gateway.pipeline import Members

_ROLES = ("system", "assistant", "user", "function", "tool", "developer")

_MEMBERS = {
    # What Groq takes of each role; it answers 400 to any other member, where OpenAI ignores it.
    "system": frozenset({"role", "content", "name"}),
    "developer": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset({"role", "content", "name", "tool_calls", "reasoning", "function_call"}),
    "tool": frozenset({"role", "content", "name", "tool_call_id"}),
    "function": frozenset({"role", "content", "name"}),
}
_PART_MEMBERS = {
    "text": frozenset({"type", "text"}),
    "image_url": frozenset({"type", "image_url"}),
    "document": frozenset({"type", "document"}),
}

_IMAGE = record({"url": string, "detail": string}, required=["url"])
_PARTS = {
    "text": record({"text": string}, required=["text"]),
    "image_url": record({"image_url": _IMAGE}, required=["image_url"]),
    "document": record({"document": mapping}, required=["document"]),
}
_FUNCTION_CALL = record({"name": string, "arguments": string}, required=["name", "arguments"])
_TOOL_CALL = record({"id": string, "type": string, "function": _FUNCTION_CALL}, required=["id", "function"])
_TOOL_CALLS = array_of(_TOOL_CALL, "an array of objects")


def _check_part(path: str, part: Any) -> None:
    record({"type": one_of(*_PARTS)}, required=["type"])(path, part)
    _PARTS[part["type"]](path, part)


_check_content = by_type(
    "one of a string or array of objects",
    {str: string, list: array_of(_check_part, "an array of objects", at_least=1)},
)


def _check_message(path: str, message: Any) -> None:
    record({"role": one_of(*_ROLES), "name": string}, required=["role"])(path, message)
    role = message["role"]
    # Only a message that calls tools goes without content.
    if message.get("content") is not None or role != "assistant":
        if "content" not in message:
            raise missing(f"{path}.content")
        _check_content(f"{path}.content", message["content"])
    if role == "tool":
        record({"tool_call_id": string}, required=["tool_call_id"])(path, message)
    if role == "assistant":
        record({"tool_calls": _TOOL_CALLS, "reasoning": string}, required=[])(path, message)


check_messages = array_of(_check_message, "an array of objects", at_least=1)
"""The rule for `messages`."""


def own_members(message: Members) -> Members:
    """Return a message with what its role has, null left out; reasoning under its other common name is kept."""
    own = _MEMBERS[message["role"]]
    kept = {name: value for name, value in message.items() if name in own and value is not None}
    reasoning = message.get("reasoning_content")
    if "reasoning" in own and "reasoning" not in kept and isinstance(reasoning, str):
        kept["reasoning"] = reasoning
    if isinstance(kept.get("content"), list):
        kept["content"] = [_own_part(part) for part in kept["content"]]
    if not kept.get("tool_calls", True):
        del kept["tool_calls"]
    return kept


def _own_part(part: Members) -> Members:
    """Return a content part without what only other providers know, such as `cache_control`."""
    own = _PART_MEMBERS[part["type"]]
    return {name: value for name, value in part.items() if name in own}
