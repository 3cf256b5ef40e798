"""OpenAI's chat request as JSON: what is accepted, and what is refused in OpenAI's words before it is counted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from services.common.errors import InvalidRequest
from services.gateway.pipeline import Chat, Members

_ROLES = ("system", "assistant", "user", "function", "tool", "developer")
_STOPS_MAX = 4
_decode = msgspec.json.Decoder().decode

_NOT_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
    "correctly. The API expects a JSON payload, but what was sent was not valid JSON.)"
)

_MESSAGE_MEMBERS = {
    # What Groq takes of each role; it answers 400 to any other, where OpenAI ignores it.
    "system": frozenset({"role", "content", "name"}),
    "developer": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset({"role", "content", "name", "tool_calls", "reasoning", "function_call"}),
    "tool": frozenset({"role", "content", "name", "tool_call_id"}),
    "function": frozenset({"role", "content", "name"}),
}


@dataclass(frozen=True, slots=True)
class _Number:
    """A number's type and range."""

    expected: str
    """OpenAI's name of the type: `a decimal` or `an integer`."""
    least: float | None = None
    most: float | None = None


_NUMBERS: Mapping[str, _Number] = {
    "temperature": _Number("a decimal", 0, 2),
    "top_p": _Number("a decimal", 0, 1),
    "frequency_penalty": _Number("a decimal", -2, 2),
    "presence_penalty": _Number("a decimal", -2, 2),
    "max_completion_tokens": _Number("an integer", 1),
    "max_tokens": _Number("an integer", 1),
    "n": _Number("an integer", 1, 1),
    "seed": _Number("an integer"),
    "top_logprobs": _Number("an integer", 0, 20),
}
_OTHERS: Mapping[str, tuple[type, str]] = {
    "stream": (bool, "a boolean"),
    "parallel_tool_calls": (bool, "a boolean"),
    "logprobs": (bool, "a boolean"),
    "store": (bool, "a boolean"),
    "include_reasoning": (bool, "a boolean"),
    "disable_tool_validation": (bool, "a boolean"),
    "model": (str, "a string"),
    "user": (str, "a string"),
    "service_tier": (str, "a string"),
    "reasoning_effort": (str, "a string"),
    "reasoning_format": (str, "a string"),
    "stream_options": (dict, "an object"),
    "response_format": (dict, "an object"),
    "metadata": (dict, "an object"),
    "logit_bias": (dict, "an object"),
    "tools": (list, "an array of objects"),
}


def parse_chat(body: bytes) -> Chat:
    """Return the chat request in an HTTP body, whatever its content type says.

    Top-level members that are null count as absent. Members of a message that its role does not have are dropped, as
    OpenAI does.

    Raises:
        InvalidRequest: The body is not a chat request; `param` and `code` in the metadata are OpenAI's.
    """
    members = _object(body)
    _check_messages(members.get("messages"), present="messages" in members)
    present = {name: value for name, value in members.items() if value is not None}
    for name, value in present.items():
        _check_parameter(name, value)
    present["messages"] = [_own_members(message) for message in present["messages"]]
    stream = present.pop("stream", False)
    return Chat(present, stream)


def _object(body: bytes) -> Members:
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(_NOT_JSON) from exc
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"Invalid type for the request body: expected an object, but got {_type_name(value)} instead."
        )
    return value


def _check_messages(messages: Any, *, present: bool) -> None:
    if not present:
        raise _missing("messages")
    if not isinstance(messages, list):
        raise _wrong_type("messages", "an array of objects", messages)
    if not messages:
        raise _refusal(
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            "messages",
            "empty_array",
        )
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")


def _check_message(message: Any, path: str) -> None:
    if not isinstance(message, dict):
        raise _wrong_type(path, "an object", message)
    role = message.get("role")
    if role is None:
        raise _missing(f"{path}.role")
    if not isinstance(role, str):
        raise _wrong_type(f"{path}.role", "a string", role)
    if role not in _MESSAGE_MEMBERS:
        raise _unknown_value(f"{path}.role", role, _ROLES)
    _check_content(message, f"{path}.content", optional=role == "assistant")


