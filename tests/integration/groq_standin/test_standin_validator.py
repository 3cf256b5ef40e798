"""The validator refuses what Groq refuses, in Groq's words, and nothing else."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.integration.groq_standin.standin_process import CHAT, KEY, OSS, QWEN, StandIn, request, started

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f"}}
EFFORTS = "['none', 'default', 'low', 'medium', 'high']"


@pytest.fixture(scope="module")
def switched() -> Iterator[StandIn]:
    """A stand-in that accepts logprobs, refuses names and accepts one key."""
    options = ("--allow-logprobs", "--refuse-names", "--api-key", "gsk_tests", "--api-key", "other")
    with started(*options) as (_, url), httpx.Client(base_url=url, timeout=10) as client:
        yield StandIn(url, client)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reasoning": {}}, "property 'reasoning' is unsupported"),
        ({"stor": True}, "property 'stor' is unsupported, did you mean 'stop'?"),
        ({"temperature": "hot"}, "'temperature' : value must be a number"),
        ({"reasoning_effort": "max"}, f"'reasoning_effort' : value is not one of the allowed values {EFFORTS}"),
        ({"messages": None}, "'messages' : Value is not nullable"),
        ({"messages": []}, "'messages' : minimum number of items is 1"),
        ({"messages": "hi"}, "'messages' : value must be an array"),
        ({"model": 7}, "'model' : value must be a string"),
        ({"stream": "yes"}, "'stream' : value must be a boolean"),
        ({"max_tokens": True}, "'max_tokens' : value must be an integer"),
        ({"max_tokens": 0}, "'max_tokens' : number must be at least 1"),
        ({"n": 2}, "'n' : number must be at most 1"),
        ({"stop": list("abcde")}, "'stop' : maximum number of items is 4"),
        ({"tools": [{"type": "function"}]}, "'tools.0.function' : property 'function' is missing"),
        ({"metadata": "x"}, "'metadata' : value must be an object"),
    ],
)
def test_a_bad_property_is_named_in_groqs_words(standin: StandIn, changes: dict[str, Any], message: str) -> None:
    error = standin.refusal(**changes)
    assert error == {"message": message, "type": "invalid_request_error"}


@pytest.mark.parametrize(
    ("bad", "role", "violation"),
    [
        ({"role": "system", "content": 3}, "system", "'messages.1.content' : value must be a string"),
        ({"role": "user", "content": None}, "user", "'messages.1.content' : Value is not nullable"),
        (
            {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": ""}}]},
            "assistant",
            "'messages.1.tool_calls.0.type' : property 'type' is missing",
        ),
        (
            {"role": "assistant", "reasoning_content": "x"},
            "assistant",
            "'messages.1' : property 'reasoning_content' is unsupported",
        ),
        (
            {"role": "assistant", "content": "x", "channel": "final"},
            "assistant",
            "'messages.1' : property 'channel' is unsupported",
        ),
        ({"role": "tool", "content": "x"}, "tool", "'messages.1.tool_call_id' : property 'tool_call_id' is missing"),
    ],
)
def test_a_bad_message_is_named_with_its_role(standin: StandIn, bad: Any, role: str, violation: str) -> None:
    message = standin.refusal(messages=[USER, bad])["message"]
    assert message == f"'messages.1' : for 'role:{role}' the following must be satisfied[({violation})]"


@pytest.mark.parametrize("name", ["model", "messages"])
def test_a_missing_property_is_refused(standin: StandIn, name: str) -> None:
    body = request()
    del body[name]
    response = standin.post(body)
    assert response.status_code == 400
    assert f"property '{name}' is missing" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"model": "allam-2-7b", "reasoning_format": "parsed"}, "reasoning_format"),
        ({"model": OSS, "reasoning_effort": "none"}, "reasoning_effort"),
        ({"model": QWEN, "max_completion_tokens": 16385}, "max_completion_tokens"),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_an_unsupported_feature_of_a_model_is_refused_with_its_param(
    standin: StandIn, changes: Any, param: str
) -> None:
    assert standin.refusal(**changes)["param"] == param


def test_nulls_and_everything_in_the_schema_are_accepted(standin: StandIn) -> None:
    usual: dict[str, Any] = {
        "stop": None,
        "reasoning_effort": None,
        "n": 1,
        "logprobs": False,
        "user": "u",
        "store": True,
    }
    conversation = [
        {"role": "developer", "content": [{"type": "text", "text": "be kind"}], "name": "boss"},
        {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [_call()]},
        {"role": "tool", "tool_call_id": "a", "content": "4"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}], "name": "me"},
    ]
    response = standin.post(request(model=QWEN, messages=conversation, tools=[TOOL], **usual))
    assert response.status_code == 200, response.text


def _call() -> dict[str, Any]:
    return {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize("model", ["llama-3.1-8b-instant", "llama-3.3-70b-versatile", "nope"])
def test_an_unserved_model_is_not_found(standin: StandIn, model: str) -> None:
    response = standin.say("hi", model=model)
    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": f"The model `{model}` does not exist or you do not have access to it.",
        "type": "invalid_request_error",
        "code": "model_not_found",
    }


def test_a_speech_model_does_not_chat(standin: StandIn) -> None:
    assert "does not support chat" in standin.refusal(model="whisper-large-v3")["message"]


def test_a_conversation_longer_than_the_window_is_refused(standin: StandIn) -> None:
    assert standin.refusal(text="x" * 20_000, model="allam-2-7b")["code"] == "context_length_exceeded"


@pytest.mark.parametrize("body", [b"{", b"", b"[1]", b'{"model":"\xff"}'])
def test_a_body_that_is_not_a_json_object_is_refused(standin: StandIn, body: bytes) -> None:
    assert standin.client.post(CHAT, content=body, headers=KEY).status_code == 400


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer sk-1"}, {"authorization": "Basic gsk_1"}])
def test_an_unknown_key_is_refused_without_limits_in_the_headers(standin: StandIn, headers: dict[str, str]) -> None:
    response = standin.post(request(), headers)
    assert response.status_code == 401
    assert response.content == (
        b'{"error":{"message":"Invalid API Key","type":"invalid_request_error","code":"invalid_api_key"}}\n'
    )
    assert not [name for name in response.headers if name.startswith("x-ratelimit-")]


def test_switches_invert_the_disputed_rules(switched: StandIn) -> None:
    assert switched.say("hi", logprobs=True, top_logprobs=1).status_code == 200
    violation = "('messages.0' : property 'name' is unsupported)"
    assert violation in switched.refusal(messages=[USER | {"name": "me"}])["message"]


def test_given_keys_are_the_only_ones_accepted(switched: StandIn) -> None:
    answers = [switched.post(request(), {"authorization": f"Bearer {key}"}) for key in ("other", "gsk_else")]
    assert [answer.status_code for answer in answers] == [200, 401]
