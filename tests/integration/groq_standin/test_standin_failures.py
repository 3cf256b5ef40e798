"""Each failure mode behaves on the wire as its table documents."""

import errno

import httpx
import pytest

from tests.integration.groq_standin.standin_process import StandIn, payloads

REFUSALS = {
    "400": (400, None),
    "401": (401, "invalid_api_key"),
    "403": (403, "permissions_error"),
    "404": (404, "model_not_found"),
    "413": (413, "rate_limit_exceeded"),
    "422": (422, None),
    "424": (424, None),
    "429": (429, "rate_limit_exceeded"),
    "429-day": (429, "rate_limit_exceeded"),
    "498": (498, "capacity_exceeded"),
    "500": (500, None),
    "503": (503, None),
    "tool_use_failed": (400, "tool_use_failed"),
    "json_validate_failed": (400, "json_validate_failed"),
    "context_length": (400, "context_length_exceeded"),
    "decommissioned": (400, "model_decommissioned"),
    "restricted": (400, "organization_restricted"),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("mode", REFUSALS)
def test_an_error_mode_has_its_status_and_code(standin: StandIn, mode: str, stream: bool) -> None:
    response = standin.say(f"[[standin:{mode}]]", stream=stream)
    error = response.json()["error"]
    assert (response.status_code, error.get("code")) == REFUSALS[mode]
    assert error["message"]
    assert error["type"]
    assert None not in error.values()


@pytest.mark.parametrize(("mode", "status"), [("403-html", 403), ("502-html", 502)])
def test_the_edge_answers_in_html(standin: StandIn, mode: str, status: int) -> None:
    response = standin.say(f"[[standin:{mode}]]")
    assert response.status_code == status
    assert response.headers["content-type"].startswith("text/html")
    assert "x-request-id" not in response.headers


def test_a_rate_limit_sets_retry_after_and_names_the_organisation(standin: StandIn) -> None:
    response = standin.say("[[standin:429 retry_after=7]]")
    assert response.headers["retry-after"] == "7"
    assert response.headers["x-ratelimit-reset-tokens"] == "7s"
    assert response.headers["x-ratelimit-remaining-tokens"] == "0"
    assert "in organization `org_" in response.json()["error"]["message"]
    assert response.json()["error"]["type"] == "tokens"


def test_a_daily_limit_takes_minutes_to_reset(standin: StandIn) -> None:
    response = standin.say("[[standin:429-day]]")
    assert response.headers["retry-after"] == "579"
    assert "tokens per day (TPD)" in response.json()["error"]["message"]


def test_a_failed_tool_call_includes_the_generated_text(standin: StandIn) -> None:
    assert standin.say("[[standin:tool_use_failed]]").json()["error"]["failed_generation"]


def test_an_error_event_follows_the_tokens_and_ends_the_stream(standin: StandIn) -> None:
    text = "[[standin:error_event after=2 status=503]]"
    body = standin.say(text, stream=True).text
    assert body.count("event: error\ndata: ") == 1
    chunks = payloads(body)
    assert len(chunks) == 4
    assert chunks[-1]["error"]["status_code"] == 503
    assert standin.entry(text)["finish_reason"] is None


def test_an_error_event_without_a_stream_is_an_error_response(standin: StandIn) -> None:
    assert standin.say("[[standin:error_event]]").status_code == 400


def test_an_x_groq_error_is_part_of_a_chunk_before_done(standin: StandIn) -> None:
    chunks = payloads(standin.say("[[standin:x_groq_error after=1]]", stream=True).text)
    assert chunks[-1] == "[DONE]"
    assert chunks[-2]["x_groq"]["error"]
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks[:-1])
    assert standin.say("[[standin:x_groq_error]]").json()["x_groq"]["error"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_cut_closes_the_connection_inside_the_body(standin: StandIn, stream: bool) -> None:
    text = f"[[standin:cut after=2]] {stream}"
    with pytest.raises(httpx.RemoteProtocolError):
        standin.say(text, stream=stream)
    entry = standin.entry(text)
    assert (entry["status"], entry["completed"], entry["aborted"]) == (200, False, False)
    assert entry["finish_reason"] is None
    assert entry["events_sent"] == (3 if stream else 0)


def test_a_cut_stream_counts_the_tokens_sent_before(standin: StandIn) -> None:
    text = "count me [[standin:tokens count=9]] [[standin:cut after=4]]"
    with pytest.raises(httpx.RemoteProtocolError):
        standin.say(text, stream=True)
    assert standin.entry(text)["usage"]["completion_tokens"] == 4


def test_a_stream_can_end_normally_without_a_finish(standin: StandIn) -> None:
    chunks = payloads(standin.say("[[standin:cut after=2 how=end]]", stream=True).text)
    assert len(chunks) == 3
    assert "[DONE]" not in chunks


def test_a_stream_can_lack_done(standin: StandIn) -> None:
    chunks = payloads(standin.say("[[standin:no_done]]", stream=True).text)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("mode", ["reset", "reset_stream after=1"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_reset_is_a_tcp_reset(standin: StandIn, mode: str, stream: bool) -> None:
    text = f"[[standin:{mode}]] {stream}"
    with pytest.raises(ConnectionResetError) as caught:
        standin.raw(text, stream=stream)
    assert caught.value.errno == errno.ECONNRESET
    assert standin.entry(text)["status"] == (None if mode == "reset" else 200)


@pytest.mark.parametrize("stream", [True, False])
def test_a_hang_sends_no_headers_until_the_client_disconnects(standin: StandIn, stream: bool) -> None:
    text = f"[[standin:hang]] {stream}"
    with httpx.Client(base_url=standin.url, timeout=0.2) as client, pytest.raises(httpx.ReadTimeout):
        StandIn(standin.url, client).say(text, stream=stream)
    entry = standin.entry(text)
    assert (entry["aborted"], entry["status"], entry["usage"]) == (True, None, None)


@pytest.mark.parametrize("stream", [True, False])
def test_a_hanging_stream_sends_nothing_after_its_tokens(standin: StandIn, stream: bool) -> None:
    text = f"[[standin:hang_stream after=2]] {stream}"
    with httpx.Client(base_url=standin.url, timeout=0.2) as client, pytest.raises(httpx.ReadTimeout):
        StandIn(standin.url, client).say(text, stream=stream)
    entry = standin.entry(text)
    assert (entry["aborted"], entry["status"], entry["events_sent"]) == (True, 200, 3 if stream else 0)


def test_a_flaky_request_fails_as_often_as_requested_and_then_succeeds(standin: StandIn) -> None:
    text = "[[standin:flaky times=2 status=498 id=one]]"
    assert [standin.say(text).status_code for _ in range(4)] == [498, 498, 200, 200]
    assert standin.say(text.replace("one", "two")).status_code == 498
    assert standin.entry(text)["mode"] == "flaky"


def test_a_flaky_request_can_use_any_mode(standin: StandIn) -> None:
    text = "[[standin:flaky status=reset id=three]]"
    with pytest.raises(httpx.ReadError):
        standin.say(text)
    assert standin.say(text).status_code == 200


@pytest.mark.parametrize(
    "marker",
    [
        "[[standin:nonsense]]",
        "[[standin:cut often=1]]",
        "[[standin:cut after=soon]]",
        "[[standin:cut how=loudly]]",
        "[[standin:usage only=here]]",
        "[[standin:flaky status=nope]]",
        "[[standin:]]",
    ],
)
def test_a_mistyped_marker_is_refused_and_not_ignored(standin: StandIn, marker: str) -> None:
    response = standin.say(marker)
    assert response.status_code == 400
    assert "stand-in" in response.json()["error"]["message"]


def test_a_marker_in_an_earlier_message_has_no_effect(standin: StandIn) -> None:
    messages = [{"role": "user", "content": "[[standin:500]]"}, {"role": "user", "content": "hi"}]
    assert standin.say("", messages=messages).status_code == 200


def test_a_marker_may_be_in_a_text_part(standin: StandIn) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "[[standin:503]]"}]}]
    assert standin.say("", messages=messages).status_code == 503
