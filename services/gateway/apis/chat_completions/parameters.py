"""The top-level parameters of a chat request: which are passed on, dropped, translated for Groq, or refused, and why.

`docs/parameters.md` documents this table; a test keeps the two consistent.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from services.gateway.apis.checks import (
    Rule,
    Schema,
    anything,
    array_of,
    boolean,
    by_type,
    closed,
    decimal,
    integer,
    mapping,
    one_of,
    record,
    refusal,
    string,
    unknown_parameter,
    unsupported,
)
from services.gateway.requests.types import JSONObject

_TOOLS_MAX, _STOPS_MAX = 128, 4
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ParameterPolicy(StrEnum):
    """How a parameter is handled."""

    PASSED = "passed"
    """Sent to Groq unchanged."""
    DROPPED = "dropped"
    """Removed, because Groq would refuse it and the answer is the same without it."""
    TRANSLATED = "translated"
    """Sent to Groq as an equivalent value or parameter."""
    REFUSED = "refused"
    """Answered with 400, because the answer would differ from what the client requested."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """The rule and policy of a parameter."""

    rule: Rule
    policy: ParameterPolicy = ParameterPolicy.PASSED
    why: str = ""
    """The reason for the policy, or what else becomes of the value; empty for most that are passed."""
    translate: Callable[[Any], JSONObject] | None = None
    """Returns the members to send to Groq instead; empty sends none. Only for `TRANSLATED`."""


_EFFORTS = {"minimal": "low", "xhigh": "high", "max": "high"}
_OPENAI_TIERS = ("default", "scale", "priority", "fast")


_DROPPED_STREAM_OPTIONS = frozenset({"include_obfuscation"})


def _effort(value: str) -> JSONObject:
    return {"reasoning_effort": _EFFORTS.get(value, value)}


def _effort_of_object(value: JSONObject) -> JSONObject:
    return _effort(value["effort"]) if isinstance(value.get("effort"), str) else {}


def _stream_options_of(value: JSONObject) -> JSONObject:
    kept = {name: one for name, one in value.items() if one is not None and name not in _DROPPED_STREAM_OPTIONS}
    return {"stream_options": kept} if kept else {}


def _tier(value: str) -> JSONObject:
    return {} if value in _OPENAI_TIERS else {"service_tier": value}


_STRINGS = array_of(string, "an array of strings")


def _check_modalities(path: str, value: Any) -> None:
    _STRINGS(path, value)
    if value != ["text"]:
        raise unsupported(path, "only text output is supported")


def _check_function_name(path: str, value: Any) -> None:
    string(path, value)
    if not _NAME.fullmatch(value):
        text = f"Invalid '{path}': expected 1 to 64 of the characters a-z, A-Z, 0-9, '_' and '-'."
        raise refusal(text, path, "invalid_value")


def accept_only(value: Any, rule: Rule, why: str) -> Rule:
    """Return a rule that accepts only `value`, which has no effect."""

    def check(path: str, given: Any) -> None:
        rule(path, given)
        if given != value:
            raise unsupported(path, why)

    return Rule(check, {**rule.schema, "const": value})


def reject(why: str) -> Rule:
    """Return a rule that accepts no value."""

    def check(path: str, value: Any) -> None:
        raise unsupported(path, why)

    return Rule(check, {"not": {}})


_FUNCTION_NAME = Rule(_check_function_name, {"type": "string", "pattern": f"^{_NAME.pattern}$"})
_FUNCTION = record(
    {"name": _FUNCTION_NAME, "description": string, "parameters": mapping, "strict": boolean}, required=["name"]
)


_TYPED = record({"type": string}, required=["type"])
_FUNCTION_TOOL = record({"function": _FUNCTION}, required=["function"])


def _check_tool(path: str, tool: Any) -> None:
    _TYPED(path, tool)
    if tool["type"] == "function":
        _FUNCTION_TOOL(path, tool)


_TOOL_SCHEMA: Schema = {
    "type": "object",
    "properties": {"type": {"type": "string"}},
    "required": ["type"],
    "if": {"properties": {"type": {"const": "function"}}},
    "then": _FUNCTION_TOOL.schema,
}
_SCHEMA = record({"name": string, "description": string, "schema": mapping, "strict": boolean}, required=["name"])


_FORMAT = record({"type": one_of("text", "json_object", "json_schema")}, required=["type"])
_SCHEMA_FORMAT = record({"json_schema": _SCHEMA}, required=["json_schema"])


def _check_response_format(path: str, value: Any) -> None:
    _FORMAT(path, value)
    if value["type"] == "json_schema":
        _SCHEMA_FORMAT(path, value)


_FORMAT_SCHEMA: Schema = {
    **_FORMAT.schema,
    "if": {"properties": {"type": {"const": "json_schema"}}},
    "then": _SCHEMA_FORMAT.schema,
}


_CHOSEN = record(
    {"type": string, "function": record({"name": string}, required=["name"])}, required=["type", "function"]
)
_EFFORT = one_of("none", "default", "low", "medium", "high", *_EFFORTS)
_NOT_SERVED = "Groq's models do not return it"
_HINT = "a hint for OpenAI that does not change the answer"

PARAMETERS: Mapping[str, Parameter] = {
    "model": Parameter(string),
    "temperature": Parameter(decimal(0, 2)),
    "top_p": Parameter(decimal(0, 1)),
    "max_completion_tokens": Parameter(integer(1)),
    "max_tokens": Parameter(integer(1)),
    "stop": Parameter(
        by_type(
            "one of a string or array of strings",
            {str: string, list: array_of(string, "an array of strings", at_most=_STOPS_MAX)},
        )
    ),
    "stream": Parameter(boolean),
    "stream_options": Parameter(
        closed({"include_usage": boolean, "include_obfuscation": boolean}),
        ParameterPolicy.TRANSLATED,
        "`include_obfuscation` is dropped: Groq does not pad events",
        _stream_options_of,
    ),
    "n": Parameter(integer(1, 1)),
    "seed": Parameter(integer()),
    "tools": Parameter(array_of(Rule(_check_tool, _TOOL_SCHEMA), "an array of objects", at_most=_TOOLS_MAX)),
    "tool_choice": Parameter(
        by_type("one of a string or object", {str: one_of("none", "auto", "required"), dict: _CHOSEN})
    ),
    "parallel_tool_calls": Parameter(boolean),
    "disable_tool_validation": Parameter(boolean),
    "functions": Parameter(array_of(_FUNCTION, "an array of objects", at_most=_TOOLS_MAX)),
    "function_call": Parameter(anything),
    "response_format": Parameter(Rule(_check_response_format, _FORMAT_SCHEMA)),
    "reasoning_format": Parameter(one_of("hidden", "raw", "parsed")),
    "include_reasoning": Parameter(boolean),
    "user": Parameter(string, why="the ledger records a keyed digest of it"),
    "frequency_penalty": Parameter(decimal(-2, 2)),
    "presence_penalty": Parameter(decimal(-2, 2)),
    "citation_options": Parameter(anything),
    "compound_custom": Parameter(anything),
    "documents": Parameter(anything),
    "search_settings": Parameter(anything),
    "exclude_domains": Parameter(anything),
    "include_domains": Parameter(anything),
    "reasoning_effort": Parameter(
        _EFFORT,
        ParameterPolicy.TRANSLATED,
        "`minimal` becomes `low`; `xhigh` and `max` become `high`",
        _effort,
    ),
    "reasoning": Parameter(
        record({"effort": _EFFORT}),
        ParameterPolicy.TRANSLATED,
        "its `effort` becomes `reasoning_effort`; Open WebUI sends this form",
        _effort_of_object,
    ),
    "service_tier": Parameter(
        one_of("auto", "on_demand", "flex", "performance", *_OPENAI_TIERS),
        ParameterPolicy.TRANSLATED,
        "OpenAI's tiers are dropped; Groq uses its default tier",
        _tier,
    ),
    "store": Parameter(boolean, ParameterPolicy.DROPPED, "completions are not stored"),
    "metadata": Parameter(mapping, ParameterPolicy.DROPPED, "used only with `store`"),
    "prompt_cache_key": Parameter(string, ParameterPolicy.DROPPED, _HINT),
    "prompt_cache_options": Parameter(anything, ParameterPolicy.DROPPED, _HINT),
    "prompt_cache_retention": Parameter(anything, ParameterPolicy.DROPPED, _HINT),
    "safety_identifier": Parameter(string, ParameterPolicy.DROPPED, _HINT),
    "moderation": Parameter(anything, ParameterPolicy.DROPPED, _HINT),
    "prediction": Parameter(anything, ParameterPolicy.DROPPED, "only makes OpenAI's answers faster"),
    "verbosity": Parameter(string, ParameterPolicy.DROPPED, "a hint that Groq does not support"),
    "modalities": Parameter(
        Rule(_check_modalities, {"const": ["text"]}),
        ParameterPolicy.DROPPED,
        '`["text"]` is the default; other modalities are refused',
    ),
    "audio": Parameter(
        reject("only text output is supported"), ParameterPolicy.REFUSED, "only text output is supported"
    ),
    "web_search_options": Parameter(
        reject("web search is not available"), ParameterPolicy.REFUSED, "web search is not available"
    ),
    "logprobs": Parameter(
        accept_only(False, boolean, _NOT_SERVED), ParameterPolicy.REFUSED, f"{_NOT_SERVED}; false is dropped"
    ),
    "top_logprobs": Parameter(
        accept_only(0, integer(0, 20), _NOT_SERVED), ParameterPolicy.REFUSED, f"{_NOT_SERVED}; 0 is dropped"
    ),
    "logit_bias": Parameter(
        accept_only({}, mapping, "Groq's models do not support it"),
        ParameterPolicy.REFUSED,
        "Groq's models do not support it; {} is dropped",
    ),
}
"""All parameters except `messages`."""


def to_upstream(members: JSONObject) -> JSONObject:
    """Validate parameters and return the members to send to Groq.

    Raises:
        InvalidRequest: A parameter is unknown, invalid or unsupported.
    """
    unknown = next((name for name in members if name not in PARAMETERS), None)
    if unknown is not None:
        raise unknown_parameter(unknown)
    for name, value in members.items():
        PARAMETERS[name].rule(name, value)
    out: JSONObject = {}
    for name, value in members.items():
        out |= _to_upstream(name, value)
    return out


def _to_upstream(name: str, value: Any) -> JSONObject:
    parameter = PARAMETERS[name]
    if parameter.policy is ParameterPolicy.PASSED:
        return {name: value}
    return parameter.translate(value) if parameter.translate else {}
