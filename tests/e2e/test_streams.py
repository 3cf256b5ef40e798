"""Streams: events as they arrive, an error event on any break, never a [DONE] after one, and the right charge."""

import asyncio
import itertools
import json
from typing import Any

import aiohttp
import httpx
import openai
import pytest

from tests.e2e.stack import Key, Stack, say

_FAILED_GENERATIONS = ("tool_use_failed", "json_validate_failed")


async def _stream(http: httpx.AsyncClient, key: Key, text: str, **members: Any) -> tuple[httpx.Response, list[str]]:
    response = await http.post("/api/v1/chat", headers=key.headers, json=say(text, stream=True, **members))
    return response, [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]


async def test_a_stream_has_openais_format(http: httpx.AsyncClient, key: Key) -> None:
    response, events = await _stream(http, key, "[[standin:tokens count=4]]")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-ratelimit-remaining-requests"] == "999"
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks).split() != []
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["x_groq"] == {"usage": chunks[-1]["usage"]}


async def test_events_are_sent_as_they_arrive(stack: Stack, key: Key) -> None:
    body = say("[[standin:slow token_ms=100]] [[standin:tokens count=5]]", stream=True)
    loop = asyncio.get_running_loop()
    url = f"{stack.base_url}/api/v1/chat"
    async with aiohttp.ClientSession() as session, session.post(url, headers=key.headers, json=body) as response:
        arrivals = [loop.time() async for line in response.content if line.startswith(b"data:")]
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    # Five tokens are sent 100 ms apart. On a busy machine, one may arrive late, next to the one after it.
    assert sum(gap > 0.05 for gap in gaps) >= 3, f"events came in a lump: {gaps}"


@pytest.mark.parametrize(
    ("marker", "outcome"),
    [
        ("error_event after=3 status=500", "cut"),
        ("x_groq_error after=3", "cut"),
        ("cut after=3", "cut"),
        ("cut after=3 how=end", "cut"),
        ("reset_stream after=3", "cut"),
    ],
)
async def test_a_break_after_output_is_an_error_event_without_done_and_is_charged(
    stack: Stack, http: httpx.AsyncClient, key: Key, marker: str, outcome: str
) -> None:
    response, events = await _stream(http, key, f"[[standin:tokens count=9]] [[standin:{marker}]]")
    assert response.status_code == 200
    assert "[DONE]" not in events, "an interruption looks like success"
    error = json.loads(events[-1])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert await stack.until_settled(key) == (1, 0)
    (row,) = stack.ledger(key)
    assert (row["outcome"], row["charged"]) == (outcome, 1)


async def test_a_stream_without_only_its_done_is_a_complete_answer(
    stack: Stack, http: httpx.AsyncClient, key: Key
) -> None:
    _, events = await _stream(http, key, "[[standin:tokens count=9]] [[standin:no_done]]")

    assert events[-1] == "[DONE]"
    assert await stack.until_settled(key) == (1, 0)
    (row,) = stack.ledger(key)
    assert (row["outcome"], row["charged"], row["usage_source"]) == ("answered", 1, "reported")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("marker", "status", "kind", "outcome"),
    [
        ("400", 400, "invalid_request_error", "refused"),
        ("401", 502, "internal_error", "upstream_failed"),
        ("403-html", 502, "internal_error", "upstream_failed"),
        ("404", 404, "invalid_request_error", "refused"),
        ("413", 413, "invalid_request_error", "refused"),
        ("422", 400, "invalid_request_error", "refused"),
        ("424", 400, "invalid_request_error", "refused"),
        ("tool_use_failed", 400, "invalid_request_error", "refused"),
        ("json_validate_failed", 400, "invalid_request_error", "refused"),
        ("context_length", 400, "invalid_request_error", "refused"),
        ("decommissioned", 404, "invalid_request_error", "refused"),
        ("restricted", 502, "internal_error", "upstream_failed"),
        ("429-day", 503, "internal_error", "upstream_failed"),
        ("503", 503, "internal_error", "upstream_failed"),
        ("429", 503, "internal_error", "upstream_failed"),
        ("498", 503, "internal_error", "upstream_failed"),
        ("500", 503, "internal_error", "upstream_failed"),
        ("502-html", 503, "internal_error", "upstream_failed"),
        ("reset", 503, "internal_error", "upstream_failed"),
    ],
)
async def test_a_failure_of_groq_before_output_is_an_http_error_and_costs_nothing(
    stack: Stack, http: httpx.AsyncClient, key: Key, stream: bool, marker: str, status: int, kind: str, outcome: str
) -> None:
    body = say(f"[[standin:{marker}]]", stream=stream)
    response = await http.post("/api/v1/chat", headers=key.headers, json=body)
    assert response.status_code == status, response.text
    assert response.json()["error"]["type"] == kind
    assert set(response.json()["error"]) - {"failed_generation"} == {"message", "type", "param", "code"}
    assert ("failed_generation" in response.json()["error"]) == (marker in _FAILED_GENERATIONS)
    assert response.headers["x-ratelimit-limit-requests"] == "1000"
    assert response.headers["x-request-id"].startswith("req_")
    assert status not in (502, 503) or int(response.headers["retry-after"]) >= 1
    assert "org_" not in response.text, "the operator's organisation leaks"
    assert "groq.com" not in response.text
    assert await stack.until_settled(key) == (0, 0)
    assert [(row["outcome"], row["charged"]) for row in stack.ledger(key)] == [(outcome, 0)]


