"""Streams have Groq's chunks, and usage in all of its three places."""

import pytest

from tests.integration.groq_standin.standin_process import OSS, QWEN, StandIn, deltas, http_chunks, payloads

USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def _usages(body: str) -> dict[str, object]:
    chunks = payloads(body)[:-1]
    finish = next(chunk for chunk in chunks if chunk["choices"] and chunk["choices"][0]["finish_reason"])
    found = {"x_groq": finish["x_groq"].get("usage"), "top": finish.get("usage")}
    found["last"] = chunks[-1]["usage"] if not chunks[-1]["choices"] else None
    return {place: usage for place, usage in found.items() if usage}


def test_the_first_chunk_names_role_request_and_seed(standin: StandIn) -> None:
    response = standin.say("hi", stream=True, seed=5)
    first = payloads(response.text)[0]
    assert response.headers["content-type"] == "text/event-stream"
    assert list(first) == ["id", "object", "created", "model", "system_fingerprint", "choices", "x_groq"]
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["x_groq"] == {"id": response.headers["x-request-id"], "seed": 5}


def test_x_groq_is_on_the_first_and_the_finish_chunk_only(standin: StandIn) -> None:
    chunks = payloads(standin.say("hi", **USAGE).text)
    marked = [index for index, chunk in enumerate(chunks) if "x_groq" in chunk]
    assert marked == [0, len(chunks) - 3]
    assert chunks[-1] == "[DONE]"


def test_usage_comes_in_three_places_and_agrees(standin: StandIn) -> None:
    found = _usages(standin.say("hi", **USAGE).text)
    assert list(found) == ["x_groq", "top", "last"]
    assert found["x_groq"] == found["top"] == found["last"]


def test_the_extra_usage_chunk_is_sent_only_on_request(standin: StandIn) -> None:
    assert list(_usages(standin.say("hi", stream=True).text)) == ["x_groq", "top"]
    last = payloads(standin.say("hi", **USAGE).text)[-2]
    assert list(last)[-3:] == ["choices", "usage", "service_tier"]


@pytest.mark.parametrize("place", ["x_groq", "top", "last"])
def test_usage_can_be_limited_to_one_place(standin: StandIn, place: str) -> None:
    assert list(_usages(standin.say(f"[[standin:usage only={place}]]", **USAGE).text)) == [place]


def test_usage_can_be_left_out_and_is_still_in_the_journal(standin: StandIn) -> None:
    text = "no usage [[standin:usage only=none]]"
    assert _usages(standin.say(text, **USAGE).text) == {}
    assert standin.entry(text)["usage"]["total_tokens"] > 0


def test_a_stream_has_the_text_and_cost_of_the_whole_answer(standin: StandIn) -> None:
    whole, streamed = standin.say("alike").json(), standin.say("alike", stream=True).text
    message = whole["choices"][0]["message"]
    assert deltas(streamed, "content") == message["content"]
    assert deltas(streamed, "reasoning") == message["reasoning"]
    assert _usages(streamed)["top"] == whole["usage"]


def test_only_gpt_oss_names_the_channel_of_its_reasoning(standin: StandIn) -> None:
    text = "[[standin:reasoning tokens=2]]"
    assert deltas(standin.say(text, model=OSS, stream=True).text, "channel") == "analysisanalysis"
    qwen = standin.say(text, model=QWEN, stream=True).text
    assert deltas(qwen, "channel") == ""
    assert deltas(qwen, "reasoning") == "The user"


def test_a_tool_call_is_sent_whole_in_one_chunk(standin: StandIn) -> None:
    chunks = payloads(standin.say("[[standin:tool_call]]", model=QWEN, stream=True).text)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": None}
    [call] = chunks[1]["choices"][0]["delta"]["tool_calls"]
    assert list(call) == ["id", "type", "function", "index"]
    assert chunks[2]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_burst_is_one_write(standin: StandIn) -> None:
    written = http_chunks(standin.raw("[[standin:tokens count=6]] [[standin:burst size=4]]", stream=True))
    assert [part.count(b"data: ") for part in written if part] == [4, 4, 1]


def test_a_drip_splits_inside_lines_and_characters(standin: StandIn) -> None:
    written = http_chunks(standin.raw("[[standin:drip]]", stream=True, model=QWEN))
    broken = [part for part in written if "\ufffd" in part.decode(errors="replace")]
    assert broken
    assert any(not part.endswith(b"\n") for part in written if part)
    assert "🦔🚀" in deltas(b"".join(written).decode(), "content")


def test_a_drip_without_a_stream_loses_nothing(standin: StandIn) -> None:
    assert "🦔🚀" in standin.say("[[standin:drip]]", model=QWEN).json()["choices"][0]["message"]["content"]


def test_a_slow_answer_waits_as_long_as_requested(standin: StandIn) -> None:
    for stream in (True, False):
        text = f"slow {stream} [[standin:slow headers_ms=20 first_ms=60 token_ms=5]] [[standin:tokens count=5]]"
        standin.say(text, stream=stream)
        entry = standin.entry(text)
        assert entry["ended_at"] - entry["received_at"] >= 0.1 - 0.005
        assert entry["mode"] == "slow+tokens"


def test_a_stream_of_many_tokens_arrives_whole(standin: StandIn) -> None:
    text = "[[standin:tokens count=2000]]"
    chunks = payloads(standin.say(text, stream=True).text)
    assert len(chunks) == 2003
    assert standin.entry(text)["events_sent"] == 2003


def test_a_forced_length_ends_with_length(standin: StandIn) -> None:
    body = standin.say("[[standin:length tokens=2]]", stream=True, model=QWEN).text
    assert deltas(body, "content") == "Hello from"
    assert payloads(body)[-2]["choices"][0]["finish_reason"] == "length"
