"""JSON Schemas of message requests, from the rules that validate them."""

from services.gateway.apis.chat_completions.limits import DEFAULT_LIMITS, ChatLimits
from services.gateway.apis.checks import Schema
from services.gateway.apis.messages.parameters import COUNT_REQUIRED, REQUIRED, request_schema

_DESCRIPTION = (
    "Unknown members are ignored. Each `tool_result` must follow a `tool_use` with its id. At most {values} JSON "
    "values, {parts} content blocks, {calls} tool calls, {tools} tools that are not deferred, and {levels} levels of "
    "nested arrays and objects."
)


def schema(limits: ChatLimits = DEFAULT_LIMITS) -> Schema:
    """Return the JSON Schema of a message request."""
    return _limited(request_schema(REQUIRED), limits)


def count_schema(limits: ChatLimits = DEFAULT_LIMITS) -> Schema:
    """Return the JSON Schema of a request to count tokens."""
    return _limited(request_schema(COUNT_REQUIRED), limits)


def _limited(request: Schema, limits: ChatLimits) -> Schema:
    properties = request["properties"]
    bounded = {
        "messages": {**properties["messages"], "maxItems": limits.messages_max},
        "model": {**properties["model"], "maxLength": limits.name_characters_max},
    }
    description = _DESCRIPTION.format(
        values=limits.values_max,
        parts=limits.content_parts_max,
        calls=limits.tool_calls_max,
        tools=limits.tools_max,
        levels=limits.nesting_max,
    )
    return {**request, "properties": {**properties, **bounded}, "description": description}
