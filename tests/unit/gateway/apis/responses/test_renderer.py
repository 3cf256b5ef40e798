"""Answers become responses, whatever Groq sends."""

import json
import time
from typing import Any

import pytest

from services.common.errors import DeadlineExceeded, ErrorDetails, InvalidRequest, Throttled, Unavailable
from services.gateway.apis.translation.reasoning import ReasoningDecoder
from services.gateway.http.errors import HTTPError, http_error
from services.gateway.requests.types import JSONObject
from tests.unit.gateway.apis.responses.answers import (
    MODEL,
    begun,
    call,
    chunk,
    completion,
    events_of,
    fold,
    parse,
    streamed,
    usage,
)


def _both(finish: str | None = "stop", counts: JSONObject | None = None, /, **message: Any) -> JSONObject:
    """Return the response to a message, which must be the same when it is streamed."""
    body: JSONObject = json.loads(begun().completion(completion(finish=finish, usage=counts, **message)))
    stream = streamed(begun(stream=True), [[chunk(**message)], [chunk(finish=finish, usage=counts)]])
    assert fold(stream) == body
    return body


def _types(stream: bytes) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events_of(stream)]


_TEXT = {"type": "output_text", "text": "a", "annotations": [], "logprobs": []}


def test_whole_answers_are_completed() -> None:
    response = _both(content="a")
    assert response["status"] == "completed"
    assert response["completed_at"] == response["created_at"] + 1
    assert (response["error"], response["incomplete_details"]) == (None, None)


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_incomplete_answers(finish: str, reason: str) -> None:
    response = _both(finish, reasoning="r", content="a")
    assert response["status"] == "incomplete"
    assert response["completed_at"] is None
    assert response["incomplete_details"] == {"reason": reason}
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]


@pytest.mark.parametrize("finish", ["stop", "tool_calls", "function_call"])
def test_calls_are_completed(finish: str) -> None:
    response = _both(finish, content=None, tool_calls=[call(0, "1", "f", "{}")])
    assert response["status"] == "completed"
    assert [item["type"] for item in response["output"]] == ["function_call"]


@pytest.mark.parametrize("message", [{}, {"content": ""}, {"content": None, "tool_calls": []}, {"reasoning": ""}])
def test_an_empty_answer_is_an_empty_message(message: JSONObject) -> None:
    assert _both(**message)["output"] == [
        {
            "id": "msg_A_0",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{**_TEXT, "text": ""}],
        }
    ]


def test_reasoning_alone_is_the_only_item() -> None:
    response = _both("length", content="", reasoning="r")
    assert [(item["type"], item["status"]) for item in response["output"]] == [("reasoning", "incomplete")]


def test_usage() -> None:
    assert _both("stop", usage(11, 9, cached=5, reasoning=4), content="a")["usage"] == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 20,
    }
    assert _both("length", usage(1, 1), content="a")["usage"]["total_tokens"] == 2
    assert _both(content="a")["usage"] is None


@pytest.mark.parametrize("place", ["finishing", "extension", "after"])
def test_usage_is_found_wherever_it_is(place: str) -> None:
    counts = usage(1, 2)
    last = {
        "finishing": [chunk(finish="stop", usage=counts)],
        "extension": [json.dumps(json.loads(chunk(finish="stop")) | {"x_groq": {"usage": counts}}).encode()],
        "after": [chunk(finish="stop"), json.dumps({"choices": [], "usage": counts}).encode()],
    }[place]
    assert fold(streamed(begun(), [[chunk(content="a")], last]))["usage"]["total_tokens"] == 3


def test_encrypted_reasoning_is_there_when_asked_for() -> None:
    members: JSONObject = {"include": ["reasoning.encrypted_content"], "store": False}
    response = fold(streamed(begun(**members), [[chunk(reasoning='"é')], [chunk(content="a", finish="stop")]]))
    item = response["output"][0]
    assert item["summary"] == [{"type": "summary_text", "text": '"é'}]
    assert ReasoningDecoder().decode(item["encrypted_content"]) == '"é'
    again = parse(input=[{**item, "summary": []}, response["output"][1]]).chat.members["messages"]
    assert again == [{"role": "assistant", "content": "a", "reasoning": '"é'}]


def test_nothing_is_written_before_the_first_output() -> None:
    renderer = begun()
    assert renderer.events([chunk(role="assistant", content=""), b'{"choices":[]}']) == b""
    assert _types(renderer.events([chunk(content="a")]))[:3] == ["created", "in_progress", "output_item.added"]


def test_deltas_that_arrived_together_are_one_event() -> None:
    stream = streamed(begun(), [[chunk(content="a"), chunk(content="b")], [chunk(content="c", finish="stop")]])
    deltas = [event["delta"] for event in events_of(stream) if event["type"] == "response.output_text.delta"]
    assert deltas == ["ab", "c"]


def test_reasoning_after_text_is_another_item() -> None:
    stream = streamed(
        begun(),
        [[chunk(reasoning="r"), chunk(content="a"), chunk(reasoning="s")], [chunk(content="b", finish="stop")]],
    )
    assert [item["id"] for item in fold(stream)["output"]] == ["rs_A_0", "msg_A_1", "rs_A_2", "msg_A_3"]


def test_calls_in_pieces_are_put_together() -> None:
    pieces = [
        [call(0, "1", "f", "")],
        [call(0, None, None, '{"a"'), call(1, "2", "g", "{}")],
        [call(1, None, None, ""), call(0, None, None, ":1}")],
        [call(0, None, "ignored", None)],
    ]
    stream = streamed(begun(), [*([chunk(tool_calls=calls)] for calls in pieces), [chunk(finish="tool_calls")]])
    assert [(item["call_id"], item["name"], item["arguments"]) for item in fold(stream)["output"]] == [
        ("1", "f", '{"a":1}'),
        ("2", "g", "{}"),
    ]


