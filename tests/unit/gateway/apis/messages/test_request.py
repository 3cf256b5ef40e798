"""Message requests are translated to chat requests as the reference says."""

import json
from typing import Any

import pytest

from services.common.errors import ErrorDetails, InvalidRequest, NotFound, ServiceError
from services.gateway.apis.chat_completions.request import parse_chat
from services.gateway.apis.messages.request import parse
from services.gateway.apis.model_aliases import model_aliases
from services.gateway.apis.surface import Context, ModelFacts
from services.gateway.apis.translation.reasoning import encode_reasoning
from services.gateway.requests.types import Chat

_OSS = "openai/gpt-oss-20b"
_QWEN = "qwen/qwen3.8-27b"
_CONTEXT = Context(
    models={
        _OSS: ModelFacts(max_output_tokens=65_536, context_window=131_072, reasons=True),
        _QWEN: ModelFacts(max_output_tokens=16_384, context_window=131_072, reasons=True),
        "plain": ModelFacts(),
        "blind": ModelFacts(reads_images=False),
    },
    aliases=model_aliases({"claude-haiku-*": "openai/gpt-oss-20b", "claude-opus-5-5": "qwen/qwen3.8-27b"}),
)
_USER = {"role": "user", "content": "hi"}
_PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
_PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}


def _chat(*messages: Any, **members: Any) -> Chat:
    body = {"model": _OSS, "max_tokens": 100, "messages": list(messages) or [_USER], **members}
    return parse(json.dumps(body).encode(), _CONTEXT).chat


def _messages(*messages: Any, **members: Any) -> Any:
    return _chat(*messages, **members).members["messages"]


def _text(text: str, **more: Any) -> Any:
    return {"type": "text", "text": text, **more}


def _use(call_id: str, name: str = "f", **arguments: Any) -> Any:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def _result(call_id: str, content: Any = None, **more: Any) -> Any:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


def _called(*calls: Any) -> Any:
    return {"role": "assistant", "content": list(calls)}


def _refusal(*messages: Any, **members: Any) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        _chat(*messages, **members)
    return raised.value


