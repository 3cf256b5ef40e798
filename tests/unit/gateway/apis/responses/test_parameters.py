"""Every top-level parameter is passed, translated, dropped or refused as the reference says."""

import json
from typing import Any

import pytest

from services.common.errors import ErrorDetails, InvalidRequest
from services.gateway.apis import responses
from services.gateway.apis.responses.parameters import PARAMETERS
from services.gateway.apis.surface import Context, ModelFacts
from services.gateway.requests.types import JSONObject
from tests.unit.gateway.apis.responses.answers import MODEL, USER, begun, completion, parse

_TOOL: JSONObject = {"type": "function", "name": "f"}


def _added(context: Context | None = None, **members: Any) -> JSONObject:
    """Return the chat members besides the message and the model."""
    chat = parse(context, **members).chat.members
    assert chat["messages"] == [USER]
    return {name: value for name, value in chat.items() if name not in ("messages", "model")}


def _response(**members: Any) -> JSONObject:
    response: JSONObject = json.loads(begun(**members).completion(completion(content="a")))
    return response


def _refusal(**members: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        parse(**members)
    return raised.value


def test_the_least_request() -> None:
    request = parse()
    assert request.chat.members == {"messages": [USER], "model": MODEL}
    assert request.chat.stream is False
    assert request.chat.body_bytes == len(json.dumps({"model": MODEL, "input": "hi"}))
    assert parse(stream=True).chat.stream is True


@pytest.mark.parametrize(
    ("members", "added"),
    [
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"presence_penalty": 1, "frequency_penalty": -1}, {"presence_penalty": 1, "frequency_penalty": -1}),
        ({"max_output_tokens": 1}, {"max_completion_tokens": 1}),
        ({"reasoning": {"effort": "xhigh", "summary": "auto", "context": {}}}, {"reasoning_effort": "high"}),
        ({"reasoning": {"effort": None}}, {}),
        ({"service_tier": "flex"}, {"service_tier": "flex"}),
        ({"service_tier": "priority"}, {}),
        ({"parallel_tool_calls": True, "tool_choice": "auto"}, {}),
        ({"parallel_tool_calls": True, "tool_choice": "required", "tools": []}, {}),
        ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        ({"text": {"format": None}}, {}),
        ({"text": {}}, {}),
        ({"store": True}, {}),
        ({"store": False}, {}),
        ({"background": False}, {}),
        ({"truncation": "auto"}, {}),
        ({"top_logprobs": 0}, {}),
        ({"max_tool_calls": 3}, {}),
        ({"stream_options": {"include_obfuscation": True, "include_usage": True}}, {}),
        ({"include": ["reasoning.encrypted_content", "web_search_call.action.sources"]}, {}),
        ({"metadata": {"a": "b"}}, {}),
        ({"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "prompt_cache_retention": "24h"}, {}),
        ({"prompt_cache_options": {}, "moderation": {}, "access_programs": {}, "context_management": []}, {}),
        ({"background_options": {}, "image": {}, "personality": "x", "client_metadata": {"x-codex": 1}}, {}),
    ],
)
def test_parameters_reach_chat_or_are_ignored(members: JSONObject, added: JSONObject) -> None:
    assert _added(**members) == added


def test_null_counts_as_absent() -> None:
    assert _added(**dict.fromkeys([*(set(PARAMETERS) - {"model", "input"}), "unheard_of"])) == {}


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": None, "instructions": None}, "input", "missing_required_parameter"),
        ({"input": 1}, "input", "invalid_type"),
        ({"input": []}, "input", "empty_array"),
        ({"input": [], "instructions": ""}, "input", "empty_array"),
        ({"unheard_of": 1}, "unheard_of", "unknown_parameter"),
        ({"messages": []}, "messages", "unknown_parameter"),
        ({"previous_response_id": "resp_x"}, "previous_response_id", "previous_response_not_found"),
        ({"conversation": "conv_x"}, "conversation", "unsupported_parameter"),
        ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"top_logprobs": 1}, "top_logprobs", "unsupported_parameter"),
        ({"include": ["message.output_text.logprobs"]}, "include[0]", "unsupported_parameter"),
        ({"include": ["unheard_of"]}, "include[0]", "invalid_value"),
        ({"truncation": "middle"}, "truncation", "invalid_value"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "invalid_value"),
        ({"max_output_tokens": 0}, "max_output_tokens", "integer_below_min_value"),
        ({"max_output_tokens": 1.5}, "max_output_tokens", "invalid_type"),
        ({"temperature": 3}, "temperature", "decimal_above_max_value"),
        ({"instructions": ["a"]}, "instructions", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"model": 5}, "model", "invalid_type"),
        ({"model": "m" * 257}, "model", "string_above_max_length"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "object_above_max_properties"),
        ({"metadata": {"a": 1}}, "metadata", "invalid_type"),
        ({"metadata": {"a": "b" * 513}}, "metadata", "string_above_max_length"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema", "missing_required_parameter"),
        ({"text": {"format": {"type": "json_schema", "schema": "{}"}}}, "text.format.schema", "invalid_type"),
        ({"text": "plain"}, "text", "invalid_type"),
    ],
)
def test_refusals_name_the_parameter(members: JSONObject, param: str, code: str) -> None:
    assert _refusal(**members).details == ErrorDetails(param=param, code=code)