def test_a_whole_call_is_sent_at_once() -> None:
    renderer = begun()
    events = _types(renderer.events([chunk(tool_calls=[call(0, "1", "f", '{"a":1}')])]))
    assert events[2:] == ["output_item.added", "function_call_arguments.delta"]


@pytest.mark.parametrize(
    ("calls", "output"),
    [
        ([call(None, "1", "f", "{}"), call(None, "2", "g", "{}")], [("1", "f", "{}"), ("2", "g", "{}")]),
        ([call(0, "1", "f", "{}"), call(0, "2", "g", "{}")], [("1", "f", "{}"), ("2", "g", "{}")]),
        ([call(None, None, "f", '{"a":'), call(None, None, None, "1}")], [("call_A_0", "f", '{"a":1}')]),
        ([call(0, "1", "f", "no JSON")], [("1", "f", "no JSON")]),
        ([call(0, "1", "f", None)], [("1", "f", "{}")]),
        ([{"index": 0, "id": "1"}], [("1", "", "{}")]),
        ([{}], [("call_A_0", "", "{}")]),
        ([None, 5, {"index": "0", "id": 5, "function": "f"}], [("call_A_0", "", "{}")]),
    ],
)
def test_odd_calls(calls: list[Any], output: list[tuple[str, str, str]]) -> None:
    response = _both("tool_calls", tool_calls=calls)
    assert [(item["call_id"], item["name"], item["arguments"]) for item in response["output"]] == output


@pytest.mark.parametrize(
    "odd",
    [
        b"{}",
        b'{"choices":null}',
        b'{"choices":[null]}',
        b'{"choices":[{"delta":null}]}',
        b'{"choices":[{"delta":{"content":5,"reasoning":[],"tool_calls":{}}}]}',
        b'{"choices":[{"index":1,"finish_reason":7}],"usage":"none"}',
    ],
)
def test_odd_chunks_are_ignored(odd: bytes) -> None:
    plain = streamed(begun(), [[chunk(content="a")], [chunk(finish="stop")]])
    assert streamed(begun(), [[odd], [chunk(content="a"), odd], [chunk(finish="stop")], [odd], []]) == plain
    assert json.loads(begun().completion(odd))["status"] == "completed"


@pytest.mark.parametrize("text", [b"", b"[]", b"{"])
def test_what_is_no_object_is_a_service_error(text: bytes) -> None:
    with pytest.raises(Unavailable):
        begun().events([text])
    with pytest.raises(Unavailable):
        begun().completion(text)


def test_a_stream_without_a_finish_reason_fails() -> None:
    response = fold(streamed(begun(), [[chunk(content="a")]]))
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")


def test_a_stream_without_output_is_whole() -> None:
    assert fold(streamed(begun(), [[chunk(finish="stop")]]))["status"] == "completed"


def test_a_successful_stream_ends_with_done() -> None:
    assert streamed(begun(), [[chunk(content="a", finish="stop")]]).endswith(b"}\n\ndata: [DONE]\n\n")


_FAILED = HTTPError(502, "The model provider failed.", "internal_error", code="upstream_cut")


@pytest.mark.parametrize("batches", [[], [[chunk(content="a")]]], ids=["before output", "after output"])
def test_failed_streams_say_so(batches: list[list[bytes]]) -> None:
    renderer = begun()
    stream = b"".join([*map(renderer.events, batches), renderer.stream_error(_FAILED)])
    assert not stream.endswith(b"[DONE]\n\n")
    response = fold(stream)
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "The model provider failed."}
    assert response["completed_at"] is None
    assert response["output"] == []


def test_failed_streams_keep_whole_items() -> None:
    renderer = begun()
    stream = renderer.events([chunk(reasoning="r"), chunk(content="a")]) + renderer.stream_error(_FAILED)
    assert [item["type"] for item in fold(stream)["output"]] == ["reasoning"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (http_error(Unavailable("x", reason="upstream_cut"), now=0), "server_error"),
        (http_error(DeadlineExceeded("x"), now=0), "server_error"),
        (http_error(Throttled("x"), now=0), "rate_limit_exceeded"),
        (http_error(InvalidRequest("x"), now=0), "invalid_prompt"),
        (
            http_error(InvalidRequest("x", details=ErrorDetails(code="context_length_exceeded")), now=0),
            "context_length_exceeded",
        ),
        (HTTPError(401, "x", "authentication_error", code="invalid_api_key"), "invalid_api_key"),
        (HTTPError(408, "x", "invalid_request_error"), "server_error"),
    ],
)
def test_codes_of_failed_responses(error: HTTPError, code: str) -> None:
    assert events_of(begun().stream_error(error))[-1]["response"]["error"]["code"] == code


def test_the_model_is_the_one_asked_for() -> None:
    assert json.loads(begun(model="alias").completion(completion(content="a")))["model"] == "alias"
    assert json.loads(begun(model=None).completion(completion(content="a")))["model"] == MODEL
    assert fold(streamed(begun(model=None), [[chunk(content="a", finish="stop")]]))["model"] == MODEL


def test_heartbeats_are_comments() -> None:
    assert begun().heartbeat() == b": keep-alive\n\n"
    assert begun().headers == {}


def test_an_event_costs_little() -> None:
    """About 1.3 µs on an idle machine; the whole path of an event takes about 60 µs."""
    chunks = [chunk(content=f" word{number}") for number in range(1_000)]
    taken = []
    for _ in range(5):
        renderer = begun(stream=True)
        began = time.process_time()
        for one in chunks:
            renderer.events([one])
        taken.append(time.process_time() - began)
    assert min(taken) / len(chunks) < 10e-6
