"""Functions, namespaces, custom and hosted tools, and `tool_choice`, become what Groq accepts."""

import json
from typing import Any

import pytest

from services.common.errors import ErrorDetails, InvalidRequest
from services.gateway.requests.types import JSONObject
from tests.unit.gateway.apis.responses.answers import begun, call, completion, parse

_F: JSONObject = {"type": "function", "name": "f"}
_CUSTOM: JSONObject = {"type": "custom", "name": "patch", "description": "Apply a patch."}
_NAMESPACE: JSONObject = {"type": "namespace", "name": "ns", "description": "x", "tools": [{**_F, "name": "child"}]}
_WEB: JSONObject = {"type": "web_search_preview_2025_03_11"}
_EMPTY = {"type": "object", "properties": {}}


def _chat(*tools: JSONObject, **members: Any) -> JSONObject:
    return parse(tools=list(tools), **members).chat.members


def _functions(*tools: JSONObject) -> list[JSONObject]:
    return [tool["function"] for tool in _chat(*tools)["tools"]]


def _refusal(*tools: Any, **members: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        parse(tools=list(tools), **members)
    return raised.value


@pytest.mark.parametrize(
    ("members", "function"),
    [
        ({}, {"parameters": _EMPTY}),
        ({"description": None, "parameters": None, "strict": None}, {"parameters": _EMPTY}),
        ({"parameters": {"type": "object"}, "strict": False}, {"parameters": {"type": "object"}}),
        ({"description": "d", "strict": True, "async": 1}, {"parameters": _EMPTY, "description": "d", "strict": True}),
    ],
)
def test_functions(members: JSONObject, function: JSONObject) -> None:
    assert _functions({**_F, **members}) == [{"name": "f", **function}]


def test_children_of_namespaces_are_flattened() -> None:
    clash = {**_F, "name": "ns__child"}
    first, second, third = (function["name"] for function in _functions(_NAMESPACE, clash, {**_F, "name": "child"}))
    assert (first, third) == ("ns__child", "child")
    assert second.startswith("ns__child_")


def test_custom_tools_have_one_input_and_their_grammar() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: patch"}
    (function,) = _functions({**_CUSTOM, "format": grammar})
    assert function["name"] == "patch"
    assert function["description"].startswith("Apply a patch.\n\n")
    assert function["description"].endswith("It must match this lark grammar:\nstart: patch")
    assert function["parameters"]["required"] == ["input"]
    assert "grammar" not in _functions({**_CUSTOM, "format": {"type": "text"}})[0]["description"]


@pytest.mark.parametrize(
    "kind", ["web_search", "web_search_preview", "image_generation", "code_interpreter", "file_search", "mcp"]
)
def test_hosted_tools_are_left_out(kind: str) -> None:
    hosted = {"type": kind, "anything": [1]}
    assert _functions(hosted, _F) == _functions(_F)
    assert "tools" not in _chat(hosted, tool_choice="auto", parallel_tool_calls=True)
    refusal = _refusal(hosted, tool_choice={"type": kind})
    assert refusal.details == ErrorDetails(param="tool_choice.type", code="unsupported_parameter")


@pytest.mark.parametrize(
    "kind",
    ["local_shell", "shell", "apply_patch", "computer_use_preview", "tool_search", "programmatic_tool_calling", "x"],
)
def test_tools_that_nothing_runs_are_refused(kind: str) -> None:
    assert _refusal({"type": kind}).details == ErrorDetails(param="tools[0].type", code="unsupported_parameter")


def test_additional_tools_are_appended() -> None:
    item = {"type": "additional_tools", "role": "developer", "tools": [_F, _WEB]}
    chat = parse(input=[item, {"role": "user", "content": "hi"}], tools=[_CUSTOM]).chat.members
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["patch", "f"]
    assert len(chat["messages"]) == 1


def test_tools_keep_their_names_before_calls_of_the_history() -> None:
    history = {"type": "function_call", "call_id": "1", "name": "child", "namespace": "ns", "arguments": "{}"}
    chat = parse(input=[history], tools=[{**_F, "name": "ns__child"}]).chat.members
    assert chat["tools"][0]["function"]["name"] == "ns__child"
    assert chat["messages"][0]["tool_calls"][0]["function"]["name"].startswith("ns__child_")


_FREE = {"disable_tool_validation": True}


@pytest.mark.parametrize(
    ("choice", "members"),
    [
        (None, _FREE),
        ("none", _FREE | {"tool_choice": "none"}),
        ("auto", _FREE | {"tool_choice": "auto"}),
        ("required", _FREE | {"tool_choice": "required"}),
        ({"type": "function", "name": "f"}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        ({"type": "custom", "name": "patch"}, {"tool_choice": {"type": "function", "function": {"name": "patch"}}}),
        (
            {"type": "function", "name": "child", "namespace": "ns"},
            {"tool_choice": {"type": "function", "function": {"name": "ns__child"}}},
        ),
    ],
)
def test_choices(choice: Any, members: JSONObject) -> None:
    chat = _chat(_F, _CUSTOM, _NAMESPACE, tool_choice=choice)
    assert len(chat["tools"]) == 3
    assert {name: chat[name] for name in chat if name not in ("tools", "messages", "model")} == members


def test_parallel_calls_are_passed_with_tools() -> None:
    assert _chat(_F, parallel_tool_calls=False)["parallel_tool_calls"] is False


def test_only_allowed_tools_are_sent() -> None:
    allowed = [{"type": "function", "name": "f"}, {"type": "web_search"}, {"type": "function", "name": "unknown"}]
    chat = _chat(_F, _CUSTOM, tool_choice={"type": "allowed_tools", "tools": allowed, "mode": "required"})
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["f"]
    assert chat["tool_choice"] == "required"
    assert _chat(_F, tool_choice={"type": "allowed_tools", "tools": allowed})["tool_choice"] == "auto"
    none_left = _chat(_F, tool_choice={"type": "allowed_tools", "tools": []}, parallel_tool_calls=True)
    assert set(none_left) == {"messages", "model"}


@pytest.mark.parametrize(
    ("tools", "choice", "param", "code"),
    [
        ([_F], {"type": "function", "name": "g"}, "tool_choice", "invalid_value"),
        ([], {"type": "function", "name": "g"}, "tool_choice", "invalid_value"),
        ([_F], {"type": "custom", "name": "f"}, "tool_choice", "invalid_value"),
        ([_F], "sometimes", "tool_choice", "invalid_value"),
        ([_F], {"type": "function"}, "tool_choice.name", "missing_required_parameter"),
        ([_F], {"type": "allowed_tools"}, "tool_choice.tools", "missing_required_parameter"),
        ([_F], {"type": "allowed_tools", "tools": [], "mode": "none"}, "tool_choice.mode", "invalid_value"),
        ([{"type": "function"}], None, "tools[0].name", "missing_required_parameter"),
        ([{"type": "function", "name": ""}], None, "tools[0].name", "empty_string"),
        ([{"type": "function", "name": "n" * 257}], None, "tools[0].name", "string_above_max_length"),
        ([{**_F, "parameters": "{}"}], None, "tools[0].parameters", "invalid_type"),
        ([{"name": "f"}], None, "tools[0].type", "missing_required_parameter"),
        ([{**_NAMESPACE, "tools": [{"type": "x"}]}], None, "tools[0].tools[0].type", "unsupported_parameter"),
        ([5], None, "tools[0]", "invalid_type"),
        ([{**_F, "name": f"f{n}"} for n in range(129)], None, "tools", "array_above_max_length"),
        (
            [{**_NAMESPACE, "tools": [{**_F, "name": f"f{n}"} for n in range(129)]}],
            None,
            "tools",
            "array_above_max_length",
        ),
    ],
)
def test_refusals(tools: list[JSONObject], choice: Any, param: str, code: str) -> None:
    assert _refusal(*tools, tool_choice=choice).details == ErrorDetails(param=param, code=code)


def test_calls_go_back_to_the_clients_tools() -> None:
    """A namespace is a member of its own: Codex answers "unsupported call" to a flat name."""
    renderer = begun("A", tools=[_NAMESPACE, _CUSTOM, {**_F, "name": "x.y"}])
    names = [tool["function"]["name"] for tool in _chat(_NAMESPACE, _CUSTOM, {**_F, "name": "x.y"})["tools"]]
    assert names == ["ns__child", "patch", "x_y"]
    calls = [
        call(0, "1", "ns__child", "{}"),
        call(1, "2", "patch", '{"input": "a\\nb"}'),
        call(2, "3", "patch", "no JSON"),
        call(3, "4", "x_y", ""),
        call(4, "5", "invented", "{}"),
    ]
    body = renderer.completion(completion(content="", tool_calls=calls, finish="tool_calls"))
    assert json.loads(body)["output"] == [
        {
            "id": "fc_A_0",
            "type": "function_call",
            "status": "completed",
            "call_id": "1",
            "name": "child",
            "namespace": "ns",
            "arguments": "{}",
        },
        {
            "id": "ctc_A_1",
            "type": "custom_tool_call",
            "status": "completed",
            "call_id": "2",
            "name": "patch",
            "input": "a\nb",
        },
        {
            "id": "ctc_A_2",
            "type": "custom_tool_call",
            "status": "completed",
            "call_id": "3",
            "name": "patch",
            "input": "no JSON",
        },
        {
            "id": "fc_A_3",
            "type": "function_call",
            "status": "completed",
            "call_id": "4",
            "name": "x.y",
            "arguments": "{}",
        },
        {
            "id": "fc_A_4",
            "type": "function_call",
            "status": "completed",
            "call_id": "5",
            "name": "invented",
            "arguments": "{}",
        },
    ]
