"""Open WebUI, and the stand-in as a scripted model."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.agents.open_webui import OpenWebUI, running_open_webui
from tests.clients.gateway_log import recorded
from tests.clients.programs import cases
from tests.clients.programs.report import MODEL, WEATHER_FORMAT, WEATHER_TOOL, user
from tests.clients.table import Row
from tests.e2e.stack import Key, Stack

ROW = Row("Open WebUI", "0.12.4", "`/v1/chat/completions`")
_ANSWERED = ("answered", 1)
_SEVEN = "one two three four five six seven"


@pytest.fixture(scope="module")
def open_webui(clients_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenWebUI]:
    """Yield a running Open WebUI."""
    with running_open_webui(
        clients_stack.base_url, Key("", "sk_stk_none"), tmp_path_factory.mktemp("webui")
    ) as running:
        yield running


@pytest.fixture
async def key(clients_stack: Stack, open_webui: OpenWebUI) -> Key:
    """Return a new key, which Open WebUI uses."""
    key = await clients_stack.create_key()
    open_webui.connect(key)
    return key


async def _ledger(stack: Stack, key: Key) -> list[tuple[str, int]]:
    await stack.until_settled(key)
    return [(row["outcome"], row["charged"]) for row in stack.ledger(key)]


def _message(answer: Any) -> Any:
    return answer.json()["choices"][0]["message"]


@pytest.mark.usefixtures("key")
def test_the_models_are_offered(open_webui: OpenWebUI) -> None:
    assert {MODEL, cases.SEEING_MODEL} <= set(open_webui.models())


@pytest.mark.cell("text")
async def test_a_text(clients_stack: Stack, open_webui: OpenWebUI, key: Key) -> None:
    assert _message(open_webui.chat(MODEL, [user(cases.hello(key.secret))]))["content"] == _SEVEN
    assert await _ledger(clients_stack, key) == [_ANSWERED]


def _events(answer: Any) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def _text(events: list[Any]) -> str:
    deltas = [choice["delta"] for event in events for choice in event.get("choices", ())]
    return "".join(delta.get("content") or "" for delta in deltas)


@pytest.mark.cell("stream")
async def test_a_stream(clients_stack: Stack, open_webui: OpenWebUI, key: Key) -> None:
    answer = open_webui.chat(MODEL, [user(cases.hello(key.secret))], stream=True)
    assert _text(_events(answer)) == _SEVEN
    assert await _ledger(clients_stack, key) == [_ANSWERED]


@pytest.mark.cell("tools")
async def test_two_tools_are_called_at_once(clients_stack: Stack, open_webui: OpenWebUI, key: Key) -> None:
    question = user(cases.look_twice(key.secret))
    answer = _message(open_webui.chat(MODEL, [question], tools=[WEATHER_TOOL]))
    calls = [(call["id"], json.loads(call["function"]["arguments"])) for call in answer["tool_calls"]]
    results = [{"role": "tool", "tool_call_id": call, "content": cases.weather(**given)} for call, given in calls]
    after = open_webui.chat(MODEL, [question, answer, *results], tools=[WEATHER_TOOL])
    assert [given["city"] for _, given in calls] == list(cases.CITIES)
    assert _message(after)["content"] == "Both are sunny."
    assert await _ledger(clients_stack, key) == [_ANSWERED] * 2


@pytest.mark.cell("history")
async def test_a_second_turn_contains_the_first(clients_stack: Stack, open_webui: OpenWebUI, key: Key) -> None:
    question = user(cases.first_of_two(key.secret))
    first = _message(open_webui.chat(MODEL, [question]))
    second = _message(open_webui.chat(MODEL, [question, first, user("It is me again.")]))
    assert (first["content"], second["content"]) == ("Good morning.", "Welcome back.")
    assert await _ledger(clients_stack, key) == [_ANSWERED] * 2


@pytest.mark.cell("structured")
def test_an_answer_follows_a_schema(open_webui: OpenWebUI, key: Key) -> None:
    question = user(cases.weather_question(key.secret))
    answer = _message(open_webui.chat(MODEL, [question], response_format=WEATHER_FORMAT))
    assert json.loads(answer["content"]) == {"city": "stand-in", "days": 1}


@pytest.mark.cell("image")
def test_an_image(open_webui: OpenWebUI, key: Key) -> None:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{cases.png_base64()}"}}
    question: Any = {"role": "user", "content": [{"type": "text", "text": cases.hello(key.secret)}, picture]}
    assert _message(open_webui.chat(cases.SEEING_MODEL, [question]))["content"] == _SEVEN


@pytest.mark.cell("cut")
async def test_a_cut_stream_is_an_error(clients_stack: Stack, open_webui: OpenWebUI, key: Key) -> None:
    events = _events(open_webui.chat(MODEL, [user(cases.cut(key.secret))], stream=True))
    assert _text(events) == "one two three"
    assert events[-1]["error"]["message"] == "The model's answer was interrupted. Try again in a moment."
    assert await _ledger(clients_stack, key) == [("cut", 1)]


@pytest.mark.cell("exhausted")
async def test_the_daily_limit_is_one_request(clients_stack: Stack, open_webui: OpenWebUI) -> None:
    key = await clients_stack.create_key(daily_limit=1)
    open_webui.connect(key)
    open_webui.chat(MODEL, [user(cases.hello(key.secret))]).raise_for_status()
    with recorded(clients_stack, "open-webui") as requests:
        answer = open_webui.chat(MODEL, [user(cases.hello(key.secret))])
    assert answer.status_code == 429
    assert "Resets at 00:00 UTC" in answer.text
    assert [status for method, _, status in requests if method == "POST"] == [429]
    assert await _ledger(clients_stack, key) == [_ANSWERED]
