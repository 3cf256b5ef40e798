"""Size limits of a Responses request besides those shared with chat, checked before anything slow."""

from collections.abc import Iterable
from typing import Any

from services.gateway.apis.chat_completions.limits import ChatLimits
from services.gateway.apis.checks import array_too_long, refusal
from services.gateway.apis.responses.input_items import CALL_TYPES
from services.gateway.requests.types import JSONObject


def check_input_limits(members: JSONObject, limits: ChatLimits) -> None:
    """Check the numbers of items, parts, calls and tools in a request that was decoded but not validated.

    Raises:
        InvalidRequest: The request exceeds a limit.
    """
    given = members.get("input")
    items = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    _check_total("input", "items", len(items), limits.messages_max + limits.tool_calls_max)
    parts = _length(items, "content") + _length(items, "output") + _length(items, "summary")
    _check_total("input", "content parts", parts, limits.content_parts_max)
    calls = sum(item.get("type") in CALL_TYPES for item in items)
    _check_total("input", "tool calls", calls, limits.tool_calls_max)
    _check_tools("tools", _objects(members.get("tools")), limits.tools_max)
    _check_tools("input", [tool for item in items for tool in _objects(item.get("tools"))], limits.tools_max)


def check_messages(messages: list[JSONObject], limits: ChatLimits) -> None:
    """Check the number of chat messages that the items became.

    Raises:
        InvalidRequest: There are none, or too many.
    """
    if not messages:
        raise refusal("Invalid 'input': no messages. Expected at least one message.", "input", "empty_array")
    if len(messages) > limits.messages_max:
        raise array_too_long("input", limits.messages_max, len(messages))


def _check_tools(path: str, tools: list[JSONObject], most: int) -> None:
    _check_total(path, "tools", len(tools) + _length(tools, "tools"), 2 * most)


def _check_total(path: str, what: str, total: int, most: int) -> None:
    if total > most:
        text = f"Invalid '{path}': too many {what}. Expected at most {most}, but got {total}."
        raise refusal(text, path, "array_above_max_length")


def _length(objects: Iterable[JSONObject], name: str) -> int:
    return sum(len(value) for one in objects if isinstance(value := one.get(name), list))


def _objects(value: Any) -> list[JSONObject]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
