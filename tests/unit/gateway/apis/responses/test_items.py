"""Input items become chat messages as the reference says."""

from base64 import b64encode
from typing import Any

import pytest

from services.common.errors import ErrorDetails, InvalidRequest, NotFound, ServiceError
from services.gateway.apis.translation.reasoning import encode_reasoning
from services.gateway.requests.types import JSONObject
from tests.unit.gateway.apis.responses.answers import USER, parse

_URL = "data:image/png;base64,AAAA"
_IMAGE = {"type": "image_url", "image_url": {"url": _URL}}


def _messages(*items: JSONObject, **members: Any) -> list[JSONObject]:
    messages: list[JSONObject] = parse(input=list(items), **members).chat.members["messages"]
    return messages


def _refusal(*items: Any) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        parse(input=list(items))
    return raised.value


def _said(role: str, *parts: JSONObject) -> JSONObject:
    return {"type": "message", "role": role, "content": list(parts)}


def _text(text: str, kind: str = "input_text") -> JSONObject:
    return {"type": kind, "text": text}


def _call(call_id: str, name: str = "f", arguments: str = "{}", **members: Any) -> JSONObject:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, **members}


def _output(call_id: str, output: Any = "done", kind: str = "function_call_output") -> JSONObject:
    return {"type": kind, "call_id": call_id, "output": output}


def _chat_call(call_id: str, name: str = "f", arguments: str = "{}") -> JSONObject:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _tool(call_id: str, content: str = "done") -> JSONObject:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (USER, USER),
        ({**USER, "type": None, "id": "msg_1", "status": "completed"}, USER),
        (_said("user", _text("hi")), USER),
        (_said("user", _text("hi", "text")), USER),
        (_said("user"), {"role": "user", "content": ""}),
        (
            _said("user", _text("a"), _text("b")),
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        ),
        (
            _said("user", {"type": "input_image", "image_url": _URL, "file_id": None, "prompt_cache_breakpoint": {}}),
            {"role": "user", "content": [_IMAGE]},
        ),
        (
            _said("user", {"type": "input_image", "image_url": _URL, "detail": "original"}),
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": _URL, "detail": "high"}}]},
        ),
        ({"role": "system", "content": "s"}, {"role": "system", "content": "s"}),
        (_said("developer", _text("d")), {"role": "developer", "content": "d"}),
        ({"role": "assistant", "content": "a", "phase": "commentary"}, {"role": "assistant", "content": "a"}),
        (
            _said("assistant", _text("a", "output_text"), _text("b"), {"type": "refusal", "refusal": "no"}),
            {"role": "assistant", "content": "abno"},
        ),
    ],
)
def test_messages(item: JSONObject, message: JSONObject) -> None:
    assert _messages(item) == [message]


def test_developer_messages_keep_their_places() -> None:
    roles = ["developer", "user", "developer", "assistant", "system"]
    assert [message["role"] for message in _messages(*({"role": role, "content": "x"} for role in roles))] == roles


def test_text_files_become_text_under_their_names() -> None:
    data = "data:text/plain;base64," + b64encode("é".encode()).decode()
    file = {"type": "input_file", "filename": "a.txt", "file_data": data, "file_id": None}
    assert _messages(_said("user", file)) == [{"role": "user", "content": "a.txt:\né"}]
    file["file_data"] = data.replace("text/plain", "text/html;charset=utf-8")
    assert _messages(_said("user", {**file, "filename": None})) == [{"role": "user", "content": "File:\né"}]


@pytest.mark.parametrize(
    ("part", "param", "code"),
    [
        ({"type": "input_file", "file_data": "data:application/pdf;base64,AAAA"}, "file_data", "unsupported_parameter"),
        ({"type": "input_file", "file_data": "AAAA"}, "file_data", "unsupported_parameter"),
        ({"type": "input_file", "file_data": "data:text/plain;base64,/w=="}, "file_data", "invalid_value"),
        ({"type": "input_file", "file_data": "data:text/plain;base64,é"}, "file_data", "invalid_value"),
        ({"type": "input_file", "file_url": "https://x"}, "file_url", "unsupported_parameter"),
        ({"type": "input_file", "file_id": "file_x"}, "file_id", "unsupported_parameter"),
        ({"type": "input_file"}, "file_data", "missing_required_parameter"),
        ({"type": "input_image", "file_id": "file_x"}, "file_id", "unsupported_parameter"),
        ({"type": "input_image", "image_url": {"url": "x"}}, "image_url", "invalid_type"),
        ({"type": "input_audio", "input_audio": {}}, "type", "unsupported_parameter"),
        ({"type": "input_video"}, "type", "unsupported_parameter"),
        ({"type": "unheard_of"}, "type", "invalid_value"),
        ({"text": "a"}, "type", "missing_required_parameter"),
        ({"type": "input_text"}, "text", "missing_required_parameter"),
    ],
)
def test_parts_that_no_model_reads(part: JSONObject, param: str, code: str) -> None:
    assert _refusal(_said("user", part)).details == ErrorDetails(param=f"input[0].content[0].{param}", code=code)


