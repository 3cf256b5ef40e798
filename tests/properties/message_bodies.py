"""Bodies of message requests: good ones, and good ones with something broken in them."""

import random
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from tests.properties.chat_bodies import JSON_VALUES

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
GOOD_MESSAGE_BODIES = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["openai/gpt-oss-20b", "qwen/qwen3.8-27b", "other"]),
        "max_tokens": st.integers(1, 200_000),
        # The first message makes all tool results belong to a call.
        "messages": st.lists(_MESSAGE, max_size=4).map(lambda messages: [_CALLED, *messages]),
    },
    optional=_OPTIONAL,
)
"""Requests that are acceptable."""

_NAMES = ["type", "content", "source", "tool", "system", "tools", "thinking", "safeguards", "messages", "role", "zzz"]
_TYPES = ["text", "image", "document", "tool_use", "tool_result", "mcp_tool_use", "base64", "file", "tool_addition"]


@st.composite
def broken_message_bodies(draw: st.DrawFn) -> Any:
    """Return a good request with up to three places replaced, removed or added to; it may still be good."""
    body: Any = draw(GOOD_MESSAGE_BODIES)
    chance = random.Random(draw(st.integers(0, 2**32)))
    for _ in range(draw(st.integers(1, 3))):
        body = changed(chance, body, draw(JSON_VALUES))
    return body


def changed(chance: random.Random, value: Any, new: Any) -> Any:
    """Return a value with one place in it replaced by `new` or by a known type, removed, or added."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        if chance.random() < 0.1:
            return {**value, chance.choice(_NAMES): new}
        name = chance.choice(list(value))
        if chance.random() < 0.1:
            return {other: one for other, one in value.items() if other != name}
        return {**value, name: changed(chance, value[name], new)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        place = chance.randrange(len(value))
        return [*value[:place], changed(chance, value[place], new), *value[place + 1 :]]
    return new if chance.random() < 0.8 else chance.choice(_TYPES)


def mutations(chance: random.Random, body: bytes) -> Iterator[bytes]:
    """Yield bodies with some bytes replaced, removed, repeated or added, endlessly."""
    while True:
        start = chance.randrange(len(body) + 1)
        end = min(len(body), start + chance.randrange(12))
        inserted = (b"", bytes([chance.randrange(256)]), body[start:end] * 2, b'"', b"}", b"[[[[", b"1e999", b"\\ud800")
        yield body[:start] + chance.choice(inserted) + body[end:]
