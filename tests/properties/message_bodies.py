"""Bodies of message requests: good ones, and good ones with something broken in them."""

from typing import Any

from hypothesis import strategies as st

from tests.properties.chat_bodies import JSON_VALUES, broken

_TEXT = st.text(max_size=20)
_CACHE = st.fixed_dictionaries({}, optional={"cache_control": st.just({"type": "ephemeral"}), "zzz": JSON_VALUES})


def _block(kind: str, **members: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda block, more: {**more, **block}, st.fixed_dictionaries({"type": st.just(kind), **members}), _CACHE
    )


_TEXT_BLOCK = _block("text", text=_TEXT)
_IMAGE = _block(
    "image",
    source=st.one_of(
        st.fixed_dictionaries({"type": st.just("base64"), "media_type": st.just("image/png"), "data": _TEXT}),
        st.fixed_dictionaries({"type": st.just("url"), "url": _TEXT}),
    ),
)
_DOCUMENT = _block(
    "document",
    source=st.one_of(
        st.fixed_dictionaries({"type": st.just("text"), "data": _TEXT}),
        st.fixed_dictionaries({"type": st.just("content"), "content": st.lists(_TEXT_BLOCK | _IMAGE, max_size=2)}),
    ),
    title=st.none() | _TEXT,
)
_SEARCH = _block("search_result", title=_TEXT, source=_TEXT, content=st.lists(_TEXT_BLOCK, max_size=2))
_REFERENCE = _block("tool_reference", tool_name=st.sampled_from(["f", "g"]))
_RESULT = _block(
    "tool_result",
    tool_use_id=st.just("c"),
    content=st.none() | _TEXT | st.lists(_TEXT_BLOCK | _IMAGE | _DOCUMENT | _SEARCH | _REFERENCE, max_size=3),
    is_error=st.none() | st.booleans(),
)
_THINKING = _block("thinking", thinking=_TEXT, signature=_TEXT)
_DROPPED = _block("redacted_thinking", data=_TEXT) | _block("web_search_tool_result", content=JSON_VALUES)
_USE = _block(
    "tool_use", id=st.just("c"), name=st.text(max_size=70), input=st.dictionaries(st.text(max_size=5), JSON_VALUES)
)
_CALLED = {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]}
_MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": _TEXT}),
    st.fixed_dictionaries(
        {
            "role": st.just("user"),
            "content": st.lists(_TEXT_BLOCK | _IMAGE | _DOCUMENT | _SEARCH | _RESULT | _DROPPED, max_size=4),
        }
    ),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": st.lists(_TEXT_BLOCK | _THINKING | _USE | _DROPPED, max_size=4)}
    ),
    st.fixed_dictionaries({"role": st.just("system"), "content": st.lists(_TEXT_BLOCK, max_size=2)}),
)
_TOOL = st.fixed_dictionaries(
    {"name": st.text(max_size=70), "input_schema": st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=2)},
    optional={
        "type": st.sampled_from([None, "custom"]),
        "description": st.none() | _TEXT,
        "defer_loading": st.none() | st.booleans(),
        "strict": st.none() | st.booleans(),
    },
)
_FORMAT = st.fixed_dictionaries(
    {"type": st.just("json_schema"), "schema": st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=2)}
)
_OPTIONAL = {
    "system": _TEXT | st.lists(_TEXT_BLOCK, max_size=2),
    "stop_sequences": st.lists(_TEXT, max_size=4),
    "temperature": st.floats(0, 1),
    "top_p": st.floats(0, 1),
    "top_k": JSON_VALUES,
    "stream": st.booleans(),
    "tools": st.lists(_TOOL, max_size=3),
    "tool_choice": st.one_of(
        st.fixed_dictionaries({"type": st.sampled_from(["auto", "any", "none"])}),
        st.fixed_dictionaries({"type": st.just("tool"), "name": _TEXT, "disable_parallel_tool_use": st.booleans()}),
    ),
    "thinking": st.fixed_dictionaries(
        {"type": st.sampled_from(["enabled", "adaptive", "disabled"])},
        optional={"budget_tokens": st.integers(1, 99_999), "display": st.sampled_from(["omitted", "summarized"])},
    ),
    "output_config": st.fixed_dictionaries(
        {}, optional={"effort": st.sampled_from(["low", "max"]), "format": st.none() | _FORMAT}
    ),
    "output_format": st.none() | _FORMAT,
    "metadata": JSON_VALUES,
    "mcp_servers": st.just([]),
}


