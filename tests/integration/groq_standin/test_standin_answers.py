"""Non-streaming answers have Groq's shape and depend only on the request."""

import re

import pytest

from tests.integration.groq_standin.standin_process import OSS, QWEN, StandIn

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
            "required": ["city", "days"],
        },
    },
}
KEYS = "id object created model choices usage usage_breakdown system_fingerprint x_groq service_tier"
TIMES = "queue_time prompt_tokens prompt_time completion_tokens completion_time total_tokens total_time"


def test_the_keys_come_in_groqs_order(standin: StandIn) -> None:
    body = standin.say("hi", model=QWEN).json()
    assert list(body) == KEYS.split()
    assert list(body["choices"][0]) == ["index", "message", "logprobs", "finish_reason"]
    assert list(body["usage"]) == TIMES.split()
    assert body["usage_breakdown"] is None


def test_the_ids_have_groqs_format(standin: StandIn) -> None:
    response = standin.say("hi", seed=7)
    body = response.json()
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", body["id"])
    assert re.fullmatch(r"req_[0-9a-hjkmnp-tv-z]{26}", body["x_groq"]["id"])
    assert re.fullmatch(r"fp_[0-9a-f]{10}", body["system_fingerprint"])
    assert body["x_groq"]["seed"] == 7
    assert response.headers["x-request-id"] == body["x_groq"]["id"]


def test_an_answer_carries_groqs_headers(standin: StandIn) -> None:
    headers = standin.say("hi").headers
    assert headers["content-type"] == "application/json"
    assert headers["vary"] == "Origin"
    assert "no-store" in headers["cache-control"]
    assert headers["x-groq-region"]
    assert len([name for name in headers if name.startswith("x-ratelimit-")]) == 6


def test_json_is_encoded_as_in_go(standin: StandIn) -> None:
    raw = standin.say("[[standin:unicode]]", model=QWEN).content
    assert raw.endswith(b"}\n")
    assert rb"\u003cb\u003ebold \u0026 " in raw
    assert rb"\u2028" in raw
    assert "日本語".encode() in raw


def test_the_answer_repeats_the_message_without_its_markers(standin: StandIn) -> None:
    body = standin.say("good morning [[standin:cached tokens=2]]").json()
    assert body["choices"][0]["message"]["content"].endswith("You said: good morning")
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


def test_the_same_request_costs_the_same(standin: StandIn) -> None:
    assert standin.say("same").json()["usage"] == standin.say("same").json()["usage"]


def test_usage_adds_up_and_reasoning_is_counted_inside(standin: StandIn) -> None:
    usage = standin.say("[[standin:reasoning tokens=12]]").json()["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 12}
    assert usage["completion_tokens"] > 12


def test_only_a_model_with_reasoning_enabled_shows_reasoning(standin: StandIn) -> None:
    assert "reasoning" in standin.say("hi", model=OSS).json()["choices"][0]["message"]
    assert "reasoning" not in standin.say("hi", model=QWEN).json()["choices"][0]["message"]
    asked = standin.say("hi", model=QWEN, reasoning_format="parsed").json()["choices"][0]["message"]
    assert list(asked) == ["role", "content", "reasoning"]


def test_hidden_reasoning_is_still_billed(standin: StandIn) -> None:
    shown, hidden = standin.say("hi").json(), standin.say("hi", include_reasoning=False).json()
    assert "reasoning" not in hidden["choices"][0]["message"]
    assert shown["usage"] == hidden["usage"]


def test_raw_reasoning_is_part_of_the_content(standin: StandIn) -> None:
    body = standin.say("hi", model=QWEN, reasoning_format="raw").json()
    assert body["choices"][0]["message"]["content"].startswith("<think>")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_token_limit_ends_the_answer_with_length(standin: StandIn, name: str) -> None:
    body = standin.say("hi", model=QWEN, **{name: 3}).json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 3


def test_a_limit_reached_while_thinking_leaves_content_empty(standin: StandIn) -> None:
    body = standin.say("hi", max_completion_tokens=3).json()
    assert body["choices"][0]["message"]["content"] == ""
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}


def test_a_stop_sequence_ends_the_text_before_it(standin: StandIn) -> None:
    choice = standin.say("hi", stop=["stand-in", "zzz"]).json()["choices"][0]
    assert choice["message"]["content"] == "Hello from the local Groq "
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_forced_tool_is_called_without_a_content_key(standin: StandIn, choice: object) -> None:
    answer = standin.say("hi", model=QWEN, tools=[WEATHER], tool_choice=choice).json()["choices"][0]
    assert list(answer["message"]) == ["role", "tool_calls"]
    assert answer["message"]["tool_calls"][0]["function"] == {
        "name": "weather",
        "arguments": '{"city":"stand-in","days":2}',
    }
    assert answer["finish_reason"] == "tool_calls"


def test_an_offered_tool_is_not_called_without_the_marker(standin: StandIn) -> None:
    assert standin.say("hi", tools=[WEATHER]).json()["choices"][0]["finish_reason"] == "stop"


def test_the_marker_calls_a_tool(standin: StandIn) -> None:
    answer = standin.say("[[standin:tool_call]]").json()["choices"][0]
    assert answer["message"]["tool_calls"][0]["function"]["name"] == "standin_tool"


def test_a_json_schema_gets_its_required_members(standin: StandIn) -> None:
    schema = {
        "$defs": {"Kind": {"enum": ["a", "b"]}},
        "type": "object",
        "properties": {
            "kind": {"$ref": "#/$defs/Kind"},
            "many": {"type": "array", "items": {"type": "boolean"}, "minItems": 2},
            "maybe": {"anyOf": [{"type": "null"}, {"type": "string"}]},
            "loose": {"type": "string"},
        },
        "required": ["kind", "many", "maybe"],
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    content = standin.say("hi", response_format=wanted).json()["choices"][0]["message"]["content"]
    assert content == '{"kind":"a","many":[true,true],"maybe":null}'


def test_json_mode_answers_an_object(standin: StandIn) -> None:
    content = standin.say("hi", response_format={"type": "json_object"}).json()["choices"][0]["message"]["content"]
    assert content.startswith('{"answer":"Hello')


def test_an_answer_of_n_tokens_costs_exactly_n(standin: StandIn) -> None:
    assert standin.say("[[standin:tokens count=37]]").json()["usage"]["completion_tokens"] == 37


def test_a_large_answer_has_exactly_the_requested_bytes(standin: StandIn) -> None:
    text = "[[standin:big bytes=300001 piece=1000]]"
    body = standin.say(text).json()
    assert len(body["choices"][0]["message"]["content"]) == 300_001
    assert standin.entry(text)["completed"]
