"""Codex with its default tools, and the stand-in as a scripted model."""

import json
from pathlib import Path

import pytest

from tests.clients.agents.codex import codex
from tests.clients.agents.program import Home, version_of
from tests.clients.programs import cases
from tests.clients.table import Row
from tools.groq_standin import turns
from tools.groq_standin.turns import Call, Turn

_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
_NOTES = {"cut": "Codex repeats a cut stream up to `stream_max_retries` times before it reports the error."}
ROW = Row("Codex", "0.171.0", "`/v1/responses`", _NOTES)
_ANSWERED = ("answered", 1)


@pytest.mark.usefixtures("agents")
def test_the_version_is_that_of_the_lock() -> None:
    assert version_of("@openai/codex") == "0.171.0"


@pytest.mark.cell("text", "stream")
async def test_a_text_with_reasoning(agent_home: Home) -> None:
    done = await codex(agent_home, f"Go. {turns.marker(Turn(reasoning='I greet.', content='Hello there.'))}")
    assert (done.status, done.output.strip(), done.statuses) == (0, "Hello there.", [200])
    assert "I greet." in done.errors
    assert done.at_groq[0]["request"]["stream"] is True
    assert await agent_home.ledger() == [_ANSWERED]


@pytest.mark.cell("tools")
async def test_two_commands_at_once(agent_home: Home) -> None:
    calls = [Call("exec_command", {"cmd": f"echo {word} > {word}.txt; echo {word} is written"}) for word in ("a", "b")]
    script = turns.marker(Turn(reasoning="I write.", calls=calls), Turn(content="Both are written."))
    done = await codex(agent_home, f"Write. {script}")
    assert (done.status, done.output.strip(), done.statuses) == (0, "Both are written.", [200, 200])
    assert sorted(path.name for path in agent_home.work.iterdir()) == ["a.txt", "b.txt"]
    answer, *results = done.messages()[-3:]
    assert answer["reasoning"] == "I write."
    assert [result["tool_call_id"] for result in results] == [call["id"] for call in answer["tool_calls"]]
    assert ["is written" in result["content"] for result in results] == [True, True]
    assert await agent_home.ledger() == [_ANSWERED] * 2


async def test_a_tool_of_a_namespace_is_routed(agent_home: Home) -> None:
    call = Call("multi_agent_v1__close_agent", {"target": "no-agent"})
    done = await codex(agent_home, f"Close. {turns.marker(Turn(calls=[call]), Turn(content='Closed.'))}")
    assert done.output.strip() == "Closed."
    assert "invalid agent id" in done.messages()[-1]["content"]


async def test_a_model_that_calls_an_unknown_tool_is_told_so(agent_home: Home) -> None:
    done = await codex(agent_home, f"Go. {turns.marker(Turn(calls=[Call('no_tool')]), Turn(content='Sorry.'))}")
    assert done.output.strip() == "Sorry."
    assert done.messages()[-1]["content"] == "unsupported call: no_tool"


async def test_a_custom_tool_of_openais_own_models(agent_home: Home) -> None:
    source = "text(await tools.exec_command({cmd: 'echo from code mode'}))"
    script = turns.marker(Turn(calls=[Call("functions__exec", {"input": source})]), Turn(content="Done."))
    done = await codex(agent_home, f"Go. {script}", model="gpt-6.2-sol")
    assert (done.status, done.output.strip()) == (0, "Done.")
    assert "from code mode" in done.messages()[-1]["content"]


@pytest.mark.cell("history")
async def test_a_second_turn_contains_the_first(agent_home: Home) -> None:
    await codex(agent_home, f"Hello. {turns.marker(Turn(reasoning='A greeting.', content='Good morning.'))}")
    done = await codex(agent_home, "It is me again.", "resume", "--last")
    assert [(message["role"], message["content"]) for message in done.messages()[-2:]] == [
        ("assistant", "Good morning."),
        ("user", "It is me again."),
    ]
    assert await agent_home.ledger() == [_ANSWERED] * 2


@pytest.mark.cell("structured")
async def test_an_answer_with_a_schema(agent_home: Home) -> None:
    schema = agent_home.folder / "schema.json"
    schema.write_text(json.dumps(_SCHEMA))
    script = turns.marker(Turn(content='{"city":"Paris"}'))
    done = await codex(agent_home, f"Where? {script}", "--output-schema", str(schema))
    assert json.loads(done.output) == {"city": "Paris"}
    # Groq refuses JSON formats together with tools, so the model reads the schema.
    assert "response_format" not in done.at_groq[0]["request"]
    assert json.dumps(_SCHEMA, separators=(",", ":")) in done.messages()[-1]["content"]


def _picture(folder: Path) -> str:
    path = folder / "red.png"
    path.write_bytes(cases.png())
    return str(path)


@pytest.mark.cell("image")
async def test_an_image(agent_home: Home) -> None:
    picture = _picture(agent_home.folder)
    done = await codex(agent_home, "What is it?", "-i", picture, model=cases.SEEING_MODEL)
    assert done.status == 0
    assert [part["type"] for part in done.messages()[-1]["content"]].count("image_url") == 1


async def test_an_image_for_a_model_that_reads_none_is_refused_once(agent_home: Home) -> None:
    done = await codex(agent_home, "What is it?", "-i", _picture(agent_home.folder))
    assert (done.status, done.statuses) == (1, [400])
    assert "does not read images" in done.errors
    assert await agent_home.ledger() == []


@pytest.mark.cell("cut")
async def test_a_cut_stream_is_an_error(agent_home: Home) -> None:
    done = await codex(agent_home, "Count. [[standin:tokens count=9]] [[standin:cut after=3]]")
    # As configured, it tries once more.
    assert (done.status, done.statuses) == (1, [200, 200])
    assert "The model's answer was interrupted." in done.errors
    assert await agent_home.ledger() == [("cut", 1)] * 2


@pytest.mark.parametrize(
    ("marker", "status", "words"),
    [
        ("length tokens=3", 200, "Incomplete response returned, reason: max_output_tokens"),
        ("context_length", 400, "ran out of room in the model's context window"),
    ],
)
async def test_permanent_errors_are_not_repeated(agent_home: Home, marker: str, status: int, words: str) -> None:
    done = await codex(agent_home, f"Go. [[standin:{marker}]]")
    assert (done.status, done.statuses) == (1, [status])
    assert words in done.errors


@pytest.mark.cell("exhausted")
async def test_the_daily_limit_ends_the_run_at_once(exhausted_home: Home) -> None:
    assert (await codex(exhausted_home, "Say hello")).status == 0
    done = await codex(exhausted_home, "Say hello")
    assert (done.status, done.statuses, done.at_groq) == (1, [429], [])
    assert "hit your usage limit. Try again at" in done.errors
    assert await exhausted_home.ledger() == [_ANSWERED]
