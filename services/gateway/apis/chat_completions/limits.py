"""Size limits of a chat request. They are checked first, so that rejecting an oversized request is cheap."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from services.common.errors import ErrorDetails, InvalidRequest
from services.common.json_values import has_more_values
from services.gateway.apis.checks import array_too_long, refusal
from services.gateway.requests.types import JSONObject

_CONTAINERS = (dict, list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatLimits:
    """Limits of a chat request. The defaults are far above what clients send."""

    messages_max: int = 2_048
    content_parts_max: int = 4_096
    """Content parts of all messages together."""
    tool_calls_max: int = 4_096
    """Tool calls of all messages together."""
    tools_max: int = 128
    """Elements of `tools`, and of the deprecated `functions`."""
    nesting_max: int = 100
    """Levels of arrays and objects in one parameter. Encoding fails only at far deeper nesting."""
    values_max: int = 100_000
    """Members of objects and elements of arrays in the whole body; each array and object counts as one more."""
    name_characters_max: int = 256
    """Length of model, participant, function and schema names."""


DEFAULT_LIMITS = ChatLimits()
"""The default limits."""


def check_values(body: bytes, limits: ChatLimits) -> None:
    """Check the number of JSON values in a body before it is parsed.

    Raises:
        InvalidRequest: The body has too many values.
    """
    most = limits.values_max
    if has_more_values(body, most):
        raise InvalidRequest(
            f"The request has too many JSON values. Expected at most {most:,} object members and array elements.",
            details=ErrorDetails(code="too_many_values"),
        )


def check_limits(members: JSONObject, limits: ChatLimits, *, body: bytes) -> None:
    """Check all other limits of a parsed request.

    Raises:
        InvalidRequest: The request exceeds a limit.
    """
    # Nesting cannot be deeper than the number of brackets, and most bodies have few.
    if body.count(b"[") + body.count(b"{") > limits.nesting_max:
        for name, value in members.items():
            _check_nesting(name[:100], value, limits.nesting_max)
    _check_names(members, limits.name_characters_max)
    for name in ("tools", "functions"):
        _check_length(name, members.get(name), limits.tools_max)
    messages = members.get("messages")
    _check_length("messages", messages, limits.messages_max)
    if isinstance(messages, list):
        _check_messages([one for one in messages if isinstance(one, dict)], limits)


def _check_length(path: str, value: Any, most: int) -> None:
    if isinstance(value, list) and len(value) > most:
        raise array_too_long(path, most, len(value))


def _check_messages(messages: list[JSONObject], limits: ChatLimits) -> None:
    _check_total("content parts", _lengths(messages, "content"), limits.content_parts_max)
    _check_total("tool calls", _lengths(messages, "tool_calls"), limits.tool_calls_max)
    for index, message in enumerate(messages):
        _check_name(f"messages[{index}].name", message.get("name"), limits.name_characters_max)
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            for number, call in enumerate(calls):
                path = f"messages[{index}].tool_calls[{number}].function"
                _check_name(f"{path}.name", _member(_member(call, "function"), "name"), limits.name_characters_max)


def _lengths(messages: list[JSONObject], name: str) -> Iterable[int]:
    return (len(value) for one in messages if isinstance(value := one.get(name), list))


def _check_total(what: str, lengths: Iterable[int], most: int) -> None:
    total = sum(lengths)
    if total > most:
        text = (
            f"Invalid 'messages': too many {what}. Expected at most {most} in all messages together, but got {total}."
        )
        raise refusal(text, "messages", "array_above_max_length")


def _check_names(members: JSONObject, most: int) -> None:
    _check_name("model", members.get("model"), most)
    _check_name("tool_choice.function.name", _member(_member(members.get("tool_choice"), "function"), "name"), most)
    schema = _member(members.get("response_format"), "json_schema")
    _check_name("response_format.json_schema.name", _member(schema, "name"), most)


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _check_name(path: str, value: Any, most: int) -> None:
    if isinstance(value, str) and len(value) > most:
        raise refusal(
            f"Invalid '{path}': string too long. Expected a string with maximum length {most}, "
            f"but got a string with length {len(value)} instead.",
            path,
            "string_above_max_length",
        )


def _check_nesting(path: str, value: Any, most: int) -> None:
    level = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(most):
        if not level:
            return
        level = [inner for one in level for inner in _children(one) if isinstance(inner, _CONTAINERS)]
    if level:
        text = f"Invalid '{path}': nested too deeply. Expected at most {most} levels of arrays and objects."
        raise refusal(text, path, "nesting_too_deep")


def _children(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container
