"""A script in a user message makes the stand-in a model that calls given functions, turn by turn."""

import httpx
import pytest

from tests.integration.groq_standin.standin_process import OSS, StandIn, deltas, payloads
from tools.groq_standin import turns
from tools.groq_standin.turns import Call, Turn

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
_TURNS = (
    Turn(
        reasoning="I look.",
        content="One moment.",
        calls=[Call("weather", {"city": "a [b] c", "days": 2}), Call("unknown", "not JSON")],
    ),
    Turn(content="It is sun", finish_reason="length"),
)


def _ask(standin: StandIn, *messages: dict[str, object], **members: object) -> httpx.Response:
    return standin.post({"model": OSS, "messages": messages, "tools": [WEATHER], **members})


def _user(text: str) -> dict[str, object]:
    return {"role": "user", "content": text}


def test_a_script_is_played_turn_by_turn(standin: StandIn) -> None:
    script = _user("Go. " + turns.marker(*_TURNS))
    first = _ask(standin, script).json()["choices"][0]
    assert first["finish_reason"] == "tool_calls"
    message = first["message"]
    assert (message["reasoning"], message["content"]) == ("I look.", "One moment.")
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "weather", "arguments": '{"city":"a [b] c","days":2}'},
        {"name": "unknown", "arguments": "not JSON"},
    ]
    assert len({call["id"] for call in message["tool_calls"]}) == 2
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in message["tool_calls"]]
    # A client may send more user text with the results.
    second = _ask(standin, script, message, *results, _user("Go on.")).json()["choices"][0]
    assert (second["message"]["content"], second["finish_reason"]) == ("It is sun", "length")
    third = _ask(standin, script, message, *results, second["message"], _user("Thanks")).json()["choices"][0]
    assert third["message"]["content"].endswith("You said: Thanks")


def test_a_streamed_turn_is_the_same_and_may_be_cut(standin: StandIn) -> None:
    script = turns.marker(*_TURNS)
    whole = _ask(standin, _user(script)).json()
    streamed = _ask(standin, _user(script), stream=True).text
    assert (deltas(streamed, "reasoning"), deltas(streamed, "content")) == ("I look.", "One moment.")
    chunks = [chunk for chunk in payloads(streamed) if chunk != "[DONE]"]
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert [(call.pop("index"), call["function"]) for call in calls] == [
        (index, call["function"]) for index, call in enumerate(whole["choices"][0]["message"]["tool_calls"])
    ]
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_a_played_turn_may_be_cut(standin: StandIn) -> None:
    text = f"{turns.marker(*_TURNS)} [[standin:cut after=5]]"
    cut = standin.raw(text, stream=True).decode()
    assert "weather" in cut
    assert "unknown" not in cut
    whole = standin.say(turns.marker(*_TURNS)).json()["usage"]["completion_tokens"]
    assert 0 < standin.entry(text)["usage"]["completion_tokens"] < whole


@pytest.mark.parametrize("turns_", ["1", "%5B1%5D", '%5B{"text":"hi"}%5D', "%5B"])
def test_a_script_with_a_mistake_is_refused(standin: StandIn, turns_: str) -> None:
    refused = standin.say(f"[[standin:play turns={turns_}]]")
    assert refused.status_code == 400
    assert "turns" in refused.json()["error"]["message"]
