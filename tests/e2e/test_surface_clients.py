"""The packages `openai` and `anthropic` at `/v1/responses`, `/v1/messages` and `/v1/completions`.

`make test-clients` runs the same programs with other packages, and Codex and Claude Code.
"""

import asyncio
from typing import Any

import openai
import pytest

from tests.clients.gateway_log import recorded
from tests.clients.programs import anthropic_package, cases, openai_responses
from tests.clients.programs.report import MODEL, Scenario, Seen
from tests.e2e.stack import Key, Stack

_SEVEN = "one two three four five six seven"
_CALLS = [{"city": "Paris", "days": 1}, {"city": "Rome", "days": 2}]
_SEEN: dict[str, Seen] = {
    "text": {"text": _SEVEN},
    "tools": {"calls": _CALLS, "text_after": "Both are sunny."},
    "history": {"text": "Good morning.", "text_after": "Welcome back."},
    "structured": {"parsed": {"city": "stand-in", "days": 1}},
    "image": {"text": _SEVEN},
}

PROGRAMS = pytest.mark.parametrize("program", [openai_responses, anthropic_package], ids=lambda each: each.__name__)


async def _run(stack: Stack, key: Key, scenario: Scenario) -> tuple[Seen, list[tuple[str, int]]]:
    """Return what the client saw, and the outcome of each request and whether it was charged."""
    seen = await asyncio.to_thread(scenario, stack.base_url, key.secret)
    await stack.until_settled(key)
    return seen, [(row["outcome"], row["charged"]) for row in stack.ledger(key)]


@PROGRAMS
@pytest.mark.parametrize("scenario", _SEEN)
async def test_answers(stack: Stack, key: Key, program: Any, scenario: str) -> None:
    seen, rows = await _run(stack, key, getattr(program, scenario))
    assert seen == _SEEN[scenario]
    assert rows == [("answered", 1)] * (2 if "text_after" in seen else 1)


@PROGRAMS
async def test_streams(stack: Stack, key: Key, program: Any) -> None:
    seen, rows = await _run(stack, key, program.stream)
    assert ("".join(seen["pieces"]), seen["text"], seen["output_tokens"]) == (_SEVEN, _SEVEN, 7)
    assert rows == [("answered", 1)]


@PROGRAMS
async def test_a_cut_stream_raises_an_exception(stack: Stack, key: Key, program: Any) -> None:
    seen, rows = await _run(stack, key, program.cut)
    assert "".join(seen["pieces"]) == "one two three"
    assert seen["error"]["classes"], "the client took a cut stream for a complete one"
    assert rows == [("cut", 1)]


@PROGRAMS
async def test_the_daily_limit_is_a_rate_limit_error_after_one_request(stack: Stack, program: Any) -> None:
    key = await stack.create_key(daily_limit=1)
    with recorded(stack, f"limit-{key.id}") as requests:
        seen, rows = await _run(stack, key, program.exhausted)
    assert seen["first"] == {"text": _SEVEN}
    assert "RateLimitError" in seen["second"]["classes"]
    assert [status for _, _, status in requests] == [200, 429]
    assert rows == [("answered", 1)]


async def test_openai_completes_a_prompt(stack: Stack, key: Key) -> None:
    async with openai.AsyncOpenAI(base_url=f"{stack.base_url}/v1", api_key=key.secret) as client:
        prompt = cases.hello(key.secret)
        whole = await client.completions.create(model=MODEL, prompt=prompt)
        stream = await client.completions.create(model=MODEL, prompt=prompt, stream=True)
        pieces = [chunk.choices[0].text async for chunk in stream if chunk.choices]
    assert whole.choices[0].text == "".join(pieces) == _SEVEN
