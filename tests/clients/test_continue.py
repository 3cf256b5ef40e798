"""Continue's command line, and the stand-in as a scripted model."""

import pytest

from tests.clients.agents.continue_cli import continue_cli
from tests.clients.agents.program import Home, version_of
from tests.clients.table import Row
from tools.groq_standin import turns
from tools.groq_standin.turns import Call, Turn

_NOTES = {
    "structured": "Continue's command line requests no schemas and sends no images.",
    "image": "Continue's command line requests no schemas and sends no images.",
    "exhausted": "Continue repeats every 429 for a minute and a half, whatever its headers say.",
}
ROW = Row("Continue", "1.5.47", "`/v1/chat/completions`", _NOTES, frozenset({"exhausted"}))
_ANSWERED = ("answered", 1)
_REPETITIONS = 3
"""It repeats a 429 for a minute and a half by its own decision, without a look at `x-should-retry`."""


@pytest.mark.usefixtures("agents")
def test_the_version_is_that_of_the_lock() -> None:
    assert version_of("@continuedev/cli") == "1.5.47"


@pytest.mark.cell("text", "stream")
async def test_a_text(agent_home: Home) -> None:
    done = await continue_cli(agent_home, f"Go. {turns.marker(Turn(reasoning='I greet.', content='Hello there.'))}")
    assert (done.status, done.output.strip(), done.statuses) == (0, "Hello there.", [200])
    assert done.at_groq[0]["request"]["stream"] is True
    assert await agent_home.ledger() == [_ANSWERED]


@pytest.mark.cell("tools")
async def test_two_files_are_read_at_once(agent_home: Home) -> None:
    agent_home.work.mkdir()
    for name in ("a.txt", "b.txt"):
        (agent_home.work / name).write_text(f"This is {name}.")
    calls = [Call("Read", {"filepath": name}) for name in ("a.txt", "b.txt")]
    script = turns.marker(Turn(reasoning="I read.", calls=calls), Turn(content="Both are read."))
    done = await continue_cli(agent_home, f"Read. {script}")
    assert (done.status, done.output.strip(), done.statuses) == (0, "Both are read.", [200, 200])
    answer, *results = done.messages()[-3:]
    assert [result["tool_call_id"] for result in results] == [call["id"] for call in answer["tool_calls"]]
    assert ["This is a.txt." in results[0]["content"], "This is b.txt." in results[1]["content"]] == [True, True]
    assert await agent_home.ledger() == [_ANSWERED] * 2


@pytest.mark.cell("history")
async def test_a_second_turn_contains_the_first(agent_home: Home) -> None:
    await continue_cli(agent_home, f"Hello. {turns.marker(Turn(reasoning='A greeting.', content='Good morning.'))}")
    done = await continue_cli(agent_home, "It is me again.", "--resume")
    assert [(message["role"], message["content"]) for message in done.messages()[-2:]] == [
        ("assistant", "Good morning."),
        ("user", "It is me again."),
    ]
    assert await agent_home.ledger() == [_ANSWERED] * 2


@pytest.mark.cell("cut")
async def test_a_cut_stream_is_an_error(agent_home: Home) -> None:
    done = await continue_cli(agent_home, "Count. [[standin:tokens count=9]] [[standin:cut after=3]]")
    assert (done.status, done.statuses) == (1, [200])
    assert "The model's answer was interrupted." in done.output + done.errors
    assert await agent_home.ledger() == [("cut", 1)]


@pytest.mark.cell("exhausted")
async def test_the_daily_limit_is_repeated_without_a_charge(exhausted_home: Home) -> None:
    assert (await continue_cli(exhausted_home, "Say hello")).status == 0
    done = await continue_cli(exhausted_home, "Say hello", posts=_REPETITIONS)
    assert set(done.statuses) == {429}
    assert len(done.statuses) >= _REPETITIONS
    assert done.at_groq == []
    assert await exhausted_home.ledger() == [_ANSWERED]
