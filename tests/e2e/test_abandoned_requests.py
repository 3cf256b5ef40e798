"""Requests whose client does not get the answer: charged exactly when Groq was called and did the work."""

import asyncio
import io
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from tests.e2e.stack import Key, Stack, connector, running_stack, say

_REQUEST_SECONDS = 4
_STALL_SECONDS = 1
_LONG_STREAM = "[[standin:slow token_ms=50]] [[standin:tokens count=40]]"
"""Two seconds long."""
_BIG_STREAM = "[[standin:big bytes=10000000 piece=65536]]"
"""More than the buffers between Groq and the client hold."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(1, id="worker"), pytest.param(0, id="services", marks=pytest.mark.long)],
)
def running(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Yield a stack with short time-outs, in either layout."""
    with running_stack(
        workers=request.param,
        REQUEST_TIMEOUT_SECONDS=str(_REQUEST_SECONDS),
        INFERENCE_FIRST_BYTE_TIMEOUT_SECONDS="1",
        GATEWAY_STALL_TIMEOUT_SECONDS=str(_STALL_SECONDS),
    ) as stack:
        yield stack


@pytest.fixture
async def key(running: Stack) -> Key:
    """Return a new key."""
    return await running.create_key()


@pytest.fixture
async def session(running: Stack) -> AsyncIterator[aiohttp.ClientSession]:
    """Yield an HTTP client."""
    async with aiohttp.ClientSession(base_url=running.base_url, connector=connector(10)) as session:
        yield session


async def _until_row(stack: Stack, key: Key, outcome: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while [row["outcome"] for row in stack.ledger(key)] != [outcome]:
            await asyncio.sleep(0.02)
    return stack.ledger(key)[0]


async def _leave_after(seconds: float, session: aiohttp.ClientSession, key: Key, body: dict[str, Any]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds), session.post("/api/v1/chat", headers=key.headers, json=body) as response:
            await response.read()


@pytest.mark.long
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_disconnects_before_groq_is_called_is_not_charged_and_its_request_never_sent(
    running: Stack, session: aiohttp.ClientSession, key: Key, stream: bool
) -> None:
    other = await running.create_key()
    text, limited = f"left before it was sent {key.id}", say(f"[[standin:flaky times=1 status=429 id={key.id}]]")

    limiting = asyncio.create_task(_status(session, other, limited))
    await asyncio.sleep(0.3)
    left_at = time.monotonic() + 0.3
    await _leave_after(0.3, session, key, say(text, stream=stream))
    settled = await running.until_settled(key)
    released_seconds = time.monotonic() - left_at

    assert await limiting == 200
    assert settled == (0, 0)
    assert released_seconds < 2
    row = await _until_row(running, key, "client_left")
    assert (row["charged"], row["attempts"]) == (0, 0)
    assert text not in {entry["last_user_message"] for entry in await running.journal()}


async def _status(session: aiohttp.ClientSession, key: Key, body: dict[str, Any]) -> int:
    async with session.post("/api/v1/chat", headers=key.headers, json=body) as response:
        await response.read()
        return response.status


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_disconnects_after_groq_was_called_is_charged_once(
    running: Stack, session: aiohttp.ClientSession, key: Key, stream: bool
) -> None:
    text = f"{_LONG_STREAM} {key.id}"

    await _leave_after(0.5, session, key, say(text, stream=stream))

    row = await _until_row(running, key, "client_left")
    assert (row["charged"], row["completion_tokens"], row["usage_source"]) == (1, 40, "reported")
    assert await running.until_settled(key) == (1, 0)
    assert [entry["last_user_message"] for entry in await running.journal()].count(text) == 1


async def test_a_client_that_stops_reading_has_its_own_outcome(running: Stack, key: Key) -> None:
    body = json.dumps(say(_BIG_STREAM, stream=True)).encode()
    head = f"POST /api/v1/chat HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key.secret}\r\ncontent-length: {len(body)}"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        client.connect(("127.0.0.1", int(running.base_url.rpartition(":")[2])))
        client.sendall(head.encode() + b"\r\n\r\n" + body)
        row = await _until_row(running, key, "client_stalled")

    assert row["charged"] == 1
    assert await running.until_settled(key) == (1, 0)


@pytest.mark.long
async def test_a_revoked_stream_has_its_own_outcome(running: Stack, session: aiohttp.ClientSession, key: Key) -> None:
    body = say(_LONG_STREAM, stream=True)
    async with session.post("/api/v1/chat", headers=key.headers, json=body) as response:
        await response.content.readline()
        await running.revoke_key(key)
        rest = await response.text()

    assert '"code":"invalid_api_key"' in rest.replace(" ", "")
    row = await _until_row(running, key, "key_revoked")
    assert (row["charged"], row["completion_tokens"]) == (1, 40)
    assert await running.until_settled(key) == (1, 0)


@pytest.mark.long
async def test_a_stream_that_begins_too_late_is_504_at_once_and_charged_when_groq_answers(
    running: Stack, session: aiohttp.ClientSession, key: Key
) -> None:
    text = f"[[standin:slow headers_ms=2500]] [[standin:tokens count=7]] {key.id}"
    started = time.monotonic()

    async with session.post("/api/v1/chat", headers=key.headers, json=say(text, stream=True)) as response:
        error = json.loads(await response.text())["error"]
    seconds = time.monotonic() - started

    assert (response.status, error["code"]) == (504, "upstream_timeout")
    assert seconds < 2
    row = await _until_row(running, key, "timed_out")
    assert (row["charged"], row["completion_tokens"]) == (1, 7)
    assert await running.until_settled(key) == (1, 0)
    assert [entry["last_user_message"] for entry in await running.journal()].count(text) == 1


@pytest.mark.long
async def test_a_request_that_groq_never_answers_is_504_and_costs_nothing(
    running: Stack, session: aiohttp.ClientSession, key: Key
) -> None:
    assert await _status(session, key, say("[[standin:hang]]")) == 504
    row = await _until_row(running, key, "timed_out")
    assert row["charged"] == 0
    assert await running.until_settled(key) == (0, 0)


@pytest.mark.long
async def test_the_memory_of_failed_requests_is_freed(running: Stack, key: Key) -> None:
    def memory_bytes() -> int:
        return sum(
            running.resident_bytes(name) for name in running.names if name.startswith(("gateway", "inf", "stack"))
        )

    body = json.dumps(say("x" * 400_000 + " [[standin:hang]]")).encode()
    streamed = json.dumps(say("x" * 400_000 + " [[standin:hang]]", stream=True)).encode()
    headers = {**key.headers, "content-type": "application/json"}

    async def ask(session: aiohttp.ClientSession, number: int) -> int:
        data = io.BytesIO(streamed if number % 2 else body)
        async with session.post("/api/v1/chat", headers=headers, data=data) as response:
            await response.read()
            return response.status

    before = memory_bytes()
    async with aiohttp.ClientSession(base_url=running.base_url, connector=connector(100)) as session:
        asked = asyncio.gather(*(ask(session, number) for number in range(100)))
        held = 0
        while held <= 60_000_000 and not asked.done():
            await asyncio.sleep(0.1)
            held = memory_bytes() - before
        statuses = await asked
    async with asyncio.timeout(10):
        while memory_bytes() - before > 40_000_000:
            await asyncio.sleep(0.2)

    assert set(statuses) == {504}
    assert held > 60_000_000, "the test has not made much of a difference"
