"""Groq's stream events as clients receive them."""

import copy
import json
from itertools import combinations
from typing import Any

import pytest

from services.inference.chat import Usage, UsageSource
from services.inference.groq.events import EventShaper, shape_completion

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "queue_time": 0.1}
PLACES = ("top", "x_groq", "last")
Stream = list[dict[str, Any]]


def chunk(choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Return one of Groq's chunks."""
    frame = {"id": "chatcmpl-groq", "object": "chat.completion.chunk", "created": 5, "model": "openai/gpt-oss-20b"}
    return {**frame, "system_fingerprint": "fp_1", "choices": choices, **more}


def delta(finish_reason: str | None = None, index: int = 0, **members: Any) -> dict[str, Any]:
    """Return one choice of a chunk."""
    return {"index": index, "delta": members, "logprobs": None, "finish_reason": finish_reason}


def groq_stream(places: tuple[str, ...]) -> Stream:
    """Return a stream of Groq's that reports usage in these places."""
    finishing = chunk([delta("stop")], x_groq={"id": "req_groq"})
    if "top" in places:
        finishing["usage"] = USAGE
    if "x_groq" in places:
        finishing["x_groq"]["usage"] = USAGE
    last = [chunk([], usage=USAGE, x_groq={"id": "req_groq", "usage": USAGE})] if "last" in places else []
    return [
        chunk([delta(role="assistant", content="")], x_groq={"id": "req_groq"}),
        chunk([delta(reasoning="hm")]),
        chunk([delta(content="Hello")]),
        finishing,
        *last,
    ]


def shaped(events: Stream, *, include_usage: bool) -> tuple[EventShaper, Stream]:
    """Return the shaper after a whole stream, and its output."""
    shaper = EventShaper(completion_id="chatcmpl-ours", model="asked-for", include_usage=include_usage)
    left = [one for event in copy.deepcopy(events) for one in shaper.shape(event)]
    return shaper, left + shaper.finish()


ALL_PLACES = [places for count in range(4) for places in combinations(PLACES, count)]


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("places", ALL_PLACES)
def test_usage_is_reported_where_clients_read_it_and_counted_once(places: tuple[str, ...], include_usage: bool) -> None:
    shaper, left = shaped(groq_stream(places), include_usage=include_usage)

    (finishing,) = [event for event in left if event["choices"] and event["choices"][0]["finish_reason"]]
    usage = USAGE if places else None
    assert finishing.get("x_groq") == ({"usage": usage} if usage else None)
    assert finishing.get("usage") == (None if include_usage else usage)
    last = [event for event in left if not event["choices"]]
    assert [event["usage"] for event in last] == ([usage] if usage and include_usage else [])
    source = UsageSource.REPORTED if usage else UsageSource.ESTIMATED
    counted = shaper.usage(body_bytes=40)
    assert counted == (Usage(7, 3, 10, source=source) if usage else Usage(10, 2, 12, source=source))


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("places", ALL_PLACES)
def test_every_chunk_has_our_id_and_the_requested_model(places: tuple[str, ...], include_usage: bool) -> None:
    shaper, left = shaped(groq_stream(places), include_usage=include_usage)

    assert {(event["id"], event["model"], event["object"], event["created"]) for event in left} == {
        ("chatcmpl-ours", "asked-for", "chat.completion.chunk", 5)
    }
    assert "groq" not in json.dumps(left).replace("x_groq", "")
    assert shaper.upstream_id == "req_groq"


def test_the_usage_chunk_comes_last() -> None:
    for places in ALL_PLACES[1:]:
        _, left = shaped(groq_stream(places), include_usage=True)
        assert left[-1]["choices"] == []


def test_a_finishing_chunk_waits_for_the_usage_that_follows() -> None:
    events = groq_stream(("last",))
    shaper = EventShaper(completion_id="c", model="m", include_usage=False)

    assert [len(shaper.shape(event)) for event in copy.deepcopy(events[:4])] == [1, 1, 1, 0]
    (finishing,) = [one for event in copy.deepcopy(events[4:]) for one in shaper.shape(event)]

    assert finishing["usage"] == USAGE
    assert shaper.finish() == []


def test_a_finishing_chunk_with_its_own_usage_does_not_wait() -> None:
    events = groq_stream(("x_groq", "last"))
    shaper = EventShaper(completion_id="c", model="m", include_usage=False)

    assert [len(shaper.shape(event)) for event in copy.deepcopy(events[:4])] == [1, 1, 1, 1]


def test_a_stream_that_ends_before_usage_still_sends_its_finish() -> None:
    _, left = shaped(groq_stream(())[:4], include_usage=True)

    assert left[-1]["choices"][0]["finish_reason"] == "stop"


def test_every_finishing_choice_is_sent() -> None:
    finishes = [chunk([delta("stop")]), chunk([delta("length", index=1)])]
    events = [*finishes, chunk([], usage=USAGE)]

    for include_usage in (False, True):
        _, left = shaped(events, include_usage=include_usage)
        assert [event["choices"][0]["index"] for event in left if event["choices"]] == [0, 1]


def test_usage_repeated_after_the_end_is_not_reported_again() -> None:
    events = [*groq_stream(PLACES), chunk([], usage=USAGE)]

    _, left = shaped(events, include_usage=True)

    assert len([event for event in left if not event["choices"]]) == 1


@pytest.mark.parametrize(
    ("members", "output_chunks"),
    [
        ({"role": "assistant", "content": ""}, 0),
        ({}, 0),
        ({"content": None, "reasoning": ""}, 0),
        ({"content": "x"}, 1),
        ({"reasoning": "x"}, 1),
        ({"tool_calls": [{"index": 0}]}, 1),
        ({"executed_tools": [{"index": 0}]}, 1),
    ],
)
def test_only_events_with_output_count_as_output_chunks(members: dict[str, Any], output_chunks: int) -> None:
    shaper, _ = shaped([chunk([delta(**members)])], include_usage=False)

    assert shaper.output_chunks == output_chunks


def test_a_non_streaming_answer_has_our_id_and_no_groq_member() -> None:
    members = {"id": "chatcmpl-groq", "model": "openai/x", "choices": [1], "x_groq": {"id": "req_1"}, "usage": USAGE}

    assert shape_completion(members, completion_id="chatcmpl-ours", model="asked-for") == {
        "id": "chatcmpl-ours",
        "model": "asked-for",
        "choices": [1],
        "usage": USAGE,
    }


@pytest.mark.parametrize(
    ("members", "usage"),
    [
        ({}, None),
        ({"prompt_tokens": 0}, Usage(source=UsageSource.REPORTED)),
        ({"prompt_tokens": 2, "completion_tokens": 3}, Usage(2, 3, 5, source=UsageSource.REPORTED)),
        ({"prompt_tokens": -1, "completion_tokens": "x"}, None),
        ({"prompt_tokens": True, "prompt_tokens_details": None}, None),
        (
            USAGE
            | {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}},
            Usage(7, 3, 10, 4, 2, UsageSource.REPORTED),
        ),
    ],
)
def test_usage_is_read_from_every_place_where_groq_reports_it(members: dict[str, Any], usage: Usage | None) -> None:
    assert Usage.reported(members) == usage