class TestMembers:
    def test_a_plain_request(self) -> None:
        chat = _chat(_USER, temperature=0.5, top_p=0.9, top_k=40, stop_sequences=["a", "b"])
        assert chat.members == {
            "messages": [_USER],
            "model": _OSS,
            "max_completion_tokens": 100,
            "temperature": 0.5,
            "top_p": 0.9,
            "stop": ["a", "b"],
        }
        assert not chat.stream

    def test_a_stream_asks_for_its_usage(self) -> None:
        chat = _chat(stream=True)
        assert chat.stream
        assert chat.members["stream_options"] == {"include_usage": True}
        assert "stream" not in chat.members

    def test_unknown_members_are_ignored(self) -> None:
        ignored = {
            "metadata": {"user_id": '{"device_id":"x"}'},
            "context_management": {"edits": []},
            "service_tier": "auto",
            "speed": "fast",
            "inference_geo": "eu",
            "container": {"skills": []},
            "diagnostics": {},
            "user_profile_id": "u",
            "workspace_id": "w",
            "tags": [],
            "fallbacks": [{"model": "x"}],
            "cache_control": {"type": "ephemeral"},
            "mcp_servers": [],
            "something_of_a_later_beta": {"a": [1]},
        }
        assert _chat(**ignored).members == _chat().members

    def test_null_counts_as_absent(self) -> None:
        nulls = (
            "system",
            "tools",
            "tool_choice",
            "thinking",
            "output_config",
            "stop_sequences",
            "stream",
            "safeguards",
        )
        assert _chat(**dict.fromkeys(nulls)).members == _chat().members

    @pytest.mark.parametrize(
        ("model", "asked", "sent"),
        [(_OSS, 32_000, 32_000), (_OSS, 128_000, 65_536), (_QWEN, 32_000, 16_384), ("unknown", 128_000, 128_000)],
    )
    def test_max_tokens_are_clamped_to_the_model(self, model: str, asked: int, sent: int) -> None:
        assert _chat(model=model, max_tokens=asked).members["max_completion_tokens"] == sent

    @pytest.mark.parametrize(
        ("name", "served"), [("claude-haiku-4-5", _OSS), ("claude-opus-5-5", _QWEN), ("other", "other")]
    )
    def test_aliases_are_resolved_and_the_name_asked_for_is_echoed(self, name: str, served: str) -> None:
        body = json.dumps({"model": name, "max_tokens": 1, "messages": [_USER]}).encode()
        request = parse(body, _CONTEXT)
        assert request.chat.members["model"] == served
        request.renderer.begin("req_A", 0)
        assert json.loads(request.renderer.completion(b"{}"))["model"] == name

    def test_an_alias_of_the_list_keeps_its_name_and_gets_the_members_of_its_model(self) -> None:
        context = Context(models={"claude-x": ModelFacts(id=_OSS, reasons=True, max_output_tokens=5)})
        body = json.dumps({"model": "claude-x", "max_tokens": 9, "messages": [_USER]}).encode()
        members = parse(body, context).chat.members
        assert (members["model"], members["max_completion_tokens"]) == ("claude-x", 5)
        assert "reasoning_format" not in members

    def test_the_model_must_not_be_empty(self) -> None:
        error = _refusal(model="")
        assert (error.message, error.details.param) == ("model: at least 1 character is required.", "model")

    def test_a_listed_name_is_not_resolved_by_a_pattern(self) -> None:
        context = Context(models={"claude-haiku-x": ModelFacts(id=_QWEN)}, aliases=_CONTEXT.aliases)
        body = json.dumps({"model": "claude-haiku-x", "max_tokens": 9, "messages": [_USER]}).encode()
        assert parse(body, context).chat.members["model"] == "claude-haiku-x"

    def test_a_model_of_anthropic_is_left_to_inference_until_the_list_is_known(self) -> None:
        body = json.dumps({"model": "claude-sonnet-5", "max_tokens": 9, "messages": [_USER]}).encode()
        assert parse(body, Context()).chat.members["model"] == "claude-sonnet-5"

    def test_a_model_of_anthropic_without_an_alias_is_not_found(self) -> None:
        error = _refusal(model="claude-sonnet-5")
        assert isinstance(error, NotFound)
        assert "ANTHROPIC_MODEL" in error.message

    @pytest.mark.parametrize(
        ("members", "param"),
        [
            ({"model": None}, "model"),
            ({"max_tokens": None}, "max_tokens"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"max_tokens": "1"}, "max_tokens"),
            ({"messages": []}, "messages"),
            ({"messages": "hi"}, "messages"),
            ({"messages": [{"role": "tool", "content": "hi"}]}, "messages[0].role"),
            ({"messages": [{"role": "user"}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0].type"),
            ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
            ({"messages": [{"role": "user", "content": [{"type": "mcp_tool_use"}]}]}, "messages[0].content[0].type"),
            ({"stop_sequences": ["a"] * 5}, "stop_sequences"),
            ({"temperature": 1.5}, "temperature"),
            ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
            ({"safeguards": {}}, "safeguards"),
            ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
            ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]"),
            ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
            ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
            ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ],
    )
    def test_invalid_requests_are_refused_by_the_name_of_the_member(self, members: Any, param: str) -> None:
        error = _refusal(**members)
        assert isinstance(error, InvalidRequest)
        assert error.details.param == param

    def test_safeguards_are_named_so_that_the_client_checks_by_itself(self) -> None:
        assert "safeguards" in _refusal(safeguards={"a": 1}).message


class TestSystem:
    @pytest.mark.parametrize(
        "system",
        [
            "one\n\ntwo",
            [_text("one"), _text("two", cache_control={"type": "ephemeral"})],
            [_text("x-anthropic-billing-header: cc_version=2.1.332"), _text("one"), _text(""), _text("two")],
        ],
    )
    def test_it_is_one_message(self, system: Any) -> None:
        assert _messages(system=system) == [{"role": "system", "content": "one\n\ntwo"}, _USER]

    @pytest.mark.parametrize("system", ["", [], [_text("")], None])
    def test_an_empty_one_is_left_out(self, system: Any) -> None:
        assert _messages(system=system) == [_USER]

    def test_it_keeps_its_place_in_the_middle(self) -> None:
        middle = {"role": "system", "content": [_text("cwd: /tmp")]}
        assert _messages(_USER, middle, _called(_text("ok")), _USER)[1] == {"role": "system", "content": "cwd: /tmp"}

    def test_one_that_is_cleared_is_left_out_after_the_next_user_message(self) -> None:
        once = {"role": "system", "content": "now", "clear_at": "next_user_message"}
        assert _messages(_USER, once)[1]["content"] == "now"
        assert _messages(_USER, once, _USER) == [_USER, _USER]


