"""Claude Code, and the stand-in as a scripted model."""

import json

import pytest

from tests.clients.agents.claude_code import claude
from tests.clients.agents.program import Home, version_of
from tests.clients.programs import cases
from tests.clients.table import Row
from tools.groq_standin import turns
from tools.groq_standin.turns import Call, Turn

_NOTES = {
    "cut": "Claude Code repeats a cut stream, at last as a request without a stream, before it reports the error."
}
ROW = Row("Claude Code", "2.1.332", "`/v1/messages`", _NOTES)
_ANSWERED = ("answered", 1)
_MESSAGES = ("POST", "/api/v1/messages", 200)
_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.usefixtures("agents")
def test_the_version_is_that_of_the_lock() -> None:
    assert version_of("@anthropic-ai/claude-code") == "2.1.332"


@pytest.mark.cell("text", "stream")
@pytest.mark.parametrize("bare", [True, False])
async def test_a_text(agent_home: Home, bare: bool) -> None:
    script = turns.marker(Turn(reasoning="I greet.", content="Hello there."))
    done = await claude(agent_home, f"Go. {script}", "--output-format", "json", bare=bare)
    shown = json.loads(done.output)
    (sent,) = done.at_groq
    assert (done.status, shown["result"], done.requests) == (0, "Hello there.", [_MESSAGES])
    assert shown["usage"]["input_tokens"] == sent["usage"]["prompt_tokens"]
    assert shown["usage"]["output_tokens"] == sent["usage"]["completion_tokens"]
    assert sent["request"]["stream"] is True
    assert await agent_home.ledger() == [_ANSWERED]


@pytest.mark.cell("tools")
async def test_two_commands_at_once_whose_results_arrive_in_the_order_of_the_calls(agent_home: Home) -> None:
    calls = [
        Call("Bash", {"command": "sleep 0.5; echo slow", "description": "Wait"}),
        Call("Bash", {"command": "echo fast", "description": "Hurry"}),
    ]
    script = turns.marker(Turn(reasoning="I run.", calls=calls), Turn(content="Both ran."))
    done = await claude(agent_home, f"Run. {script}", "--allowedTools", "Bash")
    assert (done.status, done.output.strip(), done.statuses) == (0, "Both ran.", [200, 200])
    answer, *results = done.messages()[-3:]
    assert answer["reasoning"] == "I run."
    assert [(result["tool_call_id"], result["content"]) for result in results] == [
        (answer["tool_calls"][0]["id"], "slow"),
        (answer["tool_calls"][1]["id"], "fast"),
    ]
    assert await agent_home.ledger() == [_ANSWERED] * 2


async def test_a_deferred_tool_is_shown_once_it_is_loaded(agent_home: Home) -> None:
    script = turns.marker(
        Turn(calls=[Call("ToolSearch", {"query": "select:WebFetch"})]),
        Turn(calls=[Call("WebFetch", {"url": "http://127.0.0.1:1/", "prompt": "Read."})]),
        Turn(content="Not permitted."),
    )
    done = await claude(agent_home, f"Fetch. {script}", bare=False)
    assert (done.status, done.output.strip()) == (0, "Not permitted.")
    offered = [[tool["function"]["name"] for tool in entry["request"]["tools"]] for entry in done.at_groq]
    assert ["WebFetch" in names for names in offered] == [False, True, True]


@pytest.mark.cell("history")
async def test_a_second_turn_contains_the_first(agent_home: Home) -> None:
    await claude(agent_home, f"Hello. {turns.marker(Turn(reasoning='A greeting.', content='Good morning.'))}")
    done = await claude(agent_home, "It is me again.", "--continue")
    answer, question = done.messages()[-2:]
    assert (answer["content"], answer["reasoning"]) == ("Good morning.", "A greeting.")
    assert question == {"role": "user", "content": "It is me again."}
    assert await agent_home.ledger() == [_ANSWERED] * 2


@pytest.mark.cell("structured")
async def test_an_answer_with_a_schema(agent_home: Home) -> None:
    # Claude Code itself makes a schema a tool.
    script = turns.marker(Turn(calls=[Call("StructuredOutput", {"city": "Paris"})]), Turn(content="Done."))
    options = ("--json-schema", json.dumps(_SCHEMA), "--output-format", "json")
    done = await claude(agent_home, f"Where? {script}", *options)
    assert json.loads(done.output)["structured_output"] == {"city": "Paris"}