@pytest.mark.parametrize(
    "delta_members",
    [
        {"function_call": {"name": "f", "arguments": "{"}},
        {"tool_calls": [{"index": 0}]},
        {"reasoning": "hm"},
        {"executed_tools": [{"index": 0}]},
        {"a_member_of_the_future": "x"},
    ],
)
def test_every_member_with_content_is_output(delta_members: dict[str, Any]) -> None:
    shaper, _ = shaped([chunk([delta(**delta_members)])] * 5, include_usage=False)

    assert shaper.output_chunks == 5


@pytest.mark.parametrize("delta_members", [{}, {"role": "assistant", "content": ""}, {"content": None, "channel": "a"}])
def test_roles_channels_and_empty_members_are_not_output(delta_members: dict[str, Any]) -> None:
    shaper, _ = shaped([chunk([delta(**delta_members)])], include_usage=False)

    assert (shaper.output_chunks, shaper.has_answer) == (0, False)


def test_a_finished_stream_is_an_answer_and_with_usage_a_complete_one() -> None:
    without, _ = shaped([chunk([delta("stop")])], include_usage=False)
    complete, _ = shaped([chunk([delta("stop")], usage=USAGE)], include_usage=False)

    assert (without.has_answer, without.is_complete) == (True, False)
    assert (complete.has_answer, complete.is_complete) == (True, True)
