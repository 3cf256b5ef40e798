"""Answers that Groq should not give, or gives in an unusual form, match the table of modes."""

import json
import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from tests.integration.groq_standin.standin_process import KEY, QWEN, StandIn, deltas, http_chunks, payloads, started

MODELS = "/openai/v1/models"
INVALID = "\N{REPLACEMENT CHARACTER}"


def test_a_200_without_an_answer_has_the_requested_form(standin: StandIn) -> None:
    def body(what: str) -> bytes:
        response = standin.say(f"[[standin:no_answer what={what}]]")
        assert response.status_code == 200
        return response.content

    assert body("done") == b""
    assert body("object") == b"{}\n"
    assert json.loads(body("error"))["error"]["message"]
    assert json.loads(body("null"))["choices"] is None
    assert json.loads(body("empty"))["choices"] == []
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(body("text"))


def test_a_stream_without_an_answer_is_at_most_one_event_and_costs_nothing(standin: StandIn) -> None:
    for what in ("error", "object", "null", "empty"):
        text = f"streamed [[standin:no_answer what={what}]]"
        events = payloads(standin.say(text, stream=True).text)
        assert events[1:] == ["[DONE]"]
        assert not events[0].get("choices")
        entry = standin.entry(text)
        assert (entry["status"], entry["usage"], entry["finish_reason"]) == (200, None, None)
    assert standin.say("[[standin:no_answer what=done]]", stream=True).text == "data: [DONE]\n\n"


@pytest.mark.parametrize("alphabet", ["ascii", "cjk", "emoji"])
@pytest.mark.parametrize("size", [1_000, 1_000_000])
def test_an_error_message_has_the_requested_size(standin: StandIn, alphabet: str, size: int) -> None:
    marker = f"[[standin:long_message bytes={size} alphabet={alphabet}]]"
    refused = standin.say(f"[[standin:400]] {marker}")
    failed = payloads(standin.say(f"[[standin:error_event]] {marker}", stream=True).text)[-1]
    assert refused.status_code == 400
    for message in (refused.json()["error"]["message"], failed["error"]["message"]):
        assert size - 4 < len(message.encode()) <= size
        assert message.isascii() == (alphabet == "ascii")


UNCLEAN = {"utf8": b"caf\xff ok", "surrogate": b"a\\ud83cb", "emoji": b"a\\ud83c\\udf89b"}


@pytest.mark.parametrize("where", ["content", "reasoning", "arguments"])
@pytest.mark.parametrize("text", UNCLEAN)
def test_invalid_unicode_is_in_the_answer(standin: StandIn, text: str, where: str) -> None:
    marker = f"[[standin:unclean text={text} where={where}]]"
    body = standin.say(marker).content
    assert UNCLEAN[text] in body
    message = json.loads(body.decode(errors="replace"))["choices"][0]["message"]
    said = message["tool_calls"][0]["function"]["arguments"] if where == "arguments" else message[where]
    # The standard library joins surrogate pairs and keeps unpaired ones.
    assert {"utf8": f"caf{INVALID} ok", "surrogate": "a\ud83cb", "emoji": "a\N{PARTY POPPER}b"}[text] in said


def test_a_surrogate_pair_is_split_over_two_deltas(standin: StandIn) -> None:
    stream = standin.say("[[standin:unclean text=emoji]]", stream=True, model=QWEN).text
    assert [chunk["choices"][0]["delta"].get("content") for chunk in payloads(stream)[1:3]] == ["a\ud83c", "\udf89b"]


@pytest.mark.parametrize("text", UNCLEAN)
def test_invalid_unicode_is_in_an_error(standin: StandIn, text: str) -> None:
    marker = f"[[standin:unclean text={text} where=error]]"
    refused = standin.say(marker)
    assert refused.status_code == 400
    assert refused.content.count(UNCLEAN[text]) == 2, "in message and failed_generation"
    other = standin.say(f"[[standin:503]] {marker}")
    assert (other.status_code, UNCLEAN[text] in other.content) == (503, True)
    assert UNCLEAN[text] in standin.say(f"[[standin:error_event after=1]] {marker}", stream=True).content


