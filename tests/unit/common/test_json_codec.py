"""The JSON codec on realistic shapes of OpenAI's and Groq's JSON, and the field that each member maps to."""

import json
from typing import Any

import msgspec
import pytest
from google.protobuf.message import Message

from services.common.rpc import json_codec
from stack.inference.v1 import chat_pb2

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "$defs": {}}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "d", "parameters": SCHEMA, "strict": True},
}
CALLS = [
    {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}},
    {"id": "call_2", "type": "function", "function": {"name": "weather", "arguments": "{}"}, "index": 1},
]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
LOGPROBS = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}], "refusal": None}
USAGE = {
    "queue_time": 0.0123,
    "prompt_tokens": 18,
    "prompt_time": 1e-05,
    "completion_tokens": 2,
    "total_tokens": 20,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 1, "accepted_prediction_tokens": None},
    "usage_breakdown": {"models": [{"model": "a", "usage": {"total_tokens": 1}}]},
}
MESSAGE = {"role": "user", "content": "hi"}

REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"model": "m", "messages": [MESSAGE]},
    "tools": {"messages": [MESSAGE], "tools": [TOOL, TOOL], "tool_choice": "auto", "parallel_tool_calls": False},
    "named tool": {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
    "tool turns": {
        "messages": [
            {"role": "assistant", "content": None, "tool_calls": CALLS},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "sunny"}]},
        ]
    },
    "json_schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": SCHEMA, "strict": True, "description": "d"},
        }
    },
    "json_object": {"response_format": {"type": "json_object"}},
    "images": {"messages": [{"role": "user", "content": [{"type": "text", "text": "what?"}, IMAGE]}]},
    "zeros": {"temperature": 0, "top_p": 0.0, "n": 0, "seed": -1, "max_tokens": 0, "user": "", "model": ""},
    "stops": {"stop": ["a", "b"]},
    "one stop": {"stop": "a"},
    "empty stop": {"stop": ""},
    "no stops": {"stop": []},
    "mixed stops": {"stop": ["a", None]},
    "nulls": {"stop": None, "tools": None, "temperature": None, "stream_options": None, "tool_choice": None},
    "empty": {"tools": [], "messages": [], "stream_options": {}, "response_format": {}},
    "empty parts": {"messages": [{"role": "user", "content": []}]},
    "wrong types": {"temperature": "hot", "n": 1.5, "seed": True, "messages": [MESSAGE, "x"], "tools": {"a": 1}},
    "groq": {"reasoning_format": "parsed", "include_reasoning": True, "search_settings": {"exclude": []}},
    "compound": {"compound_custom": {"tools": {"enabled_tools": ["web_search"]}}, "documents": [], "logit_bias": {}},
    "our names": {"extra_json": {"a": 1}, "stop_text": "x", "stop_list": [], "tool_choice_mode": 1, "items": []},
    "large numbers": {"seed": 2**63, "n": -(2**63), "temperature": 2**53 + 1, "metadata": {"a": 10**30}},
    "text": {"messages": [{"role": "user", "content": 'é\u2028\0\U0001f600"\\</script>'}]},
}

ANSWERS: dict[str, tuple[type[Message], dict[str, Any]]] = {
    "completion": (
        chat_pb2.ChatCompletion,
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_785_672_000,
            "model": "m",
            "choices": [{"index": 0, "message": MESSAGE, "logprobs": None, "finish_reason": "stop"}],
            "usage": USAGE,
            "usage_breakdown": None,
            "system_fingerprint": "fp_1",
            "x_groq": {"id": "req_1", "seed": 5},
            "service_tier": "on_demand",
        },
    ),
    "logprobs": (chat_pb2.ChatCompletion, {"choices": [{"index": 0, "logprobs": LOGPROBS, "finish_reason": None}]}),
    "refusal": (
        chat_pb2.ChatCompletion,
        {"choices": [{"message": {"role": "assistant", "content": None, "refusal": "no", "annotations": []}}]},
    ),
    "reasoning": (
        chat_pb2.ChatChunk,
        {"choices": [{"index": 0, "delta": {"reasoning": "hm", "channel": "analysis"}, "finish_reason": None}]},
    ),
    "parallel tools": (chat_pb2.ChatChunk, {"choices": [{"index": 0, "delta": {"tool_calls": CALLS}}]}),
    "executed tools": (
        chat_pb2.ChatChunk,
        {"choices": [{"delta": {"executed_tools": [{"index": 0, "type": "search", "output": "x"}]}}]},
    ),
    "usage chunk": (chat_pb2.ChatChunk, {"choices": [], "usage": USAGE, "x_groq": {"usage": USAGE}}),
    "first chunk": (
        chat_pb2.ChatChunk,
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "x_groq": {"id": "req_1"}},
    ),
    "model": (
        chat_pb2.Model,
        {"id": "m", "active": True, "context_window": 131_072, "public_apps": None, "input_modalities": ["text"]},
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_survives_the_round_trip(name: str) -> None:
    assert _through_the_wire(chat_pb2.ChatRequest, REQUESTS[name]) == REQUESTS[name]


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_survives_the_round_trip(name: str) -> None:
    kind, original = ANSWERS[name]
    assert _through_the_wire(kind, original) == original


def test_members_of_the_schema_map_to_typed_fields() -> None:
    request = _filled(REQUESTS["tools"] | REQUESTS["json_schema"] | REQUESTS["stops"])

    assert request.messages[0].content_text == "hi"
    assert request.tools[0].function.name == "weather"
    assert json.loads(request.tools[0].function.parameters_json) == SCHEMA
    assert request.tool_choice_mode == "auto"
    assert list(request.stop_list.items) == ["a", "b"]
    assert json.loads(request.response_format.json_schema.schema_json) == SCHEMA
    assert request.extra_json == ""


def test_absent_and_zero_are_distinguished() -> None:
    assert not _filled({}).HasField("temperature")
    assert _filled({"temperature": 0}).HasField("temperature")
    assert _filled({"stop": ""}).WhichOneof("stop") == "stop_text"


def test_members_that_no_field_can_hold_are_kept_in_the_extra_json() -> None:
    request = _filled({"n": 1.5, "tools": [], "user": None, "new": {"a": [1]}, "temperature": 1})

    assert json.loads(request.extra_json) == {"n": 1.5, "tools": [], "user": None, "new": {"a": [1]}}


def test_a_typed_field_takes_precedence_over_the_same_member_of_the_extra_json() -> None:
    request = chat_pb2.ChatRequest(model="typed", extra_json='{"model":"stray","user":"u"}')

    assert json.loads(json_codec.encode(request)) == {"model": "typed", "user": "u"}


def test_a_lone_surrogate_is_a_value_error() -> None:
    for members in ({"user": "\ud800"}, {"new": "\ud800"}, {"messages": [{"content": "\ud800"}]}):
        with pytest.raises(ValueError, match="surrogates"):
            _filled(members)


def test_extra_json_that_is_not_an_object_is_a_decode_error() -> None:
    for text in ("[]", "{", "nonsense" * 20):
        with pytest.raises(msgspec.DecodeError):
            json_codec.to_json(chat_pb2.ChatRequest(extra_json=text))


def _filled(members: dict[str, Any]) -> chat_pb2.ChatRequest:
    request = chat_pb2.ChatRequest()
    json_codec.to_message(request, members)
    return request


def _through_the_wire(kind: type[Message], original: dict[str, Any]) -> Any:
    message = kind()
    json_codec.to_message(message, msgspec.json.decode(json.dumps(original)))
    return json.loads(json_codec.encode(kind.FromString(message.SerializeToString())))
