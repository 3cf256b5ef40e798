"""Output limits and efforts are in the form that each of Groq's models accepts."""

import pytest

from services.gateway.apis.surface import ModelFacts
from services.gateway.apis.translation.outputs import max_completion_tokens, reasoning_members
from services.gateway.requests.types import JSONObject


@pytest.mark.parametrize(
    ("requested", "facts", "members"),
    [
        (None, ModelFacts(max_output_tokens=10), {}),
        (5, ModelFacts(max_output_tokens=10), {"max_completion_tokens": 5}),
        (128_000, ModelFacts(max_output_tokens=65_536), {"max_completion_tokens": 65_536}),
        (128_000, ModelFacts(), {"max_completion_tokens": 128_000}),
        (128_000, None, {"max_completion_tokens": 128_000}),
    ],
)
def test_output_limits(requested: int | None, facts: ModelFacts | None, members: JSONObject) -> None:
    assert max_completion_tokens(requested, facts) == members


_REASONS = ModelFacts(reasons=True)


@pytest.mark.parametrize(
    ("model", "effort", "facts", "members"),
    [
        ("openai/gpt-oss-20b", None, _REASONS, {}),
        ("openai/gpt-oss-20b", "minimal", _REASONS, {"reasoning_effort": "low"}),
        ("openai/gpt-oss-20b", "medium", None, {"reasoning_effort": "medium"}),
        ("openai/gpt-oss-20b", "max", _REASONS, {"reasoning_effort": "high"}),
        ("openai/gpt-oss-20b", "none", _REASONS, {}),
        ("openai/gpt-oss-20b", "odd", _REASONS, {}),
        ("qwen/qwen3-32b", "high", _REASONS, {"reasoning_format": "parsed"}),
        ("qwen/qwen3-32b", "none", None, {"reasoning_format": "parsed", "reasoning_effort": "none"}),
        ("qwen/qwen3.8-27b", "xhigh", _REASONS, {"reasoning_format": "parsed", "reasoning_effort": "high"}),
        ("qwen/qwen3.8-27b", None, _REASONS, {"reasoning_format": "parsed"}),
        ("new/reasoner", "low", _REASONS, {"reasoning_format": "parsed", "reasoning_effort": "low"}),
        ("llama-3.1-8b-instant", "high", ModelFacts(), {}),
        ("llama-3.1-8b-instant", "high", None, {}),
        ("claude-x", "xhigh", ModelFacts(reasons=True, id="openai/gpt-oss-120b"), {"reasoning_effort": "high"}),
    ],
)
def test_efforts(model: str, effort: str | None, facts: ModelFacts | None, members: JSONObject) -> None:
    assert reasoning_members(model, effort, facts) == members