def test_an_unknown_previous_response_has_openais_words() -> None:
    assert _refusal(previous_response_id="resp_x").message == (
        "Previous response with id 'resp_x' not found. This service does not store responses: set `store` to false and "
        "send the whole conversation as `input`."
    )


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"a"', b'{"input":"\xff"}', b'{"input":"\\ud800"}', b"[" * 9_999])
def test_bodies_that_are_no_json_object(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        responses.parse(body, Context())


def test_instructions_are_the_first_system_message() -> None:
    messages = parse(instructions="Be brief.").chat.members["messages"]
    assert messages == [{"role": "system", "content": "Be brief."}, USER]
    assert parse(instructions="", input="hi").chat.members["messages"] == [USER]
    assert parse(instructions="Go.", input=None).chat.members["messages"] == [{"role": "system", "content": "Go."}]


def test_output_tokens_are_at_most_the_models() -> None:
    context = Context(models={MODEL: ModelFacts(max_output_tokens=65_536, reasons=True)})
    assert _added(context, max_output_tokens=128_000) == {"max_completion_tokens": 65_536}
    assert _response(max_output_tokens=128_000)["max_output_tokens"] == 128_000


def test_efforts_are_not_sent_to_models_that_do_not_reason() -> None:
    assert _added(model="llama-3.1-8b-instant", reasoning={"effort": "high"}) == {}
    assert _added(model="qwen/qwen3.8-27b", reasoning={"effort": "none"}) == {
        "reasoning_format": "parsed",
        "reasoning_effort": "none",
    }


_FORMAT: JSONObject = {
    "type": "json_schema",
    "name": "codex_output_schema",
    "strict": True,
    "schema": {"type": "object"},
}


def test_images_are_refused_if_the_model_does_not_read_them() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": [image]}
    context = Context(models={MODEL: ModelFacts(reads_images=False)})
    for items in ([{"role": "user", "content": [image]}], [USER, call, output]):
        assert parse(input=items).chat.members["messages"]
        with pytest.raises(InvalidRequest, match=f"`{MODEL}` does not read images") as refused:
            parse(context, input=items)
        assert refused.value.details == ErrorDetails(param="input", code="unsupported_value")
    assert parse(context).chat.members["messages"] == [USER]


def test_an_alias_keeps_its_name_and_gets_the_members_of_its_model() -> None:
    alias = "gpt-6.2-sol"
    context = Context(models={alias: ModelFacts(id=MODEL, reasons=True)})
    assert _added(context, model=alias, reasoning={"effort": "max"}) == {"reasoning_effort": "high"}
    assert parse(context, model=alias).chat.members["model"] == alias
    assert "model" not in parse(model=None).chat.members


def test_schemas() -> None:
    named = {name: value for name, value in _FORMAT.items() if name != "type"}
    assert _added(text={"format": _FORMAT}) == {"response_format": {"type": "json_schema", "json_schema": named}}
    unnamed: JSONObject = {"type": "json_schema", "schema": {}, "strict": None, "description": None}
    assert _added(text={"format": unnamed})["response_format"]["json_schema"] == {"name": "output", "schema": {}}


def test_schemas_with_tools_become_a_last_system_message() -> None:
    chat = parse(text={"format": _FORMAT}, tools=[_TOOL]).chat.members
    assert "response_format" not in chat
    assert [message["role"] for message in chat["messages"]] == ["user", "system"]
    assert chat["messages"][1]["content"].endswith('{"type":"object"}')


def test_the_response_repeats_the_request() -> None:
    given = {
        "instructions": "Be brief.",
        "max_output_tokens": 20,
        "max_tool_calls": 3,
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "temperature": 0.5,
        "top_p": 0.5,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "tool_choice": "required",
        "truncation": "auto",
        "metadata": {"a": "b"},
    }
    response = _response(**given)
    assert {name: response[name] for name in given} == given
    assert _response(reasoning={"effort": "low", "summary": "auto"})["reasoning"] == {
        "effort": "low",
        "summary": "auto",
    }
    assert _response(text={"format": _FORMAT, "verbosity": "low"})["text"] == {"format": _FORMAT, "verbosity": "low"}
    assert _response(metadata={"a": None})["metadata"] == {}


@pytest.mark.parametrize("store", [True, False, None])
def test_nothing_is_stored_and_the_response_says_so(store: bool | None) -> None:
    assert _response(store=store)["store"] is False


def test_repeated_functions_have_all_members_and_hosted_tools_only_their_type() -> None:
    web = {"type": "web_search", "filters": None}
    assert _response(tools=[_TOOL, web], tool_choice={"type": "function", "name": "f"})["tools"] == [
        {"type": "function", "name": "f", "description": None, "parameters": None, "strict": None},
        {"type": "web_search"},
    ]


_LARGE = "x" * 1_000_000
_LONG = {"type": "function", "name": "f", "parameters": {"type": "object", "description": _LARGE}}


@pytest.mark.parametrize(
    "members",
    [
        {"prompt_cache_key": _LARGE},
        {"safety_identifier": _LARGE},
        {"text": {"verbosity": _LARGE}},
        {"text": {"format": {"type": "text", "x": _LARGE}}},
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "description": _LARGE}}},
        {"tools": [{"type": "web_search", "x": _LARGE}]},
        {"tools": [{"type": f"web_search{_LARGE}"}]},
        {"tools": [{"type": "custom", "name": "c", "format": {"type": _LARGE}}]},
        {"tools": [{"type": "custom", "name": "c", "x": _LARGE}]},
        {"tools": [{"type": "namespace", "name": "n", "description": _LARGE, "tools": []}]},
        {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "custom", "name": "c", "x": _LARGE}]}]},
        {"tools": [_LONG, {"type": "function", "name": "f"}]},
        {"tools": [_LONG], "tool_choice": {"type": "allowed_tools", "tools": []}},
        {"tool_choice": {"type": "allowed_tools", "tools": [{"type": "mcp", "x": _LARGE}]}},
        {"tool_choice": {"type": "allowed_tools", "x": _LARGE, "tools": [{"name": _LARGE}]}},
        {"tool_choice": {"type": "allowed_tools", "name": [_LARGE], "tools": []}},
    ],
)
def test_a_response_does_not_repeat_large_members_that_the_model_never_sees(members: JSONObject) -> None:
    assert len(json.dumps(_response(**members))) < 10_000


def test_a_response_repeats_members_that_the_model_never_sees_if_they_are_short() -> None:
    response = _response(
        prompt_cache_key="k" * 256,
        safety_identifier="s" * 257,
        text={"verbosity": "talkative"},
        tools=[_LONG, {"type": "web_search", "search_context_size": "low"}],
    )
    assert (response["prompt_cache_key"], response["safety_identifier"]) == ("k" * 256, None)
    assert response["text"]["verbosity"] == "medium"
    assert response["tools"] == [
        {"type": "function", "name": "f", "description": None, "parameters": None, "strict": None},
        {"type": "web_search"},
    ]
