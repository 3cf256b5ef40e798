"""Bodies of Responses requests: good ones, and good ones with something broken in them."""

from typing import Any

from hypothesis import strategies as st

from tests.properties.chat_bodies import JSON_VALUES, broken

_TEXT = st.text(max_size=20)
_NAME = st.from_regex(r"[a-z_.]{1,9}", fullmatch=True)


def _fixed(optional: dict[str, st.SearchStrategy[Any]] | None = None, **members: Any) -> st.SearchStrategy[Any]:
    """Return objects with `members`, which are strategies or constants, and some of the optional ones."""
    required: dict[str, st.SearchStrategy[Any]] = {
        name: value if isinstance(value, st.SearchStrategy) else st.just(value) for name, value in members.items()
    }
    return st.fixed_dictionaries(required, optional=optional or {})


_TEXT_PART = _fixed(type=st.sampled_from(["input_text", "output_text", "text"]), text=_TEXT)
_IMAGE_PART = _fixed({"detail": _TEXT, "file_id": st.none()}, type="input_image", image_url=_TEXT)
_REFUSAL_PART = _fixed(type="refusal", refusal=_TEXT)
_CONTENT = _TEXT | st.lists(_TEXT_PART | _IMAGE_PART, max_size=3)
_ITEMS = st.one_of(
    _fixed({"type": st.just("message"), "id": _TEXT, "status": _TEXT}, role="user", content=_CONTENT),
    _fixed(role=st.sampled_from(["system", "developer"]), content=_TEXT | st.lists(_TEXT_PART, max_size=2)),
    _fixed({"phase": _TEXT}, role="assistant", content=_TEXT | st.lists(_TEXT_PART | _REFUSAL_PART, max_size=2)),
    _fixed(
        {"summary": st.lists(_fixed(type="summary_text", text=_TEXT), max_size=2), "encrypted_content": _TEXT},
        type="reasoning",
    ),
    _fixed({"arguments": _TEXT, "namespace": _NAME}, type="function_call", call_id=_TEXT, name=_NAME),
    _fixed({"input": _TEXT}, type="custom_tool_call", call_id=_TEXT, name=_NAME),
    _fixed(type=st.sampled_from(["web_search_call", "mcp_call"]), id=_TEXT),
    _fixed({"type": st.just("item_reference")}, id=st.just("rs_1")),
)
_FUNCTION = _fixed({"description": _TEXT, "strict": st.booleans() | st.none()}, type="function", name=_NAME)
_TOOL = st.one_of(
    _FUNCTION,
    _fixed({"description": _TEXT, "format": _fixed(type="text")}, type="custom", name=_NAME),
    _fixed({"tools": st.lists(_FUNCTION, max_size=2)}, type="namespace", name=_NAME),
    _fixed(type=st.sampled_from(["web_search", "web_search_preview", "mcp", "file_search"])),
)
_PARAMETERS = {
    "model": st.sampled_from(["openai/gpt-oss-20b", "qwen/qwen3.8-27b", "llama-3.1-8b-instant"]),
    "instructions": st.just("Be brief."),
    "temperature": st.floats(0, 2),
    "top_p": st.integers(0, 1),
    "max_output_tokens": st.integers(1, 50),
    "stream": st.booleans(),
    "stream_options": st.sampled_from([{}, {"include_obfuscation": True}]),
    "tools": st.lists(_TOOL, max_size=3),
    "tool_choice": st.sampled_from(["auto", "none", "required", {"type": "allowed_tools", "tools": []}]),
    "parallel_tool_calls": st.booleans(),
    "text": st.sampled_from([{}, {"format": {"type": "json_object"}, "verbosity": "low"}]),
    "reasoning": st.sampled_from([{}, {"effort": "high", "summary": "auto"}]),
    "include": st.sampled_from([[], ["reasoning.encrypted_content"]]),
    "store": st.booleans(),
    "metadata": st.dictionaries(_TEXT, _TEXT | st.none(), max_size=2),
    "service_tier": st.sampled_from(["auto", "default"]),
    "client_metadata": JSON_VALUES,
    "truncation": st.just("auto"),
    "top_logprobs": st.just(0),
    "background": st.just(False),
}
_USER_FIRST = st.lists(_ITEMS, max_size=4).map(lambda items: [{"role": "user", "content": "hi"}, *items])
GOOD_BODIES = st.fixed_dictionaries({"input": _TEXT | _USER_FIRST}, optional=_PARAMETERS)
"""Requests that are acceptable."""
NAMES = [*_PARAMETERS, "input", "content", "type", "role", "id", "call_id", "output", "name", "namespace", "zzz"]
"""Names of members."""


def broken_bodies() -> st.SearchStrategy[Any]:
    """Return good requests with something broken in them."""
    return broken(GOOD_BODIES, NAMES)


_TEXT_FILE = {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,YQ=="}
_PNG = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}
SEEDS: list[Any] = [
    {"model": "openai/gpt-oss-20b", "input": "hi", "stream": True},
    {
        "model": "openai/gpt-oss-20b",
        "instructions": "Be brief.",
        "input": [
            {"role": "developer", "content": [{"type": "input_text", "text": "d"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}, _PNG, _TEXT_FILE]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"text": "r"}], "encrypted_content": "stkReas1AAAA"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}]},
            {"type": "function_call", "call_id": "1", "name": "f", "namespace": "ns", "arguments": "{}"},
            {"type": "custom_tool_call", "call_id": "2", "name": "patch", "input": "x"},
            {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "o"}, _PNG]},
            {"type": "custom_tool_call_output", "call_id": "2", "output": "done"},
            {"type": "additional_tools", "tools": [{"type": "function", "name": "g"}]},
            {"type": "item_reference", "id": "rs_2"},
            {"type": "web_search_call", "id": "ws_1"},
        ],
        "tools": [
            {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True},
            {"type": "namespace", "name": "ns", "tools": [{"type": "function", "name": "f"}]},
            {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "s"}},
            {"type": "web_search"},
        ],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        "parallel_tool_calls": True,
        "text": {"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}}, "verbosity": "low"},
        "reasoning": {"effort": "high", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "store": False,
        "metadata": {"a": "b"},
        "max_output_tokens": 100,
        "temperature": 1,
        "client_metadata": {"x": 1},
    },
]
"""Requests that have everything."""