def events_of(raw: bytes) -> Iterator[tuple[str, str]]:
    """Yield name and data of each event, parsed by the HTML standard."""
    name = ""
    data: list[str] = []
    for line in re.split("\r\n|\r|\n", raw.decode().removeprefix("\ufeff")):
        field, _, value = line.partition(":")
        if not line:
            if any(data):
                yield name, "\n".join(data)
            name, data = "", []
        elif field == "data":
            data.append(value.removeprefix(" "))
        elif field == "event":
            name = value.removeprefix(" ")


FORMS = ("bom", "cr", "crlf", "lines", "no_space", "comments", "empty")
MARKS = {
    "bom": b"\xef\xbb\xbfdata: ",
    "cr": b"\r\rdata: ",
    "crlf": b"\r\n\r\ndata: ",
    "lines": b"data: {\ndata: ",
    "no_space": b'data:{"id"',
    "comments": b": a comment\n",
    "empty": b"data\n\ndata: ",
}


@pytest.mark.parametrize("forms", [*((one,) for one in FORMS), ("bom", "cr", "lines", "comments"), FORMS])
def test_a_stream_in_another_valid_encoding_has_the_same_events(standin: StandIn, forms: tuple[str, ...]) -> None:
    plain = "[[standin:tokens count=3]] [[standin:error_event after=2]]"
    marked = plain + "".join(f"[[standin:sse form={form}]]" for form in forms)
    expected, found = (list(events_of(standin.say(text, stream=True).content)) for text in (plain, marked))

    def said(events: list[tuple[str, str]]) -> list[Any]:
        return [(name, {**json.loads(data), "id": "", "created": 0, "x_groq": 0}) for name, data in events]

    assert said(found) == said(expected)
    raw = standin.say(f"[[standin:sse form={forms[0]}]]", stream=True).content
    assert MARKS[forms[0]] in raw


def test_a_bad_chunk_size_is_followed_by_the_end_of_the_connection(standin: StandIn) -> None:
    raw = standin.raw("[[standin:tokens count=5]] [[standin:bad_chunk after=2]]", stream=True)
    assert raw.endswith(b"\r\nzz\r\n")
    assert raw.count(b"data: ") == 3
    assert standin.raw("[[standin:bad_chunk]]").endswith(b"\r\nzz\r\n")


def test_a_stream_without_done_can_break_off(standin: StandIn) -> None:
    text = "[[standin:no_done how=close]]"
    raw = standin.raw(text, stream=True)
    assert not raw.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in raw
    assert standin.entry(text)["usage_sent"]["total_tokens"] > 0


def test_a_stream_can_consist_of_a_finish_chunk_alone(standin: StandIn) -> None:
    text = "[[standin:finish_only]]"
    raw = standin.raw(text, stream=True)
    [chunk] = payloads(http_chunks(raw)[0].decode())
    assert chunk["choices"][0]["finish_reason"] == "stop"
    assert "usage" not in chunk
    entry = standin.entry(text)
    assert (entry["completed"], entry["finish_reason"], entry["usage_sent"]) == (False, None, None)


def test_a_chunk_with_an_error_can_report_usage(standin: StandIn) -> None:
    text = "[[standin:tokens count=9]] [[standin:x_groq_error after=2 usage=1]]"
    chunk = payloads(standin.say(text, stream=True).text)[-2]
    assert chunk["x_groq"]["error"]
    assert chunk["x_groq"]["usage"] == standin.entry(text)["usage_sent"]


@pytest.mark.parametrize("mode", ["429", "503"])
def test_an_error_can_give_its_wait_in_four_forms(standin: StandIn, mode: str) -> None:
    def headers(form: str) -> httpx.Headers:
        response = standin.say(f"[[standin:{mode}]] [[standin:retry_after ms=2500 form={form}]]")
        assert response.status_code == int(mode)
        return response.headers

    assert headers("seconds")["retry-after"] == "3"
    assert headers("fraction")["retry-after"] == "2.500"
    assert 0 < parsedate_to_datetime(headers("date")["retry-after"]).timestamp() - time.time() <= 3
    assert (headers("ms")["retry-after-ms"], headers("ms").get("retry-after")) == ("2500", None)


