"""How request parameters are handled on the way to Groq."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import ErrorDetails, InvalidRequest
from services.gateway.apis.chat_completions.parameters import PARAMETERS
from services.gateway.apis.chat_completions.request import parse_chat

_USER = {"role": "user", "content": "hi"}
_DOCS = Path(__file__).parents[3] / "docs" / "parameters.md"


def _sent(**members: Any) -> dict[str, Any]:
    return parse_chat(json.dumps({"messages": [_USER], **members}).encode()).members


def test_the_parameters_page_matches_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\w ]+) \| (.*) \|$", _DOCS.read_text(), flags=re.MULTILINE)
    reported = {name: (policy, why) for name, policy, why in rows if name != "messages"}
    assert reported == {name: (one.policy.value, one.why) for name, one in PARAMETERS.items()}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": None, "stop": None}, {}),
        ({"reasoning_effort": "minimal"}, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "xhigh"}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "medium"}, {"reasoning_effort": "medium"}),
        ({"reasoning": {"effort": "high"}}, {"reasoning_effort": "high"}),
        ({"service_tier": "default"}, {}),
        ({"service_tier": "flex"}, {"service_tier": "flex"}),
        ({"store": True, "metadata": {"a": "b"}, "prompt_cache_key": "k", "verbosity": "low"}, {}),
        ({"modalities": ["text"]}, {}),
        ({"logprobs": False, "logit_bias": {}, "top_logprobs": 0}, {}),
        ({"stop": "a"}, {"stop": "a"}),
        (
            {"stream_options": {"include_usage": True, "include_obfuscation": False}},
            {"stream_options": {"include_usage": True}},
        ),
        ({"stream_options": {"include_obfuscation": True, "include_usage": None, "zzz": None}}, {}),
        ({"reasoning": {"effort": "xhigh", "summary": "auto"}}, {"reasoning_effort": "high"}),
        ({"reasoning": {"effort": None}}, {}),
        ({"tool_choice": "auto"}, {"tool_choice": "auto"}),
    ],
)
def test_a_parameter_is_handled_by_its_policy(given: dict[str, Any], sent: dict[str, Any]) -> None:
    assert _sent(**given) == {"messages": [_USER], **sent}


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({"zzz": 1}, "zzz", "unknown_parameter"),
        ({"audio": {"voice": "x"}}, "audio", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"logit_bias": {"50256": -100}}, "logit_bias", "unsupported_parameter"),
        ({"n": 2}, "n", "integer_above_max_value"),
        ({"temperature": 2.5}, "temperature", "decimal_above_max_value"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"stop": ["a"] * 5}, "stop", "array_above_max_length"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function", "missing_required_parameter"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "invalid_value"),
        ({"reasoning": {"effort": "zzz"}}, "reasoning.effort", "invalid_value"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort", "invalid_type"),
        ({"stream_options": {"include_obfuscation": 1}}, "stream_options.include_obfuscation", "invalid_type"),
        ({"stream_options": {"zzz": 1}}, "stream_options.zzz", "unknown_parameter"),
    ],
)
def test_an_unsupported_parameter_is_refused_by_its_name(given: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        _sent(**given)
    assert refused.value.details == ErrorDetails(param=param, code=code)


def test_an_unknown_parameter_is_reported_before_a_wrong_type() -> None:
    with pytest.raises(InvalidRequest) as refused:
        _sent(temperature="hot", zzz=1)
    assert refused.value.details.param == "zzz"


_IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
_CALL = {"name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ({"role": "system", "content": [_IMAGE]}, "content[0].type", "invalid_value"),
        ({"role": "developer", "content": [_IMAGE]}, "content[0].type", "invalid_value"),
        ({"role": "assistant", "content": [{"type": "text", "text": "a"}, _IMAGE]}, "content[1].type", "invalid_value"),
        ({"role": "system", "content": [{"type": "text"}]}, "content[0].text", "missing_required_parameter"),
        ({"role": "function", "content": "a"}, "name", "missing_required_parameter"),
        ({"role": "assistant", "function_call": "f"}, "function_call", "invalid_type"),
        (
            {"role": "assistant", "function_call": {"name": "f"}},
            "function_call.arguments",
            "missing_required_parameter",
        ),
        ({"role": "assistant", "function_call": {**_CALL, "name": 5}}, "function_call.name", "invalid_type"),
    ],
)
def test_a_message_that_groq_would_refuse_is_refused_with_its_position(
    message: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_chat(json.dumps({"messages": [message, _USER]}).encode())
    assert refused.value.details == ErrorDetails(param=f"messages[0].{param}", code=code)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [_IMAGE]},
        {"role": "tool", "content": [_IMAGE], "tool_call_id": "call_1"},
        {"role": "system", "content": [{"type": "text", "text": "a"}]},
        {"role": "function", "name": "f", "content": "a"},
        {"role": "assistant", "function_call": _CALL},
    ],
)
def test_a_message_as_openai_documents_it_is_passed_on(message: dict[str, Any]) -> None:
    assert parse_chat(json.dumps({"messages": [message]}).encode()).members["messages"] == [message]


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        ({**_USER, "id": "m1", "timestamp": 5, "refusal": None}, _USER),
        ({"role": "assistant", "content": None, "channel": "final", "annotations": []}, {"role": "assistant"}),
        (
            {"role": "assistant", "content": "a", "reasoning_content": "because"},
            {"role": "assistant", "content": "a", "reasoning": "because"},
        ),
        ({"role": "assistant", "content": "a", "tool_calls": []}, {"role": "assistant", "content": "a"}),
        # LibreChat and LangChain for JavaScript name the tool of a result.
        (
            {"role": "tool", "name": "f", "tool_call_id": "call_1", "content": "a"},
            {"role": "tool", "tool_call_id": "call_1", "content": "a"},
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
        ),
    ],
)
def test_members_that_groq_does_not_support_are_dropped_from_a_message(
    message: dict[str, Any], sent: dict[str, Any]
) -> None:
    body = json.dumps({"messages": [message]}).encode()
    assert parse_chat(body).members["messages"] == [sent]
