"""`tool_choice` as chat's `tool_choice`, including the list of allowed tools."""

from typing import Any

from services.gateway.apis.checks import (
    Rule,
    Schema,
    array_of,
    by_type,
    mapping,
    one_of,
    record,
    refusal,
    string,
    unsupported,
)
from services.gateway.apis.responses.tools import NAME, ToolKey, ToolTable
from services.gateway.http.redaction import redacted
from services.gateway.requests.types import JSONObject

_ALLOWED_MAX = 1_024
_TYPED = record({"type": string}, required=["type"])
_NAMED = record({"name": NAME, "namespace": string}, required=["name"])
_ALLOWED = record(
    {
        "mode": one_of("auto", "required"),
        "tools": array_of(mapping, "an array of objects", at_most=_ALLOWED_MAX),
    },
    required=["tools"],
)
_NAMED_TYPES = ("function", "custom")


def _check_object(path: str, value: Any) -> None:
    _TYPED(path, value)
    if value["type"] in _NAMED_TYPES:
        _NAMED(path, value)
    elif value["type"] == "allowed_tools":
        _ALLOWED(path, value)
    else:
        raise unsupported(f"{path}.type", f"tools of type '{redacted(value['type'])}' do not run here")


def _schema(types: tuple[str, ...], rule: Rule) -> Schema:
    properties = {"type": {"enum": list(types)}, **rule.schema["properties"]}
    return {**rule.schema, "properties": properties, "required": ["type", *rule.schema["required"]]}


_OBJECT_SCHEMA: Schema = {"anyOf": [_schema(_NAMED_TYPES, _NAMED), _schema(("allowed_tools",), _ALLOWED)]}
TOOL_CHOICE = by_type(
    "one of a string or object",
    {str: one_of("none", "auto", "required"), dict: Rule(_check_object, _OBJECT_SCHEMA)},
)
"""The rule for `tool_choice`."""


def tool_members(table: ToolTable, choice: str | JSONObject | None, parallel: bool | None) -> JSONObject:
    """Return the chat members for tools. Without tools, Groq answers 400 to the others, so there are none.

    Args:
        table: The tools.
        choice: A checked `tool_choice`; None leaves it to the model.
        parallel: `parallel_tool_calls`.

    Raises:
        InvalidRequest: The choice is a tool that is not in the table.
    """
    tools = table.tools
    if isinstance(choice, dict) and choice["type"] == "allowed_tools":
        allowed = {_key(one) for one in choice["tools"]}
        tools = {key: tool for key, tool in tools.items() if key in allowed}
        choice = choice.get("mode") or "auto"
    if not tools:
        _refuse_missing(choice)
        return {}
    members: JSONObject = {"tools": list(tools.values())}
    if isinstance(choice, dict):
        members["tool_choice"] = _named(table, choice)
    else:
        # Clients answer a call of an unknown tool themselves. Groq would end the turn with an error.
        members |= {"disable_tool_validation": True} | ({"tool_choice": choice} if choice else {})
    return members | ({} if parallel is None else {"parallel_tool_calls": parallel})


def _named(table: ToolTable, choice: JSONObject) -> JSONObject:
    key = _key(choice)
    if key not in table.tools:
        _refuse_missing(choice)
    return {"type": "function", "function": {"name": table.name(key)}}


def _key(choice: JSONObject) -> ToolKey:
    # The tools of `allowed_tools` may be hosted ones, without a name. No tool has an empty name.
    name, namespace = choice.get("name"), choice.get("namespace")
    return ToolKey(
        name if isinstance(name, str) else "",
        namespace if isinstance(namespace, str) else None,
        choice.get("type") == "custom",
    )


def _refuse_missing(choice: str | JSONObject | None) -> None:
    if isinstance(choice, dict):
        text = f"Tool choice '{redacted(choice['name'])}' not found in 'tools' parameter."
        raise refusal(text, "tool_choice", "invalid_value")