def test_a_flaky_error_gives_the_requested_wait(standin: StandIn) -> None:
    text = "[[standin:flaky status=429 id=wait]] [[standin:retry_after ms=1500 form=ms]]"
    first, second = standin.say(text), standin.say(text)
    assert (first.status_code, first.headers["retry-after-ms"]) == (429, "1500")
    assert second.status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_reported_counts_can_be_wrong_while_the_journal_keeps_the_correct_ones(standin: StandIn, stream: bool) -> None:
    def usage(counts: str) -> tuple[Any, dict[str, Any]]:
        text = f"{stream} [[standin:tokens count=7]] [[standin:odd_usage counts={counts}]]"
        response = standin.say(text, stream=stream)
        sent = payloads(response.text)[-2]["usage"] if stream else response.json()["usage"]
        entry = standin.entry(text)
        assert entry["usage_sent"] == sent
        assert entry["usage"]["completion_tokens"] == 7
        return sent, entry["usage"]

    assert usage("huge")[0]["prompt_tokens"] == 2**63
    assert usage("empty")[0] == {}
    sent, true = usage("text")
    assert sent["total_tokens"] == str(true["total_tokens"])
    standin.client.get("/journal/summary").raise_for_status()


@pytest.mark.parametrize(
    ("form", "expected"), [("number", 12345), ("object", {"id": "req_1"}), ("long", "r" * 100_000)]
)
def test_groqs_id_can_be_absent(standin: StandIn, form: str, expected: object) -> None:
    text = f"[[standin:odd_id form={form}]]"
    response = standin.say(text)
    assert response.json()["x_groq"]["id"] == expected
    assert standin.entry(text)["x_groq_id"] == response.headers["x-request-id"]
    chunks = payloads(standin.say(text, stream=True).text)
    assert [chunk["x_groq"]["id"] for chunk in chunks[:-1] if "x_groq" in chunk] == [expected] * 2


def test_an_old_function_call_is_streamed_in_pieces(standin: StandIn) -> None:
    text = "[[standin:function_call pieces=3]]"
    message = standin.say(text).json()["choices"][0]
    chunks = payloads(standin.say(text, stream=True).text)
    calls = [chunk["choices"][0]["delta"].get("function_call") for chunk in chunks[:-1]]
    assert message["finish_reason"] == chunks[-2]["choices"][0]["finish_reason"] == "function_call"
    assert calls[0]["name"] == message["message"]["function_call"]["name"]
    assert len(calls) == 7
    arguments = "".join(call["arguments"] for call in calls[:-1])
    assert json.loads(arguments) == {"text": "one two three"}
    assert arguments == message["message"]["function_call"]["arguments"]


def test_a_blocked_model_is_a_403_with_the_reason(standin: StandIn) -> None:
    response = standin.say("[[standin:model_blocked]]")
    assert (response.status_code, response.json()["error"]["code"]) == (403, "model_permission_blocked_org")


def test_an_answer_and_an_event_can_have_many_megabytes(standin: StandIn) -> None:
    size = 20_000_000
    text = f"[[standin:big bytes={size} piece={size}]]"
    assert len(standin.say(text, model=QWEN).json()["choices"][0]["message"]["content"]) == size
    assert len(deltas(standin.say(text, stream=True, model=QWEN).text, "content")) == size


@pytest.mark.long
def test_the_model_list_has_the_form_that_was_last_requested() -> None:
    with started() as (_, url), httpx.Client(base_url=url, timeout=0.5, headers=KEY) as client:

        def list_as(kind: str) -> httpx.Response:
            client.put("/model-list", params={"answer": kind}).raise_for_status()
            return client.get(MODELS)

        ordinary = list_as("ordinary").json()["data"]
        assert list_as("object").json() == {}
        assert list_as("503").status_code == 503
        assert list_as("text").content.startswith(b"<html>")
        unclean = list_as("unclean").content
        assert UNCLEAN["utf8"] in unclean
        assert json.loads(unclean.decode(errors="replace"))["data"][-len(ordinary) :] == ordinary
        assert len(list_as("big").content) > 2_000_000
        with pytest.raises(httpx.ReadTimeout):
            list_as("hang")
        assert list_as("ordinary").json()["data"] == ordinary
        assert client.get("/model-list").json() == {"answer": "ordinary", "requests": 8}
        assert client.put("/model-list", params={"answer": "nonsense"}).status_code == 400