def _with_chosen_tool(body: Any) -> Any:
    """Return a request whose `tool_choice` names one of its tools."""
    choice, tools = body.get("tool_choice") or {}, body.get("tools") or []
    if choice.get("type") != "tool":
        return body
    named = [tool["name"] for tool in tools if "name" in tool]
    return {**body, "tool_choice": {**choice, "name": named[0]} if named else {"type": "auto"}}


GOOD_MESSAGE_BODIES = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["openai/gpt-oss-20b", "qwen/qwen3.8-27b", "other"]),
        "max_tokens": st.integers(1, 200_000),
        # The first message makes all tool results belong to a call.
        "messages": st.lists(_MESSAGE, max_size=4).map(lambda messages: [_CALLED, *messages]),
    },
    optional=_OPTIONAL,
).map(_with_chosen_tool)
"""Requests that are acceptable."""

NAMES = [
    *("type", "content", "source", "tool", "tools", "system", "thinking", "safeguards", "messages", "role", "zzz"),
    *("text", "image", "document", "tool_use", "tool_result", "mcp_tool_use", "base64", "file", "tool_addition"),
    *("redacted_thinking", "tool_reference", "search_result", "assistant", "user", "any", "json_schema", "custom"),
]
"""Names of members and types that matter."""


def broken_message_bodies() -> st.SearchStrategy[Any]:
    """Return broken message requests."""
    return broken(GOOD_MESSAGE_BODIES, NAMES)


_PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
_ALL_BLOCKS = [
    {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
    _PNG,
    {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}},
    {"type": "document", "title": "t", "source": {"type": "text", "media_type": "text/plain", "data": "d"}},
    {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "a"}, _PNG]}},
    {"type": "search_result", "title": "t", "source": "s", "content": [{"type": "text", "text": "a"}]},
]
SEEDS: list[Any] = [
    {"model": "openai/gpt-oss-20b", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}], "stream": True},
    {
        "model": "openai/gpt-oss-20b",
        "max_tokens": 128_000,
        "system": [{"type": "text", "text": "x-anthropic-billing-header: a"}, {"type": "text", "text": "s"}],
        "messages": [
            {"role": "user", "content": _ALL_BLOCKS},
            {"role": "system", "content": [{"type": "text", "text": "env"}], "clear_at": "next_user_message"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "", "signature": "stkReas1AAAA"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "a"},
                    {"type": "tool_use", "id": "1", "name": "f", "input": {"a": [1]}},
                    {"type": "tool_use", "id": "2", "name": "ToolSearch", "input": {}},
                    {"type": "server_tool_use", "id": "3", "name": "web_search", "input": {}},
                    {"type": "web_search_tool_result", "tool_use_id": "3", "content": []},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "2",
                        "content": [{"type": "tool_reference", "tool_name": "g"}],
                    },
                    {"type": "tool_result", "tool_use_id": "1", "content": _ALL_BLOCKS, "is_error": True},
                    {"type": "text", "text": "b"},
                ],
            },
            {
                "role": "system",
                "content": [
                    {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "f"}},
                    {
                        "type": "tool_addition",
                        "tool": {"type": "tool_definition", "definition": {"name": "h", "input_schema": {}}},
                    },
                ],
            },
        ],
        "tools": [
            {"name": "f", "description": "d", "input_schema": {"$schema": "x", "type": "object"}, "strict": True},
            {"name": "g", "type": "custom", "input_schema": {}, "defer_loading": True},
        ],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 5_000, "display": "omitted"},
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        "metadata": {"user_id": "u"},
        "context_management": {"edits": []},
        "stop_sequences": ["a"],
        "temperature": 1,
        "mcp_servers": [],
    },
]
"""Requests that have everything."""