@pytest.mark.parametrize("role", ["system", "developer", "assistant"])
def test_images_only_in_user_messages(role: str) -> None:
    refusal = _refusal(_said(role, {"type": "input_image", "image_url": _URL}))
    assert refusal.details == ErrorDetails(param="input[0].content[0].type", code="invalid_value")


def test_items_of_the_assistant_become_one_message() -> None:
    assert _messages(
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "r"}]},
        {"role": "assistant", "content": "a"},
        _call("1", arguments="", id="fc_1", status="completed"),
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "s"}], "summary": []},
        {"type": "web_search_call", "id": "ws_1"},
        _call("2"),
        {"role": "assistant", "content": "b"},
    ) == [
        {
            "role": "assistant",
            "content": "a\nb",
            "reasoning": "r\ns",
            "tool_calls": [_chat_call("1"), _chat_call("2")],
        }
    ]


def test_outputs_end_the_message() -> None:
    assert _messages(_call("1"), _call("2"), _output("1"), _output("2")) == [
        {"role": "assistant", "tool_calls": [_chat_call("1"), _chat_call("2")]},
        _tool("1"),
        _tool("2"),
    ]
    assert _messages(_call("1"), _output("1"), _call("2"), _output("2"), USER) == [
        {"role": "assistant", "tool_calls": [_chat_call("1")]},
        _tool("1"),
        {"role": "assistant", "tool_calls": [_chat_call("2")]},
        _tool("2"),
        USER,
    ]


@pytest.mark.parametrize("followed", [[], [USER]])
def test_reasoning_without_an_answer_is_left_out(followed: list[JSONObject]) -> None:
    reasoning = {"type": "reasoning", "summary": [{"text": "r"}]}
    assert _messages(USER, reasoning, *followed) == [USER, *followed]


def test_empty_answers_are_left_out() -> None:
    assert _messages(USER, _said("assistant", _text("", "output_text")), USER) == [USER, USER]


@pytest.mark.parametrize(
    ("members", "reasoning"),
    [
        ({"content": [{"text": "c"}], "summary": [{"text": "s"}], "encrypted_content": encode_reasoning("e")}, "c"),
        ({"content": None, "summary": [{"text": "s"}, {"text": "t"}], "encrypted_content": "foreign"}, "s\nt"),
        ({"summary": [], "encrypted_content": encode_reasoning("e")}, "e"),
        ({"summary": [{"text": None}], "encrypted_content": encode_reasoning("e")}, "e"),
        ({"summary": [], "encrypted_content": "gAAAAABforeign"}, None),
        ({"encrypted_content": 5}, None),
        ({}, None),
    ],
)
def test_reasoning_is_read_wherever_it_is(members: JSONObject, reasoning: str | None) -> None:
    message = {"role": "assistant", "content": "a"} | ({"reasoning": reasoning} if reasoning else {})
    item = {"type": "reasoning", "id": "rs_1", **members}
    assert _messages(item, {"role": "assistant", "content": "a"}) == [message]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<think>\nr\n</think>", {"content": "a", "reasoning": "r"}),
        ("<think>\nr\n</think>\n", {"content": "a", "reasoning": "r"}),
        ("<think>\nr\n</think> and", {"content": "<think>\nr\n</think> and\na"}),
        ("<think>\nr", {"content": "<think>\nr\na"}),
    ],
)
def test_thinking_in_tags_is_reasoning(text: str, message: JSONObject) -> None:
    assert _messages({"role": "assistant", "content": text}, {"role": "assistant", "content": "a"}) == [
        {"role": "assistant", **message}
    ]


def test_images_of_tool_outputs_follow_the_run() -> None:
    image = {"type": "input_image", "image_url": _URL}
    assert _messages(
        _call("1"), _call("2"), _output("1", [_text("a"), image, _text("b")]), _output("2", [_text("c")]), USER
    )[1:] == [
        _tool("1", "a\nb"),
        _tool("2", "c"),
        {"role": "user", "content": [{"type": "text", "text": "Image from tool call 1:"}, _IMAGE]},
        USER,
    ]


