"""Real client packages of `/v1/responses`, `/v1/messages` and `/v1/completions` against the running stack."""

from typing import Any

import pytest

from tests.clients.matrix import Run, clients_that, surface_clients_that
from tests.clients.programs import cases

_SEVEN = "one two three four five six seven"
_ANSWERED = ("answered", 1)


def _clients(scenario: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("run", surface_clients_that(scenario), ids=str, indirect=True)


def _all_clients(scenario: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("run", clients_that(scenario), ids=str, indirect=True)


@_clients("text")
def test_the_client_has_the_version_that_its_set_pins(run: Run) -> None:
    assert run.version.startswith(run.client.version)


@pytest.mark.cell("text")
@_clients("text")
async def test_a_text(run: Run) -> None:
    assert run.seen("text") == {"text": _SEVEN}
    assert await run.ledger("text") == [_ANSWERED]


@pytest.mark.cell("stream")
@_clients("stream")
async def test_a_stream(run: Run) -> None:
    seen = run.seen("stream")
    assert "".join(seen["pieces"]) == seen["text"] == _SEVEN
    assert seen.get("output_tokens", 7) == 7
    (sent,) = await run.requests_at_groq("stream")
    assert sent["stream"] is True
    assert await run.ledger("stream") == [_ANSWERED]


@pytest.mark.cell("tools")
@_all_clients("tools")
async def test_two_tools_are_called_at_once_and_their_results_are_sent_back_in_order(run: Run) -> None:
    calls: list[dict[str, Any]] = [{"city": city, "days": days} for days, city in enumerate(cases.CITIES, 1)]
    assert run.seen("tools") == {"calls": calls, "text_after": "Both are sunny."}
    _, second = await run.requests_at_groq("tools")
    answer, *results = second["messages"][-3:]
    assert [call["function"]["name"] for call in answer["tool_calls"]] == ["get_weather"] * 2
    assert [result["tool_call_id"] for result in results] == [call["id"] for call in answer["tool_calls"]]
    assert [_text(result) for result in results] == [cases.weather(**call) for call in calls]
    assert answer.get("reasoning") == ("I look twice." if run.client.keeps_reasoning else None)
    assert await run.ledger("tools") == [_ANSWERED] * 2


@pytest.mark.cell("history")
@_all_clients("history")
async def test_a_second_turn_contains_the_first(run: Run) -> None:
    assert run.seen("history") == {"text": "Good morning.", "text_after": "Welcome back."}
    _, second = await run.requests_at_groq("history")
    said = [(message["role"], _text(message)) for message in second["messages"][-2:]]
    assert said == [("assistant", "Good morning."), ("user", "It is me again.")]
    assert await run.ledger("history") == [_ANSWERED] * 2


@pytest.mark.cell("structured")
@_clients("structured")
async def test_an_answer_follows_a_schema(run: Run) -> None:
    assert run.seen("structured") == {"parsed": {"city": "stand-in", "days": 1}}
    (sent,) = await run.requests_at_groq("structured")
    is_tool = bool(sent.get("tools")) and sent["tool_choice"] != "auto"
    assert is_tool or sent["response_format"]["type"] == "json_schema"
    assert await run.ledger("structured") == [_ANSWERED]


@pytest.mark.cell("image")
@_all_clients("image")
async def test_an_image(run: Run) -> None:
    assert run.seen("image") == {"text": _SEVEN}
    (sent,) = await run.requests_at_groq("image")
    (picture,) = [part for part in sent["messages"][-1]["content"] if part["type"] == "image_url"]
    kind, _, data = picture["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64"
    # Another zlib may compress the same pixels differently.
    assert data[:40] == cases.png_base64()[:40]
    assert await run.ledger("image") == [_ANSWERED]


@pytest.mark.cell("cut")
@_clients("cut")
async def test_a_cut_stream_is_an_error(run: Run) -> None:
    seen = run.seen("cut")
    assert "".join(seen["pieces"]) == "one two three"
    # Without an exception, the end has no finish reason.
    assert bool(seen["error"]["classes"]) == run.client.sees_a_cut
    assert run.client.sees_a_cut or seen["finish_reason"] is None
    assert await run.ledger("cut") == [("cut", 1)]


@pytest.mark.cell("exhausted")
@_clients("exhausted")
async def test_the_daily_limit_is_an_error_and_repeated_only_by_clients_that_repeat_every_429(run: Run) -> None:
    seen = run.seen("exhausted")
    assert seen["first"] == {"text": _SEVEN}
    assert seen["second"]["classes"]
    assert run.chats.count(429) == run.client.attempts_at_the_limit
    assert await run.ledger("exhausted") == [_ANSWERED]


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
