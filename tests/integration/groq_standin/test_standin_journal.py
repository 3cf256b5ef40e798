"""The journal agrees with what was requested and sent."""

import socket
from contextlib import closing

import httpx

from tests.integration.groq_standin.standin_process import StandIn, payloads, request, started

FIELDS = (
    "sequence x_groq_id completion_id model stream mode status usage usage_sent finish_reason events_sent completed "
    "aborted received_at ended_at last_user_message request key_tail"
)


def test_an_entry_agrees_with_the_answer(standin: StandIn) -> None:
    body = standin.say("agree").json()
    entry = standin.entry("agree")
    assert list(entry) == FIELDS.split()
    assert (entry["x_groq_id"], entry["completion_id"]) == (body["x_groq"]["id"], body["id"])
    assert entry["usage"] == entry["usage_sent"] == body["usage"]
    assert entry["request"] == request("agree")
    assert (entry["status"], entry["completed"], entry["mode"], entry["key_tail"]) == (200, True, None, "ests")


def test_an_entry_counts_the_events_of_its_stream(standin: StandIn) -> None:
    chunks = payloads(standin.say("counted", stream=True, stream_options={"include_usage": True}).text)
    entry = standin.entry("counted")
    assert entry["events_sent"] == len(chunks)
    assert entry["usage"] == chunks[-2]["usage"]
    assert entry["finish_reason"] == "stop"


def test_an_entry_is_closed_when_the_client_has_read_the_end(standin: StandIn) -> None:
    """A comparison after the answer must not have to wait."""
    for stream in (True, False):
        request_id = standin.say("closed at once", stream=stream).headers["x-request-id"]
        last = standin.client.get("/journal").json()[-1]
        assert (last["x_groq_id"], last["completed"]) == (request_id, True)


def test_refused_requests_are_listed_without_usage(standin: StandIn) -> None:
    standin.post(request("refused"), {"authorization": "Bearer no"})
    last = standin.client.get("/journal").json()[-1]
    assert (last["status"], last["usage"], last["completion_id"], last["completed"]) == (401, None, None, True)


def test_a_client_that_disconnects_is_recorded_with_what_it_received(standin: StandIn) -> None:
    text = "leaving [[standin:tokens count=50]] [[standin:slow token_ms=200]]"
    call = httpx.Request("POST", f"{standin.url}/openai/v1/chat/completions", json=request(text, stream=True))
    call.headers["authorization"] = "Bearer gsk_tests"
    with httpx.Client() as client, closing(client.send(call, stream=True)) as response:
        parts = response.iter_bytes()
        next(parts)
        assert standin.client.get("/in-flight").json() == {"in_flight": 1}
    entry = standin.entry(text)
    assert (entry["aborted"], entry["completed"], entry["finish_reason"]) == (True, False, None)
    assert entry["usage"]["completion_tokens"] == entry["events_sent"] - 1 < 50
    assert standin.client.get("/in-flight").json() == {"in_flight": 0}


def test_a_client_that_disconnects_while_sending_its_request_is_recorded(standin: StandIn) -> None:
    before = standin.client.get("/journal/summary").json()["aborted"]
    host, port = standin.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /openai/v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
        while not standin.client.get("/in-flight").json()["in_flight"]:
            pass
    while standin.client.get("/in-flight").json()["in_flight"]:
        pass
    assert standin.client.get("/journal/summary").json()["aborted"] == before + 1


def test_the_summary_adds_up_the_list_and_both_can_be_emptied(standin: StandIn) -> None:
    standin.client.delete("/journal")
    bodies = [standin.say("sum").json(), standin.say("sum [[standin:tokens count=9]]").json()]
    standin.say("[[standin:429]]", stream=True)
    summary = standin.client.get("/journal/summary").json()
    assert (summary["requests"], summary["streams"], summary["completed"], summary["listed"]) == (3, 1, 3, 3)
    assert summary["by_status"] == {"200": 2, "429": 1}
    assert summary["usage"]["total_tokens"] == sum(body["usage"]["total_tokens"] for body in bodies)
    standin.client.delete("/journal")
    assert standin.client.get("/journal").json() == []
    assert standin.client.get("/journal/summary").json()["requests"] == 0


def test_the_list_can_start_after_a_sequence_number(standin: StandIn) -> None:
    standin.say("one")
    sequence = standin.entry("one")["sequence"]
    standin.say("two")
    assert [entry["sequence"] for entry in standin.client.get(f"/journal?after={sequence}").json()] == [sequence + 1]


def test_the_journal_drops_the_oldest_entries_but_the_summary_does_not() -> None:
    with (
        started("--journal-size", "3", "--journal-bodies", "1") as (_, url),
        httpx.Client(base_url=url) as client,
    ):
        small = StandIn(url, client)
        for number in range(5):
            small.say(f"number {number}")
        entries = client.get("/journal").json()
        assert [entry["sequence"] for entry in entries] == [3, 4, 5]
        assert [entry["request"] is None for entry in entries] == [True, True, False]
        assert client.get("/journal/summary").json()["requests"] == 5
