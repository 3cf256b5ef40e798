"""Validation rules for the top-level members of a request, and its JSON Schema, which is made from them."""

from typing import Any

from services.gateway.apis.checks import (
    Rule,
    Schema,
    array_of,
    boolean,
    decimal,
    integer,
    mapping,
    missing,
    nullable,
    record,
    refusal,
    string,
)
from services.gateway.apis.messages.blocks import TEXT_CONTENT, messages, tagged
from services.gateway.http.redaction import redacted
from services.gateway.requests.types import JSONObject

_STOPS_MAX = 4
"""Groq's maximum."""
_CUSTOM = (None, "custom")
_CUSTOM_TOOL = record(
    {
        "name": string,
        "description": string,
        "input_schema": mapping,
        "defer_loading": boolean,
        "strict": boolean,
    },
    required=["name", "input_schema"],
)


def _check_tool(path: str, value: Any) -> None:
    mapping(path, value)
    kind = value.get("type")
    if kind is not None:
        string(f"{path}.type", kind)
    if kind not in _CUSTOM:
        text = f"{path}: type '{redacted(kind)}' is not supported. Define tools by name and input_schema, and run them."
        raise refusal(text, path, "unsupported_parameter")
    _CUSTOM_TOOL(path, value)


_TOOL_SCHEMA = {
    **_CUSTOM_TOOL.schema,
    "properties": {"type": {"enum": list(_CUSTOM)}, **_CUSTOM_TOOL.schema["properties"]},
}
_TOOL = Rule(_check_tool, _TOOL_SCHEMA)
_CHOICE = record({"disable_parallel_tool_use": boolean})
_NAMED_CHOICE = record({"name": string, "disable_parallel_tool_use": boolean}, required=["name"])
_FORMAT = tagged({"json_schema": record({"schema": mapping}, required=["schema"])})


def _check_mcp_servers(path: str, value: Any) -> None:
    if value != []:
        text = f"{path}: MCP servers are not supported. Connect to them in the client, and send their tools in `tools`."
        raise refusal(text, path, "unsupported_parameter")


def _refuse_safeguards(path: str, value: Any) -> None:
    # The client then checks by itself, if the message names the member.
    raise refusal(f"{path}: safeguards is not supported.", path, "unsupported_parameter")


def _check_model(path: str, value: Any) -> None:
    string(path, value)
    if not value:
        raise refusal(f"{path}: at least 1 character is required.", path, "empty_string")


PARAMETERS: dict[str, Rule] = {
    "model": Rule(_check_model, {"type": "string", "minLength": 1}),
    "messages": messages(_TOOL),
    "max_tokens": integer(1),
    "system": TEXT_CONTENT,
    "stop_sequences": array_of(string, "an array of strings", at_most=_STOPS_MAX),
    "temperature": decimal(0, 1),
    "top_p": decimal(0, 1),
    "stream": boolean,
    "tools": array_of(_TOOL, "an array of objects"),
    "tool_choice": tagged({"auto": _CHOICE, "any": _CHOICE, "tool": _NAMED_CHOICE, "none": record({})}),
    # Types and efforts that are not known leave the effort to the model.
    "thinking": record({"type": string, "budget_tokens": integer(1), "display": string}, required=["type"]),
    "output_config": record({"effort": string, "format": _FORMAT}),
    "output_format": _FORMAT,
    "mcp_servers": Rule(_check_mcp_servers, {"const": []}),
    "safeguards": Rule(_refuse_safeguards, {"not": {}}),
}
"""Members that are read. All others are ignored."""
REQUIRED = ("model", "messages", "max_tokens")
"""Required members of a message request."""
COUNT_REQUIRED = ("model", "messages")
"""Required members of a request to count tokens."""


def check_parameters(members: JSONObject, required: tuple[str, ...] = REQUIRED) -> None:
    """Validate the members of a request, without those that are null.

    Raises:
        InvalidRequest: A member is missing, invalid or not supported.
    """
    for name in required:
        if name not in members:
            raise missing(name)
    for name, rule in PARAMETERS.items():
        if name in members:
            rule(name, members[name])


def request_schema(required: tuple[str, ...] = REQUIRED) -> Schema:
    """Return the JSON Schema of a request."""
    properties = {name: rule.schema if name in required else nullable(rule.schema) for name, rule in PARAMETERS.items()}
    return {"type": "object", "properties": properties, "required": list(required)}
