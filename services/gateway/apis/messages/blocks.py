"""Validation rules for content blocks, and for the messages that contain them.

Unknown members are ignored, as Anthropic requires of gateways: clients send members of betas that are not documented.
"""

from collections.abc import Mapping
from typing import Any

from services.gateway.apis.checks import (
    Rule,
    Schema,
    array_of,
    boolean,
    by_type,
    mapping,
    missing,
    nullable,
    one_of,
    record,
    refusal,
    string,
)

DOCUMENT_REFUSED = "document_block"
"""Code of the error for documents other than text. Claude Code removes the documents and sends the request again."""
IMAGE_REFUSED = "image_block"
"""Code of the error for images that the model does not accept, with the same effect."""
DROPPED = frozenset({"redacted_thinking", "server_tool_use", "container_upload", "fallback"})
"""Types of blocks that only their own provider can read. Results of its tools, `…_tool_result`, are dropped, too."""
_NEVER: Schema = {"not": {}}


def is_dropped(kind: str) -> bool:
    """Return whether blocks of a type are dropped of the chat."""
    return kind in DROPPED or (kind.endswith("_tool_result") and not kind.startswith("mcp_"))


def tagged(rules: Mapping[str, Rule], *, allow_dropped: bool = False) -> Rule:
    """Return a rule for an object whose `type` selects one of `rules`. Dropped types are not validated further."""
    typed = record({"type": string}, required=["type"])
    known = one_of(*rules)

    def check(path: str, value: Any) -> None:
        typed(path, value)
        rule = rules.get(value["type"])
        if rule is not None:
            rule(path, value)
        elif not (allow_dropped and is_dropped(value["type"])):
            known(f"{path}.type", value["type"])

    variants = [_variant(name, rule) for name, rule in rules.items() if rule.schema != _NEVER]
    return Rule(check, {"anyOf": [*variants, _DROPPED_SCHEMA] if allow_dropped else variants})


def _variant(name: str, rule: Rule) -> Schema:
    properties = {"type": {"const": name}, **rule.schema.get("properties", {})}
    return {**rule.schema, "properties": properties, "required": ["type", *rule.schema.get("required", [])]}


_DROPPED_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "type": {
            "anyOf": [
                {"enum": sorted(DROPPED)},
                {"type": "string", "pattern": "_tool_result$", "not": {"pattern": "^mcp_"}},
            ]
        }
    },
    "required": ["type"],
    "description": "Dropped: only its provider can read it.",
}


def _refuse(reason: str, code: str = "unsupported_parameter") -> Rule:
    """Return a rule that refuses every value. `reason` is a sentence about the value at the path."""

    def check(path: str, value: Any) -> None:
        raise refusal(f"{path}: {reason}", path, code)

    return Rule(check, _NEVER)


def _content_of(item: Rule) -> Rule:
    return by_type("one of a string or array of objects", {str: string, list: array_of(item, "an array of objects")})


TEXT = record({"text": string}, required=["text"])
_TEXT_BLOCK = tagged({"text": TEXT})
TEXT_CONTENT = _content_of(_TEXT_BLOCK)
"""Text, or text blocks."""

_NO_FILE = _refuse("files of the Files API are not supported. Send the image as base64 or as a URL.")
_IMAGE_SOURCE = tagged(
    {
        "base64": record({"media_type": string, "data": string}, required=["media_type", "data"]),
        "url": record({"url": string}, required=["url"]),
        "file": _NO_FILE,
    }
)
_IMAGE = record({"source": _IMAGE_SOURCE}, required=["source"])
_NO_DOCUMENT = _refuse(
    "document sources other than text are not supported. Send the document as text or as images.", DOCUMENT_REFUSED
)
_DOCUMENT_SOURCE = tagged(
    {
        "text": record({"data": string}, required=["data"]),
        "content": record({"content": _content_of(tagged({"text": TEXT, "image": _IMAGE}))}, required=["content"]),
        "base64": _NO_DOCUMENT,
        "url": _NO_DOCUMENT,
        "file": _NO_DOCUMENT,
    }
)
_DOCUMENT = record({"source": _DOCUMENT_SOURCE, "title": string}, required=["source"])
_SEARCH_RESULT = record(
    {"title": string, "source": string, "content": array_of(_TEXT_BLOCK, "an array of objects")},
    required=["title", "source", "content"],
)
_TOOL_REFERENCE = record({"tool_name": string}, required=["tool_name"])
_SHOWN = {"text": TEXT, "image": _IMAGE, "document": _DOCUMENT, "search_result": _SEARCH_RESULT}
_RESULT_CONTENT = _content_of(tagged({**_SHOWN, "tool_reference": _TOOL_REFERENCE}))
_TOOL_RESULT = record(
    {"tool_use_id": string, "content": _RESULT_CONTENT, "is_error": boolean}, required=["tool_use_id"]
)
_TOOL_USE = record({"id": string, "name": string, "input": mapping}, required=["id", "name", "input"])
_THINKING = record({"thinking": string, "signature": string})
_COMPACTION = record({"content": string})

_USER_CONTENT = _content_of(tagged({**_SHOWN, "tool_result": _TOOL_RESULT}, allow_dropped=True))
_ASSISTANT_CONTENT = _content_of(
    tagged({"text": TEXT, "thinking": _THINKING, "tool_use": _TOOL_USE, "compaction": _COMPACTION}, allow_dropped=True)
)


def tool_change(tool: Rule) -> Rule:
    """Return the rule for the `tool` of a `tool_addition` or `tool_removal` block. `tool` is that of a definition."""
    return tagged(
        {
            "tool_reference": record({"name": string}, required=["name"]),
            "tool_definition": record({"definition": tool}, required=["definition"]),
        }
    )


def messages(tool: Rule) -> Rule:
    """Return the rule for `messages`. `tool` is the rule for a tool, which a system message can define."""
    change = record({"tool": tool_change(tool)}, required=["tool"])
    system = _content_of(tagged({"text": TEXT, "tool_addition": change, "tool_removal": change}))
    contents = {"user": _USER_CONTENT, "assistant": _ASSISTANT_CONTENT, "system": system}
    role = record({"role": one_of(*contents)}, required=["role"])

    def check(path: str, value: Any) -> None:
        role(path, value)
        content = value.get("content")
        if content is not None:
            contents[value["role"]](f"{path}.content", content)
        elif value["role"] != "system":
            raise missing(f"{path}.content")

    schema = {"anyOf": [_message_schema(name, rule) for name, rule in contents.items()]}
    return array_of(Rule(check, schema), "an array of objects", at_least=1)


def _message_schema(role: str, content: Rule) -> Schema:
    is_optional = role == "system"
    return {
        "type": "object",
        "properties": {"role": {"const": role}, "content": nullable(content.schema) if is_optional else content.schema},
        "required": ["role"] if is_optional else ["role", "content"],
    }