class TestContent:
    def test_one_text_is_a_string_and_several_are_parts(self) -> None:
        def contents(*texts: str) -> Any:
            return _messages({"role": "user", "content": [_text(text) for text in texts]})[0]["content"]

        assert contents("a") == "a"
        assert contents("a", "", "b") == [_text("a"), _text("b")]
        assert contents("", "") == ""

    def test_images(self) -> None:
        url = {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}}
        content = _messages({"role": "user", "content": [_PNG, url]})[0]["content"]
        assert content == [_PNG_PART, {"type": "image_url", "image_url": {"url": "https://a/b.png"}}]

    def test_documents_of_text(self) -> None:
        plain = {"type": "text", "media_type": "text/plain", "data": "body"}
        blocks = {"type": "content", "content": [_text("page"), _PNG]}
        content = [
            {"type": "document", "title": "T", "source": plain, "citations": {"enabled": True}},
            {"type": "document", "source": blocks},
            {"type": "document", "source": {"type": "content", "content": "page"}, "title": None},
        ]
        assert _messages({"role": "user", "content": content})[0]["content"] == [
            _text("T\n\nbody"),
            _text("page"),
            _PNG_PART,
            _text("page"),
        ]

    @pytest.mark.parametrize("source", ["base64", "url", "file"])
    def test_other_documents_are_refused_with_the_code_that_makes_the_client_drop_them(self, source: str) -> None:
        block = {"type": "document", "source": {"type": source, "data": "x", "media_type": "application/pdf"}}
        error = _refusal({"role": "user", "content": [block]})
        assert error.details == ErrorDetails(param="messages[0].content[0].source", code="document_block")

    @pytest.mark.parametrize("content", [[_PNG], [_text("a"), _PNG]])
    def test_images_are_refused_if_the_model_does_not_read_them(self, content: Any) -> None:
        result = [_called(_use("a")), {"role": "user", "content": [_result("a", content)]}]
        for messages in ([{"role": "user", "content": content}], result):
            error = _refusal(*messages, model="blind")
            assert error.details == ErrorDetails(param="messages", code="image_block")
        assert _messages(_USER, model="blind") == [_USER]

    def test_files_are_refused(self) -> None:
        block = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}
        assert "Files API" in _refusal({"role": "user", "content": [block]}).message

    def test_search_results(self) -> None:
        block = {"type": "search_result", "title": "T", "source": "https://a", "content": [_text("x"), _text("y")]}
        assert _messages({"role": "user", "content": [block]})[0]["content"] == "T\nhttps://a\nx\ny"

    def test_receipts_of_another_provider_are_dropped(self) -> None:
        content = [
            {"type": "redacted_thinking", "data": "x"},
            {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {}},
            {"type": "web_search_tool_result", "tool_use_id": "srv", "content": []},
            {"type": "fallback", "from": {}, "to": {}},
            _text("found"),
        ]
        assert _messages(_USER, {"role": "assistant", "content": content})[1] == {
            "role": "assistant",
            "content": "found",
        }

    def test_an_empty_answer_is_left_out(self) -> None:
        assert _messages(_USER, _called(), _USER) == [_USER, _USER]
        assert "content" in _refusal(_called()).message

    def test_the_summary_of_a_compacted_conversation_is_kept(self) -> None:
        block = {"type": "compaction", "content": "Before: a"}
        assert _messages({"role": "assistant", "content": [block]}, _USER)[0]["content"] == "Before: a"

    def test_a_prefill_stays_last(self) -> None:
        assert _messages(_USER, {"role": "assistant", "content": "{"})[-1] == {"role": "assistant", "content": "{"}


class TestToolUse:
    def test_calls_of_one_message_with_text(self) -> None:
        assistant = _messages(_USER, _called(_text("Let me see."), _use("a", x=1), _use("b", "g")))[1]
        assert assistant == {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        }
        assert "content" not in _messages(_USER, _called(_use("a")))[1]

    def test_results_follow_in_the_order_of_the_calls(self) -> None:
        results = {"role": "user", "content": [_text("and?"), _result("b", "2"), _result("a", [_text("1")])]}
        assert _messages(_USER, _called(_use("a"), _use("b")), results)[2:] == [
            {"role": "tool", "tool_call_id": "a", "content": "1"},
            {"role": "tool", "tool_call_id": "b", "content": "2"},
            {"role": "user", "content": "and?"},
        ]

    def test_ids_that_each_turn_uses_again_keep_the_order(self) -> None:
        turn = [_called(_use("a"), _use("b")), {"role": "user", "content": [_result("b", "2"), _result("a", "1")]}]
        assert [one.get("tool_call_id") for one in _messages(_USER, *turn, *turn)[1:]] == [None, "a", "b"] * 2

    def test_results_in_several_user_messages_are_one_run(self) -> None:
        first = {"role": "user", "content": [_result("b", [_PNG])]}
        second = {"role": "user", "content": [_result("a")]}
        assert [one["role"] for one in _messages(_USER, _called(_use("a"), _use("b")), first, second)[2:]] == [
            "tool",
            "tool",
            "user",
        ]

    @pytest.mark.parametrize(
        ("content", "sent"),
        [
            ("boom", "Error: boom"),
            ("Error: boom", "Error: boom"),
            (None, "Error: "),
            ([_text("a"), _text("b")], [_text("Error: a"), _text("b")]),
        ],
    )
    def test_errors_are_marked(self, content: Any, sent: Any) -> None:
        result = {"role": "user", "content": [_result("a", content, is_error=True)]}
        assert _messages(_USER, _called(_use("a")), result)[2]["content"] == sent

    def test_images_of_results_follow_in_a_user_message(self) -> None:
        result = {"role": "user", "content": [_result("a", [_text("see"), _PNG]), _text("so?")]}
        assert _messages(_USER, _called(_use("a")), result)[2:] == [
            {"role": "tool", "tool_call_id": "a", "content": "see"},
            {"role": "user", "content": [_text("Image from tool call a:"), _PNG_PART]},
            {"role": "user", "content": "so?"},
        ]

    def test_a_result_without_a_call_is_refused_by_its_id(self) -> None:
        error = _refusal(_USER, {"role": "user", "content": [_result("toolu_x", "1")]})
        assert "toolu_x" in error.message
        assert error.details.param == "messages[1].content[0].tool_use_id"