def _read(home: Home) -> str:
    path = home.folder / "red.png"
    path.write_bytes(cases.png())
    return f"What is it? {turns.marker(Turn(calls=[Call('Read', {'file_path': str(path)})]), Turn(content='Red.'))}"


@pytest.mark.cell("image")
async def test_an_image(agent_home: Home) -> None:
    done = await claude(agent_home, _read(agent_home), "--allowedTools", "Read", ANTHROPIC_MODEL=cases.SEEING_MODEL)
    assert (done.status, done.output.strip(), done.statuses) == (0, "Red.", [200, 200])
    assert [part["type"] for part in done.messages()[-1]["content"]] == ["text", "image_url"]


async def test_an_image_for_a_model_that_reads_none_is_left_out_by_the_client(agent_home: Home) -> None:
    done = await claude(agent_home, _read(agent_home), "--allowedTools", "Read")
    assert (done.status, done.output.strip(), done.statuses) == (0, "Red.", [200, 400, 200])
    assert "Image removed" in done.messages()[-1]["content"]
    assert await agent_home.ledger() == [_ANSWERED] * 2


@pytest.mark.cell("cut")
async def test_a_cut_stream_is_an_error(agent_home: Home) -> None:
    done = await claude(agent_home, "Count. [[standin:tokens count=9]] [[standin:cut after=3]]")
    assert done.status == 1
    assert "The model's answer was interrupted." in done.output
    # It repeats the request by its own decision, at last without a stream, which is then an ordinary 502.
    assert done.at_groq[-1]["request"].get("stream") is not True
    rows = await agent_home.ledger()
    assert len(rows) == len(done.at_groq) == len(done.statuses)
    assert rows[0] == ("cut", 1)


async def test_a_prompt_that_is_too_long_is_reported_as_such(agent_home: Home) -> None:
    done = await claude(agent_home, "Go. [[standin:context_length]]")
    assert (done.status, done.statuses) == (1, [400])
    assert done.output.startswith("Prompt is too long")


async def test_an_answer_at_its_maximum_is_continued(agent_home: Home) -> None:
    done = await claude(agent_home, "Go. [[standin:length tokens=3]]", CLAUDE_CODE_MAX_OUTPUT_TOKENS="16384")
    assert (done.status, done.statuses) == (0, [200, 200])


async def test_the_default_models_answer_by_aliases(agent_home: Home) -> None:
    done = await claude(agent_home, "Say hello", bare=False, ANTHROPIC_MODEL="", ANTHROPIC_DEFAULT_HAIKU_MODEL="")
    assert (done.status, done.statuses) == (0, [200])
    assert done.at_groq[0]["model"] == "openai/gpt-oss-120b"


async def test_a_key_as_x_api_key(agent_home: Home) -> None:
    secret = agent_home.key.secret
    done = await claude(agent_home, "Say hello", ANTHROPIC_AUTH_TOKEN="", ANTHROPIC_API_KEY=secret)
    assert (done.status, done.statuses) == (0, [200])


async def test_a_wrong_key_is_refused_once(agent_home: Home) -> None:
    done = await claude(agent_home, "Say hello", ANTHROPIC_AUTH_TOKEN="sk_stk_wrong")
    assert (done.status, done.statuses) == (1, [401])
    assert "Failed to authenticate" in done.output


async def test_tokens_are_counted_without_a_charge(agent_home: Home) -> None:
    done = await claude(agent_home, "/context", bare=False)
    assert done.status == 0
    assert "131.1k" in done.output
    assert set(done.requests) == {("POST", "/api/v1/messages/count_tokens", 200)}
    assert await agent_home.ledger() == []


async def test_models_are_discovered(agent_home: Home) -> None:
    environment = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "", "CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY": "1"}
    done = await claude(agent_home, "Say hello", bare=False, **environment)
    assert done.status == 0
    assert ("GET", "/api/v1/models", 200) in done.requests


@pytest.mark.cell("exhausted")
async def test_the_daily_limit_ends_the_run_at_once(exhausted_home: Home) -> None:
    assert (await claude(exhausted_home, "Say hello")).status == 0
    done = await claude(exhausted_home, "Say hello")
    assert (done.status, done.statuses, done.at_groq) == (1, [429], [])
    assert "Resets at 00:00 UTC" in done.output
    assert await exhausted_home.ledger() == [_ANSWERED]
