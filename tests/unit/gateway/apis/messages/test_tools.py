"""Tools are shown to the model when they should be, under names that Groq accepts."""

import json
from typing import Any

import pytest

from services.common.errors import InvalidRequest
from services.gateway.apis.messages.request import parse
from services.gateway.apis.surface import Context
from services.gateway.requests.surface import SurfaceRequest

_USER = {"role": "user", "content": "hi"}
_SEARCH = {"type": "tool_use", "id": "s", "name": "ToolSearch", "input": {"query": "select:WebFetch"}}


def _tool(name: str, **more: Any) -> Any:
    return {"name": name, "description": f"Does {name}.", "input_schema": {"type": "object"}, **more}


def _request(*messages: Any, **members: Any) -> SurfaceRequest:
    body = {"model": "openai/gpt-oss-20b", "max_tokens": 1, "messages": [_USER, *messages], **members}
    return parse(json.dumps(body).encode(), Context())


def _members(*messages: Any, **members: Any) -> Any:
    return _request(*messages, **members).chat.members


def _names(*messages: Any, **members: Any) -> list[str]:
    return [tool["function"]["name"] for tool in _members(*messages, **members).get("tools", ())]


def _loads(name: str) -> list[Any]:
    result = {"type": "tool_result", "tool_use_id": "s", "content": [{"type": "tool_reference", "tool_name": name}]}
    return [{"role": "assistant", "content": [_SEARCH]}, {"role": "user", "content": [result]}]


def test_a_tool_is_a_function() -> None:
    tool = _tool(
        "f",
        type="custom",
        strict=True,
        cache_control={"type": "ephemeral"},
        input_examples=[{}],
        eager_input_streaming=True,
        allowed_callers=["direct"],
    )
    tool["input_schema"] = {"$schema": "x", "type": "object", "properties": {}}
    function = {"name": "f", "description": "Does f.", "parameters": {"type": "object", "properties": {}}}
    assert _members(tools=[tool])["tools"] == [{"type": "function", "function": {**function, "strict": True}}]


def test_a_schema_without_a_type_is_an_object() -> None:
    assert _members(tools=[{"name": "f", "input_schema": {}}])["tools"][0]["function"]["parameters"] == {
        "type": "object"
    }


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, None),
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tool_choice(choice: Any, sent: Any) -> None:
    chat = _members(tools=[_tool("f")], tool_choice=choice)
    assert chat.get("tool_choice") == sent
    # Groq rejects the member together with a named tool.
    assert ("disable_tool_validation" in chat) == (not isinstance(sent, dict))
    assert "parallel_tool_calls" not in chat


def test_parallel_calls_can_be_disabled() -> None:
    assert (
        _members(tools=[_tool("f")], tool_choice={"type": "auto", "disable_parallel_tool_use": True})[
            "parallel_tool_calls"
        ]
        is False
    )