class TestThinking:
    def _assistant(self, *blocks: Any) -> Any:
        return _messages(_USER, {"role": "assistant", "content": list(blocks)}, _USER)[1]

    def test_it_goes_back_to_the_model(self) -> None:
        block = {"type": "thinking", "thinking": "Because.", "signature": "of-another-provider"}
        assert self._assistant(block, _text("a")) == {"role": "assistant", "content": "a", "reasoning": "Because."}

    def test_several_blocks_are_lines(self) -> None:
        blocks = [{"type": "thinking", "thinking": text, "signature": "s"} for text in ("a", "", "b")]
        assert self._assistant(*blocks, _text("c"))["reasoning"] == "a\nb"

    def test_omitted_text_is_read_from_the_signature(self) -> None:
        block = {"type": "thinking", "thinking": "", "signature": encode_reasoning("Because.")}
        assert self._assistant(block, _use("a"))["reasoning"] == "Because."

    @pytest.mark.parametrize("signature", ["", "EqQBCgIYAhIM", None])
    def test_foreign_signatures_are_ignored(self, signature: str | None) -> None:
        block = {"type": "thinking", "thinking": "", "signature": signature}
        assert self._assistant(block, _text("a")) == {"role": "assistant", "content": "a"}

    @pytest.mark.parametrize(
        ("members", "effort"),
        [
            ({}, None),
            ({"thinking": {"type": "adaptive"}}, None),
            ({"thinking": {"type": "between_tools"}}, None),
            ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
            ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, "medium"),
            ({"thinking": {"type": "enabled", "budget_tokens": 31_999}}, "high"),
            ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"}}, "medium"),
            ({"output_config": {"effort": "xhigh"}}, "high"),
            ({"output_config": {"effort": "max"}}, "high"),
            ({"output_config": {"effort": "unheard of"}}, None),
        ],
    )
    def test_effort(self, members: Any, effort: str | None) -> None:
        assert _chat(**members).members.get("reasoning_effort") == effort
        assert "reasoning_effort" not in _chat(model="plain", **members).members

    def test_disabled(self) -> None:
        disabled = {"thinking": {"type": "disabled"}}
        oss, qwen = _chat(**disabled).members, _chat(model=_QWEN, **disabled).members
        assert (oss["reasoning_effort"], oss["include_reasoning"]) == ("low", False)
        assert "reasoning_format" not in oss
        assert (qwen["reasoning_effort"], qwen["reasoning_format"]) == ("none", "parsed")
        assert "include_reasoning" not in qwen
        assert not {"reasoning_effort", "include_reasoning"} & set(_chat(model="plain", **disabled).members)


class TestFormats:
    @pytest.mark.parametrize(
        "members",
        [
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {"output_format": {"type": "json_schema", "schema": {"type": "object"}}},
        ],
    )
    def test_a_schema_is_a_response_format_or_an_instruction_beside_tools(self, members: Any) -> None:
        assert _chat(**members).members["response_format"] == {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": {"type": "object"}, "strict": True},
        }
        chat = _chat(**members, tools=[{"name": "f", "input_schema": {}}]).members
        assert "response_format" not in chat
        assert '{"type":"object"}' in chat["messages"][-1]["content"]


def test_what_is_sent_is_a_valid_chat_request() -> None:
    """The chat members are those that the chat surface would let through."""
    chat = _chat(
        _USER,
        {"role": "system", "content": "env"},
        _called({"type": "thinking", "thinking": "t", "signature": "s"}, _text("a"), _text("b"), _use("c", x=[1])),
        {"role": "user", "content": [_result("c", [_PNG]), _text("d"), _PNG]},
        system=[_text("s")],
        tools=[{"name": "f", "input_schema": {"type": "object"}, "strict": True}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 2_000},
        stream=True,
        stop_sequences=["x"],
    )
    again = parse_chat(json.dumps({**chat.members, "stream": True}).encode())
    assert again.members == chat.members
