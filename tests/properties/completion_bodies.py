"""Bodies of legacy completion requests: good ones, and good ones with something broken in them."""

from typing import Any

from hypothesis import strategies as st

from services.gateway.apis.completions.parameters import PARAMETERS
from tests.properties.chat_bodies import broken

_TEXT = st.text(max_size=20)
_OPTIONAL = {
    "model": st.sampled_from(["openai/gpt-oss-20b", "qwen/qwen3.8-27b", "llama-3.1-8b-instant"]),
    "suffix": _TEXT,
    "max_tokens": st.integers(1, 50),
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "stop": st.sampled_from(["x", ["a", "b"]]),
    "stream": st.booleans(),
    "stream_options": st.sampled_from([{}, {"include_usage": True, "include_obfuscation": False}]),
    "echo": st.booleans(),
    "n": st.just(1),
    "best_of": st.just(1),
    "seed": st.integers(0, 2**31),
    "reasoning_effort": st.sampled_from(["low", "minimal", "max"]),
    "logit_bias": st.just({}),
    "user": _TEXT,
}
_PROMPT = _TEXT.filter(bool)
GOOD_BODIES = st.fixed_dictionaries({"prompt": _PROMPT | _PROMPT.map(lambda text: [text])}, optional=_OPTIONAL)
"""Requests that are acceptable."""
NAMES = [*PARAMETERS, "zzz"]
"""Names of members."""


def broken_bodies() -> st.SearchStrategy[Any]:
    """Return good requests with something broken in them."""
    return broken(GOOD_BODIES, NAMES)


SEEDS: list[Any] = [
    {"model": "openai/gpt-oss-20b", "prompt": "hi"},
    {
        "model": "qwen/qwen3.8-27b",
        "prompt": ["hi"],
        "suffix": "end",
        "max_tokens": 5,
        "temperature": 0.5,
        "stop": ["a"],
        "echo": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "best_of": 1,
        "logprobs": None,
        "logit_bias": {},
        "user": "u",
        "reasoning_effort": "low",
    },
]
"""A minimal request, and one that has everything."""