def _check_content(message: Members, path: str, *, optional: bool) -> None:
    content = message.get("content")
    if content is None and optional:
        return
    if "content" not in message:
        raise _missing(path)
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise _wrong_type(path, "one of a string or array of objects", content)
    for index, part in enumerate(content):
        if not isinstance(part, dict):
            raise _wrong_type(f"{path}[{index}]", "an object", part)


def _check_parameter(name: str, value: Any) -> None:
    if name in _NUMBERS:
        _check_number(name, value, _NUMBERS[name])
    elif name in _OTHERS:
        kind, expected = _OTHERS[name]
        if not isinstance(value, kind):
            raise _wrong_type(name, expected, value)
    elif name == "stop":
        _check_stop(value)
    if name == "tools":
        _check_objects(name, value)


def _check_number(name: str, value: Any, rule: _Number) -> None:
    whole = rule.expected == "an integer"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise _wrong_type(name, rule.expected, value)
    kind = "integer" if whole else "decimal"
    if rule.least is not None and value < rule.least:
        text = (
            f"Invalid '{name}': {kind} below minimum value. Expected a value >= {rule.least}, but got {value} instead."
        )
        raise _refusal(text, name, f"{kind}_below_min_value")
    if rule.most is not None and value > rule.most:
        text = (
            f"Invalid '{name}': {kind} above maximum value. Expected a value <= {rule.most}, but got {value} instead."
        )
        raise _refusal(text, name, f"{kind}_above_max_value")


def _check_stop(value: Any) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong_type("stop", "one of a string or array of strings", value)
    if len(value) > _STOPS_MAX:
        text = (
            f"Invalid 'stop': array too long. Expected an array with maximum length {_STOPS_MAX}, "
            f"but got an array with length {len(value)} instead."
        )
        raise _refusal(text, "stop", "array_above_max_length")


def _check_objects(name: str, items: list[Any]) -> None:
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise _wrong_type(f"{name}[{index}]", "an object", item)


def _own_members(message: Members) -> Members:
    """Return a message with what its role has; reasoning under the name that other clients use is kept."""
    own = _MESSAGE_MEMBERS[message["role"]]
    kept = {name: value for name, value in message.items() if name in own and value is not None}
    reasoning = message.get("reasoning_content")
    if "reasoning" in own and "reasoning" not in kept and isinstance(reasoning, str):
        kept["reasoning"] = reasoning
    return kept


def _missing(param: str) -> InvalidRequest:
    return _refusal(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def _wrong_type(param: str, expected: str, value: Any) -> InvalidRequest:
    text = f"Invalid type for '{param}': expected {expected}, but got {_type_name(value)} instead."
    return _refusal(text, param, "invalid_type")


def _unknown_value(param: str, value: str, known: tuple[str, ...]) -> InvalidRequest:
    listed = ", ".join(f"'{name}'" for name in known[:-1])
    text = f"Invalid value: '{value[:100]}'. Supported values are: {listed}, and '{known[-1]}'."
    return _refusal(text, param, "invalid_value")


def _refusal(message: str, param: str, code: str) -> InvalidRequest:
    return InvalidRequest(message, metadata={"param": param, "code": code})


_TYPE_NAMES: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (lambda value: value is None, "null"),
    (lambda value: isinstance(value, bool), "a boolean"),
    (lambda value: isinstance(value, int), "an integer"),
    (lambda value: isinstance(value, float), "a decimal number"),
    (lambda value: isinstance(value, str), "a string"),
    (lambda value: isinstance(value, list), "an array"),
)


def _type_name(value: Any) -> str:
    return next((name for fits, name in _TYPE_NAMES if fits(value)), "an object")
