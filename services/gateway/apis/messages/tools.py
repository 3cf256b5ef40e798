"""Tools and the tool choice as chat members."""

from collections.abc import Iterable

from services.gateway.apis.checks import array_too_long, refusal
from services.gateway.apis.messages.history import History
from services.gateway.apis.translation.tool_names import ToolNames
from services.gateway.http.redaction import redacted
from services.gateway.requests.types import JSONObject

_PLACEHOLDER = "DeferredToolPlaceholder"
"""A tool of Claude Code's that only keeps the list of deferred tools from being empty."""
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def tool_members(members: JSONObject, history: History, names: ToolNames[str], *, tools_max: int) -> JSONObject:
    """Return the chat members for the tools that the model sees; none if there are no such tools.

    Deferred tools are dropped until the conversation has loaded them.

    Raises:
        InvalidRequest: There are more than `tools_max` such tools, or the chosen one is not among them.
    """
    choice = members.get("tool_choice") or {"type": "auto"}
    chosen: str | None = choice["name"] if choice["type"] == "tool" else None
    shown = _shown([*(members.get("tools") or ()), *history.defined], history, chosen)
    if chosen is not None and all(tool["name"] != chosen for tool in shown):
        text = f"tool_choice: Tool '{redacted(chosen)}' not found in tools."
        raise refusal(text, "tool_choice", "tool_not_found")
    if not shown:
        return {}
    if len(shown) > tools_max:
        raise array_too_long("tools", tools_max, len(shown))
    chat: JSONObject = {"tools": [_function(tool, names) for tool in shown]}
    if "tool_choice" in members:
        chat["tool_choice"] = _choice(choice, names)
    if choice.get("disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = False
    if choice["type"] != "tool":
        # Clients answer calls of unknown tools themselves. Groq rejects the member together with a named tool.
        chat["disable_tool_validation"] = True
    return chat


def _shown(tools: Iterable[JSONObject], history: History, chosen: str | None) -> list[JSONObject]:
    by_name = {tool["name"]: tool for tool in tools}
    loaded = history.loaded | {chosen}
    return [
        tool
        for name, tool in by_name.items()
        if name not in history.removed and name != _PLACEHOLDER and (not tool.get("defer_loading") or name in loaded)
    ]


def _function(tool: JSONObject, names: ToolNames[str]) -> JSONObject:
    parameters = {"type": "object", **tool["input_schema"]}
    parameters.pop("$schema", None)
    function: JSONObject = {"name": names.add(tool["name"], tool["name"])}
    if tool.get("description"):
        function["description"] = tool["description"]
    function["parameters"] = parameters
    if tool.get("strict"):
        function["strict"] = True
    return {"type": "function", "function": function}


def _choice(choice: JSONObject, names: ToolNames[str]) -> str | JSONObject:
    if choice["type"] == "tool":
        return {"type": "function", "function": {"name": names.add(choice["name"], choice["name"])}}
    return _CHOICES[choice["type"]]
