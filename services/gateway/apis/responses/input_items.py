"""Input items: their rules, and what each adds to the conversation."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from services.common.errors import ErrorDetails, NotFound
from services.gateway.apis.checks import (
    Rule,
    Schema,
    anything,
    array_of,
    mapping,
    missing,
    one_of,
    record,
    refusal,
    string,
)
from services.gateway.apis.responses.conversation import Conversation
from services.gateway.apis.responses.input_content import (
    ASSISTANT_CONTENT,
    CONTENT,
    TEXT_CONTENT,
    assistant_text,
    chat_content,
    output_content,
)
from services.gateway.apis.responses.tools import TOOLS, ToolKey
from services.gateway.apis.translation.reasoning import ReasoningDecoder
from services.gateway.apis.translation.tool_results import ToolResult
from services.gateway.http.redaction import redacted
from services.gateway.requests.types import JSONObject

_REASONING_ID = "rs_"
_CONTENT_OF_ROLE = {
    "user": CONTENT,
    "system": TEXT_CONTENT,
    "developer": TEXT_CONTENT,
    "assistant": ASSISTANT_CONTENT,
}


def is_reasoning(item_id: str) -> bool:
    """Return whether an id is that of reasoning. References to it are left out if it is not stored."""
    return item_id.startswith(_REASONING_ID)


def item_not_found(item_id: str) -> NotFound:
    """Return OpenAI's error for a reference to an item that is not stored."""
    message = (
        f"Item with id '{redacted(item_id)}' not found. Items are not persisted when `store` is "
        "set to false. Try again with `store` set to true, or remove this item from your input."
    )
    return NotFound(message, details=ErrorDetails(param="input"))


@dataclass(slots=True)
class Translation:
    """The state that items are added to."""

    conversation: Conversation
    reasoning: ReasoningDecoder


@dataclass(frozen=True, slots=True)
class _ItemType:
    rule: Rule
    add: Callable[[str, JSONObject, Translation], None]
    """Adds a checked item at a path."""


_ROLE = record({"role": one_of(*_CONTENT_OF_ROLE)}, required=["role"])


def _check_message(path: str, item: Any) -> None:
    _ROLE(path, item)
    if item.get("content") is None:
        raise missing(f"{path}.content")
    _CONTENT_OF_ROLE[item["role"]](f"{path}.content", item["content"])


def _add_message(path: str, item: JSONObject, translation: Translation) -> None:
    if item["role"] == "assistant":
        translation.conversation.add_text(assistant_text(item["content"]))
    else:
        content = chat_content(f"{path}.content", item["content"])
        translation.conversation.add_message(item["role"], content)


def _add_reasoning(path: str, item: JSONObject, translation: Translation) -> None:
    texts = [part["text"] for part in item.get("content") or item.get("summary") or () if part.get("text")]
    text = "\n".join(texts) or translation.reasoning.decode(item.get("encrypted_content")) or ""
    translation.conversation.add_reasoning(text)


def _key(item: JSONObject, *, is_custom: bool) -> ToolKey:
    return ToolKey(item["name"], item.get("namespace") or None, is_custom)


def _add_function_call(path: str, item: JSONObject, translation: Translation) -> None:
    arguments = item.get("arguments") or "{}"
    translation.conversation.add_call(item["call_id"], _key(item, is_custom=False), arguments)


def _add_custom_call(path: str, item: JSONObject, translation: Translation) -> None:
    key = _key(item, is_custom=True)
    translation.conversation.add_custom_call(item["call_id"], key, item.get("input") or "")


def _add_output(path: str, item: JSONObject, translation: Translation) -> None:
    text, images = output_content(f"{path}.output", item.get("output") or "")
    translation.conversation.add_result(ToolResult(item["call_id"], text, images))


def _check_reference(path: str, item: Any) -> None:
    _REFERENCE(path, item)
    if not is_reasoning(item["id"]):
        raise item_not_found(item["id"])


def _ignore(path: str, item: JSONObject, translation: Translation) -> None:
    """Add nothing. Tools were added before, and calls of other providers' tools mean nothing to the model."""


