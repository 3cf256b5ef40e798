"""aider, and the stand-in as a scripted model."""

import pytest

from tests.clients.agents.aider import aider
from tests.clients.agents.program import Home
from tests.clients.table import Row
from tools.groq_standin import turns
from tools.groq_standin.turns import Turn

_NOTES = {
    "tools": "aider uses no tools and no schemas: it reads edits from the text.",
    "structured": "aider uses no tools and no schemas: it reads edits from the text.",
    "image": "aider sends images only to models that its own list says read them.",
    "cut": "aider repeats a request that failed, cut or at the limit, for a minute.",
    "exhausted": "aider repeats a request that failed, cut or at the limit, for a minute.",
}
ROW = Row("aider", "0.86.2", "`/v1/chat/completions`", _NOTES, frozenset({"exhausted"}))
_ANSWERED = ("answered", 1)
_EDIT = "Here it is.\n\nhello.py\n```\nprint('hello')\n```\n"
_REPETITIONS = 3
"""aider repeats for a minute by its own decision: `RETRY_TIMEOUT` in aider/models.py, for each 429 and each cut."""


@pytest.mark.cell("text", "stream")
@pytest.mark.parametrize(("option", "is_stream"), [("--stream", True), ("--no-stream", False)])
async def test_a_text(agent_home: Home, option: str, is_stream: bool) -> None:
    done = await aider(agent_home, f"Go. {turns.marker(Turn(reasoning='I greet.', content='Hello there.'))}", option)
    assert (done.status, done.statuses) == (0, [200])
    assert "Hello there." in done.output
    assert done.at_groq[0]["request"].get("stream", False) is is_stream
    assert await agent_home.ledger() == [_ANSWERED]


async def test_an_edit_is_written_and_committed_with_a_message_of_the_weak_model(agent_home: Home) -> None:
    done = await aider(agent_home, f"Write. {turns.marker(Turn(content=_EDIT))}")
    assert (agent_home.work / "hello.py").read_text() == "print('hello')\n"
    assert [entry["model"] for entry in done.at_groq] == ["openai/gpt-oss-120b", "openai/gpt-oss-20b"]
    assert await agent_home.ledger() == [_ANSWERED] * 2


@pytest.mark.cell("history")
async def test_a_second_turn_contains_the_first(agent_home: Home) -> None:
    await aider(agent_home, f"Hello. {turns.marker(Turn(content='Good morning.'))}")
    done = await aider(agent_home, "It is me again.", "--restore-chat-history")
    said = [(message["role"], message["content"].strip()) for message in done.messages()]
    assert ("assistant", "Good morning.") in said
    assert said[-1][1].startswith("It is me again.")


@pytest.mark.cell("cut")
async def test_a_cut_stream_is_an_error(agent_home: Home) -> None:
    prompt = "Count. [[standin:tokens count=9]] [[standin:cut after=3]]"
    done = await aider(agent_home, prompt, posts=_REPETITIONS)
    assert "The model's answer was interrupted." in done.output
    rows = await agent_home.ledger()
    # The last repetition may have been stopped while it was answered.
    assert rows[: _REPETITIONS - 1] == [("cut", 1)] * (_REPETITIONS - 1)


@pytest.mark.cell("exhausted")
async def test_the_daily_limit_is_shown_and_repeated_without_a_charge(exhausted_home: Home) -> None:
    assert (await aider(exhausted_home, "Say hello")).status == 0
    done = await aider(exhausted_home, "Say hello", posts=_REPETITIONS)
    assert "Resets at 00:00 UTC" in done.output
    assert set(done.statuses) == {429}
    assert len(done.statuses) >= _REPETITIONS
    assert done.at_groq == []
    assert await exhausted_home.ledger() == [_ANSWERED]