@pytest.mark.parametrize("output", [None, "", []])
def test_empty_outputs(output: Any) -> None:
    assert _messages(_call("1"), _output("1", output))[1] == _tool("1", "")


def test_outputs_without_a_call_are_refused() -> None:
    refusal = _refusal(_output("1"), _call("1"))
    assert refusal.message == "No tool call found for function call output with call_id 1."
    assert refusal.details == ErrorDetails(param="input")
    assert len(_messages(USER, _call("1"))) == 2


def test_custom_calls() -> None:
    custom = {"type": "custom_tool_call", "call_id": "1", "name": "patch", "input": 'a"b'}
    assert _messages(custom, _output("1", kind="custom_tool_call_output")) == [
        {"role": "assistant", "tool_calls": [_chat_call("1", "patch", '{"input":"a\\"b"}')]},
        _tool("1"),
    ]


def test_namespaced_calls() -> None:
    assert _messages(_call("1", "child", namespace="ns"))[0]["tool_calls"] == [_chat_call("1", "ns__child")]


@pytest.mark.parametrize("reference", [{"type": "item_reference", "id": "msg_x"}, {"id": "msg_x"}])
def test_references_to_stored_items_have_openais_words(reference: JSONObject) -> None:
    refusal = _refusal(USER, reference)
    assert isinstance(refusal, NotFound)
    assert refusal.message == (
        "Item with id 'msg_x' not found. Items are not persisted when `store` is set to false. Try again with `store` "
        "set to true, or remove this item from your input."
    )
    assert refusal.details == ErrorDetails(param="input")


def test_references_to_reasoning_are_skipped() -> None:
    assert _messages(USER, {"type": "item_reference", "id": "rs_1"}) == [USER]


@pytest.mark.parametrize(
    "kind",
    [
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "image_generation_call",
        "mcp_list_tools",
        "mcp_call",
    ],
)
def test_receipts_of_other_providers_are_skipped(kind: str) -> None:
    assert _messages(USER, {"type": kind, "id": "x", "result": {"a": [1]}}) == [USER]


@pytest.mark.parametrize(
    "kind",
    [
        "compaction",
        "compaction_trigger",
        "shell_call",
        "shell_call_output",
        "local_shell_call",
        "local_shell_call_output",
        "apply_patch_call",
        "computer_call",
        "tool_search_call",
        "program",
        "mcp_approval_request",
        "mcp_approval_response",
        "unheard_of",
    ],
)
def test_items_that_mean_nothing_here(kind: str) -> None:
    assert _refusal(USER, {"type": kind}).details == ErrorDetails(param="input[1].type", code="invalid_value")


@pytest.mark.parametrize(
    ("item", "param", "code"),
    [
        (None, "input[0]", "invalid_type"),
        ("a", "input[0]", "invalid_type"),
        ({}, "input[0].type", "missing_required_parameter"),
        ({"type": 5}, "input[0].type", "invalid_type"),
        ({"type": ["message"]}, "input[0].type", "invalid_type"),
        ({"type": "message"}, "input[0].role", "missing_required_parameter"),
        ({"role": "tool", "content": "a"}, "input[0].role", "invalid_value"),
        ({"role": {}, "content": "a"}, "input[0].role", "invalid_type"),
        ({"role": "user"}, "input[0].content", "missing_required_parameter"),
        ({"role": "user", "content": [None]}, "input[0].content[0]", "invalid_type"),
        ({"type": "function_call", "name": "f"}, "input[0].call_id", "missing_required_parameter"),
        ({"type": "function_call", "call_id": "1"}, "input[0].name", "missing_required_parameter"),
        (_call("1", arguments={}), "input[0].arguments", "invalid_type"),  # type: ignore[arg-type]
        ({"type": "function_call_output"}, "input[0].call_id", "missing_required_parameter"),
        (_output("1", {}), "input[0].output", "invalid_type"),
        ({"type": "reasoning", "summary": "a"}, "input[0].summary", "invalid_type"),
        ({"type": "item_reference"}, "input[0].id", "missing_required_parameter"),
        ({"id": 5}, "input[0].id", "invalid_type"),
        ({"type": "additional_tools", "tools": [{}]}, "input[0].tools[0].type", "missing_required_parameter"),
    ],
)
def test_malformed_items(item: Any, param: str, code: str) -> None:
    refusal = _refusal(item)
    assert isinstance(refusal, InvalidRequest)
    assert refusal.details == ErrorDetails(param=param, code=code)