_REFERENCE = record({"id": string}, required=["id"])
_TEXTS = array_of(record({"text": string}), "an array of objects")
_REASONING = record({"content": _TEXTS, "summary": _TEXTS})
_CALL = {"call_id": string, "name": string, "namespace": string}
_FUNCTION_CALL = record({**_CALL, "arguments": string}, required=["call_id", "name"])
_CUSTOM_CALL = record({**_CALL, "input": string}, required=["call_id", "name"])
_OUTPUT = _ItemType(record({"call_id": string, "output": CONTENT}, required=["call_id"]), _add_output)
_RECEIPT = _ItemType(anything, _ignore)
_TYPES = {
    "message": _ItemType(Rule(_check_message, {}), _add_message),
    "reasoning": _ItemType(_REASONING, _add_reasoning),
    "function_call": _ItemType(_FUNCTION_CALL, _add_function_call),
    "function_call_output": _OUTPUT,
    "custom_tool_call": _ItemType(_CUSTOM_CALL, _add_custom_call),
    "custom_tool_call_output": _OUTPUT,
    "item_reference": _ItemType(Rule(_check_reference, {}), _ignore),
    "additional_tools": _ItemType(record({"tools": TOOLS}), _ignore),
    "web_search_call": _RECEIPT,
    "file_search_call": _RECEIPT,
    "code_interpreter_call": _RECEIPT,
    "image_generation_call": _RECEIPT,
    "mcp_list_tools": _RECEIPT,
    "mcp_call": _RECEIPT,
}
CALL_TYPES = ("function_call", "custom_tool_call")


def item_type(item: JSONObject) -> Any:
    """Return the type of an item, which may be implied by its members; None if it is not."""
    if item.get("type") is not None:
        return item["type"]
    if item.get("role") is not None:
        return "message"
    return "item_reference" if item.get("id") is not None else None


def _check_item(path: str, item: Any) -> None:
    mapping(path, item)
    kind = item_type(item)
    if kind is None:
        raise missing(f"{path}.type")
    string(f"{path}.type", kind)
    if kind not in _TYPES:
        text = f"Invalid value: '{redacted(kind)}'. Supported values are: {', '.join(repr(name) for name in _TYPES)}."
        raise refusal(text, f"{path}.type", "invalid_value")
    _TYPES[kind].rule(path, item)


def _schema(reference_id: Schema) -> Schema:
    messages = [_message_schema(role, content) for role, content in _CONTENT_OF_ROLE.items()]
    reference = {
        "type": "object",
        "properties": {
            "type": {"enum": ["item_reference", None]},
            "role": {},
            "id": reference_id,
        },
        "required": ["id"],
        "if": {"properties": {"type": {"type": "null"}}},
        "then": {"properties": {"role": {"type": "null"}}},
    }
    others = [
        _typed_schema(name, kind.rule.schema)
        for name, kind in _TYPES.items()
        if name not in ("message", "item_reference")
    ]
    return {"anyOf": [*messages, reference, *others]}


def _message_schema(role: str, content: Rule) -> Schema:
    return {
        "type": "object",
        "properties": {"type": {"enum": ["message", None]}, "role": {"const": role}, "content": content.schema},
        "required": ["role", "content"],
    }


def _typed_schema(name: str, schema: Schema) -> Schema:
    properties = {"type": {"const": name}, **schema.get("properties", {})}
    return {**schema, "type": "object", "properties": properties, "required": ["type", *schema.get("required", ())]}


def _check_item_or_reference(path: str, item: Any) -> None:
    mapping(path, item)
    if item_type(item) == "item_reference":
        _REFERENCE(path, item)
    else:
        _check_item(path, item)


ITEMS = array_of(Rule(_check_item, _schema({"type": "string", "pattern": f"^{_REASONING_ID}"})), "an array of objects")
"""The rule for `input` items."""
ITEMS_OR_REFERENCES = array_of(Rule(_check_item_or_reference, _schema(string.schema)), "an array of objects")
"""The rule for `input` items while responses are stored: they may refer to any stored item."""


def add_items(items: Iterable[JSONObject], translation: Translation) -> None:
    """Add checked items to a conversation.

    Raises:
        InvalidRequest: A tool output has no call, or a file is not text.
    """
    for index, item in enumerate(items):
        _TYPES[item_type(item)].add(f"input[{index}]", item, translation)
