"""Validation of the messages of a chat request, and removal of the members that Groq rejects."""

from typing import Any

from services.gateway.apis.checks import Rule, array_of, by_type, mapping, missing, nullable, one_of, record, string
from services.gateway.requests.types import JSONObject

_ROLES = ("system", "assistant", "user", "function", "tool", "developer")

_MEMBERS = {
    # The members that Groq accepts for each role. Groq answers 400 to any other member; OpenAI ignores it.
    "system": frozenset({"role", "content", "name"}),
    "developer": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset({"role", "content", "name", "tool_calls", "reasoning", "function_call"}),
    "tool": frozenset({"role", "content", "tool_call_id"}),
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


_TYPED_PART = record({"type": one_of(*_PARTS)}, required=["type"])


def _check_part(path: str, part: Any) -> None:
    _TYPED_PART(path, part)
    _PARTS[part["type"]](path, part)


_PART_SCHEMAS = {
    name: {
        **rule.schema,
        "properties": {"type": {"const": name}, **rule.schema["properties"]},
        "required": ["type", name],
    }
    for name, rule in _PARTS.items()
}
_PART = Rule(_check_part, {"anyOf": list(_PART_SCHEMAS.values())})
_TEXT_TYPE = record({"type": one_of("text")}, required=["type"])


def _check_text_part(path: str, part: Any) -> None:
    _TEXT_TYPE(path, part)
    _PARTS["text"](path, part)


def _content_of(part: Rule) -> Rule:
    parts = array_of(part, "an array of objects", at_least=1)
    return by_type("one of a string or array of objects", {str: string, list: parts})


_CONTENT = _content_of(_PART)
_TEXT_CONTENT = _content_of(Rule(_check_text_part, _PART_SCHEMAS["text"]))
_TEXT_ROLES = ("system", "developer", "assistant", "function")
"""Roles that accept only text parts, at OpenAI and at Groq."""
_ANY_ROLE = record({"role": one_of(*_ROLES), "name": string}, required=["role"])
_TOOL = record({"tool_call_id": string}, required=["tool_call_id"])
_FUNCTION = record({"name": string}, required=["name"])
_ASSISTANT = record({"tool_calls": _TOOL_CALLS, "function_call": _FUNCTION_CALL, "reasoning": string})


def _check_message(path: str, message: Any) -> None:
    _ANY_ROLE(path, message)
    role = message["role"]
    # Only assistant messages may have no content, because they may call tools instead.
    if message.get("content") is not None or role != "assistant":
        if "content" not in message:
            raise missing(f"{path}.content")
        content = _TEXT_CONTENT if role in _TEXT_ROLES else _CONTENT
        content(f"{path}.content", message["content"])
    if role == "tool":
        _TOOL(path, message)
    if role == "function":
        _FUNCTION(path, message)
    if role == "assistant":
        _ASSISTANT(path, message)


def _message_schema(roles: tuple[str, ...], accepted: Rule, *, required: tuple[str, ...]) -> dict[str, Any]:
    schema = (_TEXT_CONTENT if roles[0] in _TEXT_ROLES else _CONTENT).schema
    content = schema if "content" in required else nullable(schema)
    properties = {"role": {"enum": list(roles)}, "content": content, "name": nullable(string.schema)}
    return {
        "type": "object",
        "properties": properties | accepted.schema["properties"],
        "required": ["role", *required],
    }


_MESSAGE = Rule(
    _check_message,
    {
        "anyOf": [
            _message_schema(("system", "developer"), record({}), required=("content",)),
            _message_schema(("user",), record({}), required=("content",)),
            _message_schema(("function",), _FUNCTION, required=("content", "name")),
            _message_schema(("tool",), _TOOL, required=("content", "tool_call_id")),
            {
                **_message_schema(("assistant",), _ASSISTANT, required=()),
                "description": "`content` may be null or absent if the message calls tools.",
            },
        ]
    },
)

MESSAGES = array_of(_MESSAGE, "an array of objects", at_least=1)
"""The rule for `messages`."""


def upstream_members(message: JSONObject) -> JSONObject:
    """Return a message with only the non-null members that Groq accepts for its role.

    `reasoning_content`, which other providers use, becomes `reasoning`.
    """
    accepted = _MEMBERS[message["role"]]
    kept = {name: value for name, value in message.items() if name in accepted and value is not None}
    reasoning = message.get("reasoning_content")
    if "reasoning" in accepted and "reasoning" not in kept and isinstance(reasoning, str):
        kept["reasoning"] = reasoning
    if isinstance(kept.get("content"), list):
        kept["content"] = [_upstream_part(part) for part in kept["content"]]
    if not kept.get("tool_calls", True):
        del kept["tool_calls"]
    return kept


def _upstream_part(part: JSONObject) -> JSONObject:
    """Return a content part without the members of other providers, such as `cache_control`."""
    accepted = _PART_MEMBERS[part["type"]]
    return {name: value for name, value in part.items() if name in accepted}
