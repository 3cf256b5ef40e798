"""Tools of a request as chat tools: functions, custom tools and namespaces of both."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from services.gateway.apis.checks import (
    Rule,
    Schema,
    array_of,
    array_too_long,
    boolean,
    mapping,
    record,
    refusal,
    string,
    unsupported,
)
from services.gateway.apis.translation.tool_names import ToolNames
from services.gateway.http.redaction import redacted
from services.gateway.requests.types import JSONObject

_NAME_CHARACTERS_MAX = 256
_HOSTED = frozenset({"image_generation", "code_interpreter", "file_search", "mcp"})
_HOSTED_PREFIX = "web_search"
_TYPE_CHARACTERS_MAX = 64
_NO_PARAMETERS: JSONObject = {"type": "object", "properties": {}}
_CUSTOM_PARAMETERS: JSONObject = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


class ToolKey(NamedTuple):
    """What identifies a tool for the client."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


def is_hosted(tool_type: str) -> bool:
    """Return whether tools of a type run at OpenAI. Clients offer them by default; they are dropped."""
    return tool_type in _HOSTED or tool_type.startswith(_HOSTED_PREFIX)


def hosted_type(tool_type: str) -> str:
    """Return the type of a hosted tool, without a suffix that is too long for one."""
    return tool_type if len(tool_type) <= _TYPE_CHARACTERS_MAX else _HOSTED_PREFIX


def _check_name(path: str, value: Any) -> None:
    string(path, value)
    if not value:
        raise refusal(f"Invalid '{path}': empty string. Expected a name.", path, "empty_string")
    if len(value) > _NAME_CHARACTERS_MAX:
        text = f"Invalid '{path}': string too long. Expected a string with maximum length {_NAME_CHARACTERS_MAX}."
        raise refusal(text, path, "string_above_max_length")


NAME = Rule(_check_name, {"type": "string", "minLength": 1, "maxLength": _NAME_CHARACTERS_MAX})
"""The rule for names of tools and namespaces."""

_TYPED = record({"type": string}, required=["type"])
_FUNCTION = record({"name": NAME, "description": string, "parameters": mapping, "strict": boolean}, required=["name"])
_GRAMMAR = record({"type": string, "syntax": string, "definition": string})
_CUSTOM = record({"name": NAME, "description": string, "format": _GRAMMAR}, required=["name"])
_CALLABLE = {"function": _FUNCTION, "custom": _CUSTOM}


def _check_callable(path: str, tool: Any) -> None:
    _TYPED(path, tool)
    rule = _CALLABLE.get(tool["type"])
    if rule is None:
        raise unsupported(f"{path}.type", f"tools of type '{redacted(tool['type'])}' do not run here")
    rule(path, tool)


def _of_type(name: str, rule: Rule) -> Schema:
    properties = {"type": {"const": name}, **rule.schema["properties"]}
    return {**rule.schema, "properties": properties, "required": ["type", *rule.schema["required"]]}


_CALLABLE_SCHEMAS = [_of_type(name, rule) for name, rule in _CALLABLE.items()]
_NAMESPACE = record(
    {
        "name": NAME,
        "description": string,
        "tools": array_of(Rule(_check_callable, {"anyOf": _CALLABLE_SCHEMAS}), "an array of objects"),
    },
    required=["name"],
)


def _check_tool(path: str, tool: Any) -> None:
    _TYPED(path, tool)
    if tool["type"] == "namespace":
        _NAMESPACE(path, tool)
    elif not is_hosted(tool["type"]):
        _check_callable(path, tool)


_HOSTED_SCHEMA: Schema = {
    "type": "object",
    "properties": {"type": {"anyOf": [{"enum": sorted(_HOSTED)}, {"type": "string", "pattern": f"^{_HOSTED_PREFIX}"}]}},
    "required": ["type"],
    "description": "Dropped.",
}
TOOLS = array_of(
    Rule(_check_tool, {"anyOf": [*_CALLABLE_SCHEMAS, _of_type("namespace", _NAMESPACE), _HOSTED_SCHEMA]}),
    "an array of objects",
)
"""The rule for `tools`."""


class ToolTable:
    """The tools of one request, and their names at Groq."""

    def __init__(self, tools_max: int) -> None:
        """Create a table of at most `tools_max` tools."""
        self.names: ToolNames[ToolKey] = ToolNames()
        self.tools: dict[ToolKey, JSONObject] = {}
        """Chat tools. If a client sends a tool twice, the last one counts."""
        self._tools_max = tools_max

    def add(self, path: str, tools: Iterable[JSONObject]) -> None:
        """Add checked tools. Hosted tools are dropped.

        Raises:
            InvalidRequest: The table is full.
        """
        for tool in tools:
            if tool["type"] == "namespace":
                for child in tool.get("tools") or ():
                    self._add(path, child, tool["name"])
            elif not is_hosted(tool["type"]):
                self._add(path, tool, None)

    def name(self, key: ToolKey) -> str:
        """Return the name of a tool at Groq, which may be one that only the history calls."""
        return self.names.add(key, f"{key.namespace}__{key.name}" if key.namespace else key.name)

    def _add(self, path: str, tool: JSONObject, namespace: str | None) -> None:
        key = ToolKey(tool["name"], namespace, tool["type"] == "custom")
        self.tools[key] = {"type": "function", "function": _chat_function(tool, self.name(key))}
        if len(self.tools) > self._tools_max:
            raise array_too_long(path, self._tools_max, len(self.tools))


def _chat_function(tool: JSONObject, name: str) -> JSONObject:
    if tool["type"] == "custom":
        return {"name": name, "description": _custom_description(tool), "parameters": _CUSTOM_PARAMETERS}
    function = {"name": name, "parameters": tool.get("parameters") or _NO_PARAMETERS}
    if tool.get("description"):
        function["description"] = tool["description"]
    # Strict is the default at `/responses`, but not at chat completions; only an explicit value is passed on.
    return function | ({"strict": True} if tool.get("strict") else {})


def _custom_description(tool: JSONObject) -> str:
    """Return a description with the grammar, since the model would otherwise not know it."""
    grammar = tool.get("format") or {}
    lines = [tool.get("description") or "", "Pass the whole input of the tool as the string `input`."]
    if grammar.get("definition"):
        lines.append(f"It must match this {grammar.get('syntax') or ''} grammar:\n{grammar['definition']}")
    return "\n\n".join(line for line in lines if line)
