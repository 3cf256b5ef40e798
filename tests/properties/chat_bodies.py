"""Bodies of chat requests: valid ones, and valid ones with a few members broken."""

from typing import Any

from hypothesis import strategies as st

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
"""Any JSON value, small."""

_TEXT = st.text(max_size=20)
_PART = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": _TEXT}),
    st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": _TEXT})}),
)
_TOOL_CALL = st.fixed_dictionaries(
    {
        "id": _TEXT,
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": _TEXT, "arguments": st.just("{}")}),
    }
)
_MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "developer", "user"]), "content": _TEXT}),
    st.fixed_dictionaries({"role": st.just("user"), "content": st.lists(_PART, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": st.none(), "tool_calls": st.lists(_TOOL_CALL)}),
    st.fixed_dictionaries({"role": st.just("tool"), "content": _TEXT, "tool_call_id": _TEXT}),
)
_TOOL = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": st.from_regex(r"[a-z_]{1,9}", fullmatch=True)}),
    }
)
_PARAMETERS = {
    "model": st.sampled_from(["openai/gpt-oss-20b", "llama-3.1-8b-instant"]),
    "temperature": st.floats(0, 2),
    "top_p": st.integers(0, 1),
    "max_tokens": st.integers(1, 50),
    "stop": st.sampled_from(["x", ["a", "b"], []]),
    "stream": st.booleans(),
    "stream_options": st.sampled_from([{}, {"include_usage": True}]),
    "n": st.just(1),
    "seed": st.integers(0, 2**31),
    "tools": st.lists(_TOOL, max_size=2),
    "tool_choice": st.just("auto"),
    "response_format": st.just({"type": "text"}),
    "reasoning_effort": st.sampled_from(["low", "high", "minimal"]),
    "service_tier": st.sampled_from(["auto", "default"]),
    "store": st.booleans(),
    "logprobs": st.just(False),
    "logit_bias": st.just({}),
    "user": _TEXT,
}
GOOD_BODIES = st.fixed_dictionaries({"messages": st.lists(_MESSAGE, min_size=1, max_size=4)}, optional=_PARAMETERS)
"""Requests that are acceptable."""


@st.composite
def broken(draw: st.DrawFn, good: st.SearchStrategy[Any], names: list[str]) -> Any:
    """Return a valid request with up to three members replaced, removed or added; it may still be valid.

    Args:
        draw: Passed by hypothesis.
        good: Valid requests.
        names: Names of members to add.
    """
    body: Any = draw(good)
    for _ in range(draw(st.integers(1, 3))):
        body = _with_one_change(draw, body, names)
    return body


def broken_bodies() -> st.SearchStrategy[Any]:
    """Return broken chat requests."""
    return broken(GOOD_BODIES, [*_PARAMETERS, "zzz", "audio", "content"])


def _with_one_change(draw: st.DrawFn, value: Any, names: list[str]) -> Any:
    """Descend into `value` to a random member, and change it."""
    inner = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not inner or draw(st.integers(0, 3)) == 0:
        return _changed(draw, value, names)
    place = draw(st.sampled_from(inner))
    copy = dict(value) if isinstance(value, dict) else list(value)
    if draw(st.integers(0, 4)) == 0:
        del copy[place]
    else:
        copy[place] = _with_one_change(draw, copy[place], names)
    return copy


def _changed(draw: st.DrawFn, value: Any, names: list[str]) -> Any:
    if isinstance(value, dict) and draw(st.booleans()):
        return {**value, draw(st.sampled_from(names)): draw(JSON_VALUES)}
    return draw(JSON_VALUES)