async def test_a_client_that_disconnects_during_a_stream_is_charged_groqs_usage(stack: Stack, key: Key) -> None:
    body = say("[[standin:slow token_ms=20]] [[standin:tokens count=30]]", stream=True)
    async with aiohttp.ClientSession() as session:
        response = await session.post(f"{stack.base_url}/api/v1/chat", headers=key.headers, json=body)
        await response.content.readline()
        response.close()
    assert await stack.until_settled(key) == (1, 0)
    (row,) = stack.ledger(key)
    assert (row["charged"], row["usage_source"], row["completion_tokens"]) == (1, "reported", 30)
    await _until_marked_as_left(stack, key)


async def _until_marked_as_left(stack: Stack, key: Key) -> None:
    async with asyncio.timeout(5):
        while [row["outcome"] for row in stack.ledger(key)] != ["client_left"]:
            await asyncio.sleep(0.02)


async def test_a_client_that_disconnects_while_it_waits_is_charged_groqs_usage(stack: Stack, key: Key) -> None:
    body = say("[[standin:slow headers_ms=500]] [[standin:tokens count=30]]")
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.2)) as session:
        with pytest.raises(TimeoutError):
            await session.post(f"{stack.base_url}/api/v1/chat", headers=key.headers, json=body)
    assert await stack.until_settled(key) == (1, 0)
    (row,) = stack.ledger(key)
    assert (row["charged"], row["usage_source"], row["completion_tokens"]) == (1, "reported", 30)
    await _until_marked_as_left(stack, key)


async def test_usage_is_counted_once_wherever_groq_reports_it(stack: Stack, http: httpx.AsyncClient) -> None:
    for place in ("all", "x_groq", "top", "last"):
        key = await stack.create_key()
        await _stream(http, key, f"[[standin:tokens count=6]] [[standin:usage only={place}]]")
        await stack.until_settled(key)
        (row,) = stack.ledger(key)
        assert (place, row["completion_tokens"], row["usage_source"]) == (place, 6, "reported")


@pytest.mark.parametrize("marker", ["drip", "unicode", "burst size=8", "big bytes=200000"])
async def test_the_text_arrives_complete_however_the_network_splits_its_bytes(
    stack: Stack, http: httpx.AsyncClient, key: Key, marker: str
) -> None:
    _, events = await _stream(http, key, f"[[standin:{marker}]]")
    assert events[-1] == "[DONE]"
    streamed = "".join(
        choice["delta"].get("content") or "" for event in events[:-1] for choice in json.loads(event)["choices"]
    )
    whole = await http.post("/api/v1/chat", headers=key.headers, json=say(f"[[standin:{marker}]]"))
    assert whole.json()["choices"][0]["message"]["content"] == streamed


@pytest.mark.long
async def test_an_idle_stream_sends_comments_that_every_client_ignores(own_stack: Stack) -> None:
    own_stack.stop("gateway-1")
    own_stack.start("gateway-1", GATEWAY_HEARTBEAT_SECONDS="0.1")
    await own_stack.until_ready("gateway-1")
    key = await own_stack.create_key()
    async with httpx.AsyncClient(base_url=own_stack.base_url, trust_env=False, timeout=20) as client:
        marker = "[[standin:slow headers_ms=500 token_ms=300]] [[standin:tokens count=3]]"
        _, events = await _stream(client, key, marker)
        assert events[0] == ": keep-alive", "no comment was sent before the first event"
        assert events.count(": keep-alive") >= 4
        assert events[-1] == "[DONE]"
        _, failed = await _stream(client, key, "[[standin:slow headers_ms=500]] [[standin:500]]")
    assert json.loads(failed[-1])["error"]["code"] == "upstream_unavailable", "too late for a status: an error event"
    assert await own_stack.until_settled(key) == (1, 0)
    with openai.OpenAI(base_url=f"{own_stack.base_url}/v1", api_key=key.secret) as client:
        messages: Any = [{"role": "user", "content": marker}]
        stream = client.chat.completions.create(model="m", messages=messages, stream=True, extra_body={"model": None})
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "stop"