@pytest.mark.parametrize("tools", [None, [], [_tool("f", defer_loading=True)]])
def test_without_tools_there_is_no_choice(tools: Any) -> None:
    chat = _members(tools=tools, tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert not {"tools", "tool_choice", "parallel_tool_calls", "disable_tool_validation"} & set(chat)


_DEFERRED = [_tool("ToolSearch"), _tool("WebFetch", defer_loading=True), _tool("DeferredToolPlaceholder")]


class TestDeferredTools:
    def test_they_are_hidden_until_they_are_loaded(self) -> None:
        assert _names(tools=_DEFERRED) == ["ToolSearch"]
        assert _names(*_loads("WebFetch"), tools=_DEFERRED) == ["ToolSearch", "WebFetch"]
        assert _names(*_loads("Other"), tools=_DEFERRED) == ["ToolSearch"]

    def test_the_model_reads_that_a_tool_was_loaded(self) -> None:
        assert _members(*_loads("WebFetch"), tools=_DEFERRED)["messages"][2]["content"] == "Tool WebFetch loaded."

    def test_a_chosen_tool_is_shown(self) -> None:
        assert "WebFetch" in _names(tools=_DEFERRED, tool_choice={"type": "tool", "name": "WebFetch"})

    def test_only_shown_tools_count_against_the_limit(self) -> None:
        deferred = [_tool(f"d{number}", defer_loading=True) for number in range(300)]
        shown = [_tool(f"s{number}") for number in range(128)]
        assert len(_names(tools=[*deferred, *shown])) == 128
        with pytest.raises(InvalidRequest, match="'tools': array too long"):
            _names(tools=[*deferred, *shown, _tool("more")])


class TestToolChanges:
    def _system(self, kind: str, tool: Any) -> Any:
        return {"role": "system", "content": [{"type": "text", "text": "Changed."}, {"type": kind, "tool": tool}]}

    def test_tools_are_added_and_removed_in_the_middle(self) -> None:
        tools = [_tool("a"), _tool("b", defer_loading=True)]
        add_b = self._system("tool_addition", {"type": "tool_reference", "name": "b"})
        drop_a = self._system("tool_removal", {"type": "tool_reference", "name": "a"})
        add_a = self._system("tool_addition", {"type": "tool_reference", "name": "a"})
        assert _names(add_b, tools=tools) == ["a", "b"]
        assert _names(add_b, drop_a, tools=tools) == ["b"]
        assert _names(drop_a, add_a, tools=tools) == ["a"]
        assert _members(add_b, tools=tools)["messages"][1] == {"role": "system", "content": "Changed."}

    def test_a_tool_can_be_defined_in_the_middle(self) -> None:
        definition = {"type": "tool_definition", "definition": _tool("c")}
        assert _names(self._system("tool_addition", definition)) == ["c"]

    def test_the_definition_is_validated(self) -> None:
        definition = {"type": "tool_definition", "definition": {"type": "mcp_toolset"}}
        with pytest.raises(InvalidRequest, match="mcp_toolset"):
            _names(self._system("tool_addition", definition))


class TestNames:
    _LONG = "mcp__server__" + "x" * 110

    def test_a_long_name_is_cut_and_returned_to_the_client_whole(self) -> None:
        call = {"type": "tool_use", "id": "c", "name": self._LONG, "input": {}}
        history = {"role": "assistant", "content": [call]}
        request = _request(history, tools=[_tool(self._LONG)], tool_choice={"type": "tool", "name": self._LONG})
        chat = request.chat.members
        short = chat["tools"][0]["function"]["name"]
        assert len(short) <= 64
        assert chat["messages"][1]["tool_calls"][0]["function"]["name"] == short
        assert chat["tool_choice"]["function"]["name"] == short
        request.renderer.begin("req_A", 0)
        message = {"tool_calls": [{"id": "c", "function": {"name": short, "arguments": "{}"}}]}
        body = request.renderer.completion(json.dumps({"choices": [{"message": message}]}).encode())
        assert json.loads(body)["content"][0]["name"] == self._LONG

    def test_names_with_other_characters_stay_apart(self) -> None:
        names = _names(tools=[_tool("a.b"), _tool("a b"), _tool("a_b"), _tool("")])
        assert len(set(names)) == 4
        assert all(name and set(name) <= set("ab_0123456789cdef") for name in names)


@pytest.mark.parametrize("kind", ["auto", "any", "none"])
@pytest.mark.parametrize("name", [[], {}, 1, "g"])
def test_the_name_of_a_choice_is_only_read_if_it_chooses_a_tool(kind: str, name: Any) -> None:
    assert _names(tools=[_tool("f"), _tool("g", defer_loading=True)], tool_choice={"type": kind, "name": name}) == ["f"]


@pytest.mark.parametrize("tools", [[], [_tool("f")]])
def test_a_chosen_tool_that_is_not_sent_is_a_400(tools: list[Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        _request(tools=tools, tool_choice={"type": "tool", "name": "g"})
    assert (refused.value.details.param, refused.value.details.code) == ("tool_choice", "tool_not_found")
    assert refused.value.message == "tool_choice: Tool 'g' not found in tools."
