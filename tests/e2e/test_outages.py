"""The outage table of docs/failure-modes.md: responses while a part is down, what is counted, and the recovery time.

One stack with short holds; each test stops one part and restarts it.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.rpc.channel import open_channel
from tests.e2e.stack import Key, Stack, running_stack, say

pytestmark = pytest.mark.xdist_group("outages")

_RECOVERY_SECONDS = 1.0
"""The recovery time in the table, from the moment when the part itself answers again."""
_SLOW = "[[standin:slow token_ms=25]] [[standin:tokens count=40]]"


@pytest.fixture(scope="module")
def broken_repeatedly() -> Iterator[Stack]:
    """Yield one stack for all tests here; its holds are overdue after 3 s."""
    with running_stack(
        QUOTA_HOLD_SECONDS="3",
        QUOTA_SWEEP_SECONDS="0.2",
        QUOTA_RECONCILE_SECONDS="0.3",
        REQUEST_TIMEOUT_SECONDS="2.5",
    ) as stack:
        yield stack


@pytest.fixture
async def short_stack(broken_repeatedly: Stack) -> Stack:
    """Yield the complete stack, whatever the test before has stopped."""
    await broken_repeatedly.repair()
    return broken_repeatedly


async def _ask(stack: Stack, key: Key, text: str = "hi") -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        return await client.post(f"{stack.base_url}/api/v1/chat", headers=key.headers, json=say(text))


async def _recovery(stack: Stack, name: str, key: Key) -> float:
    """Restart a part; return the seconds from its own readiness to the first answered chat."""
    stack.start(name)
    await stack.until_ready(name)
    started = time.monotonic()
    async with asyncio.timeout(10):
        while (await _ask(stack, key)).status_code != 200:
            await asyncio.sleep(0.02)
    return time.monotonic() - started


@asynccontextmanager
async def _streaming(stack: Stack, key: Key) -> AsyncIterator[aiohttp.ClientResponse]:
    """Open a slow stream and wait for its first event."""
    url = f"{stack.base_url}/api/v1/chat"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, headers=key.headers, json=say(_SLOW, stream=True)) as response,
    ):
        assert response.status == 200
        await response.content.readline()
        yield response


async def _rest(response: aiohttp.ClientResponse) -> list[str]:
    text = (await response.read()).decode().strip()  # The first event was read without its blank line.
    return [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]


async def _until_row(stack: Stack, key: Key) -> dict[str, Any]:
    async with asyncio.timeout(15):
        while not (rows := stack.ledger(key)):
            await asyncio.sleep(0.05)
    (row,) = rows
    return row


def _assert_outage(response: httpx.Response, code: str) -> None:
    assert response.status_code == 503, response.text
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("internal_error", code)
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.long
async def test_with_auth_down_confirmed_keys_still_work_and_others_get_503(short_stack: Stack) -> None:
    known, unseen = await short_stack.create_key(), await short_stack.create_key()
    assert (await _ask(short_stack, known)).status_code == 200
    async with _streaming(short_stack, known) as response:
        short_stack.kill("auth")
        assert (await _ask(short_stack, known)).status_code == 200
        _assert_outage(await _ask(short_stack, unseen), "auth_unavailable")
        assert (await _rest(response))[-1] == "[DONE]", "requests in flight finish"
    assert short_stack.counters(unseen) == (0, 0)
    assert await _recovery(short_stack, "auth", unseen) < _RECOVERY_SECONDS


@pytest.mark.long
async def test_with_auth_down_a_key_is_503_five_seconds_after_its_last_confirmation(short_stack: Stack) -> None:
    key = await short_stack.create_key()
    assert (await _ask(short_stack, key)).status_code == 200
    short_stack.kill("auth")
    killed_at = time.monotonic()
    async with asyncio.timeout(10):
        while (response := await _ask(short_stack, key)).status_code == 200:
            await asyncio.sleep(0.1)
    _assert_outage(response, "auth_unavailable")
    assert 4 < time.monotonic() - killed_at < 8
    assert await _recovery(short_stack, "auth", key) < _RECOVERY_SECONDS


async def test_with_quota_down_new_requests_get_503_and_those_in_flight_finish(short_stack: Stack) -> None:
    key = await short_stack.create_key()
    async with _streaming(short_stack, key) as response:
        short_stack.kill("quota")
        _assert_outage(await _ask(short_stack, key), "quota_unavailable")
        assert (await _rest(response))[-1] == "[DONE]"
    assert await _recovery(short_stack, "quota", key) < _RECOVERY_SECONDS
    assert await short_stack.until_settled(key) == (2, 0), "the settle is retried, or the sweeper's"
    assert [row["charged"] for row in short_stack.ledger(key)] == [1, 1]


async def test_with_redis_down_new_requests_get_503_and_liveness_stays(short_stack: Stack) -> None:
    key = await short_stack.create_key()
    assert (await _ask(short_stack, key)).status_code == 200
    short_stack.kill("valkey")
    _assert_outage(await _ask(short_stack, key), "quota_unavailable")
    for target in (short_stack.settings.quota_listen, short_stack.settings.auth_listen):
        assert await _health(target, "liveness") == health_pb2.HealthCheckResponse.SERVING
    assert await _recovery(short_stack, "valkey", key) < _RECOVERY_SECONDS
    assert (await short_stack.until_settled(key))[0] == len(short_stack.ledger(key))


async def _health(target: str, service: str) -> int:
    async with open_channel(target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=2)
    return int(answer.status)


async def test_an_emptied_redis_is_initialised_from_the_ledger_and_lost_holds_are_found(short_stack: Stack) -> None:
    key = await short_stack.create_key(daily_limit=3)
    assert (await _ask(short_stack, key)).status_code == 200
    async with _streaming(short_stack, key) as response:
        client = short_stack.redis()
        client.flushall()
        client.close()
        assert (await _rest(response))[-1] == "[DONE]"
    assert (await _ask(short_stack, key)).status_code == 200
    async with asyncio.timeout(15):
        while short_stack.counters(key) != (3, 0):
            await asyncio.sleep(0.05)
    assert (await _ask(short_stack, key)).status_code == 429, "no slot is granted twice"


@pytest.mark.long
async def test_with_inference_down_streams_end_with_an_error_event_and_cost_nothing(short_stack: Stack) -> None:
    key, other = await short_stack.create_key(), await short_stack.create_key()
    async with _streaming(short_stack, key) as response:
        short_stack.kill("inference")
        events = await _rest(response)
    assert "[DONE]" not in events
    assert json.loads(events[-1])["error"]["code"] == "inference_unavailable"
    _assert_outage(await _ask(short_stack, other), "quota_unavailable")  # Its first reserve needs the ledger.
    assert await _recovery(short_stack, "inference", other) < _RECOVERY_SECONDS
    row = await _until_row(short_stack, key)
    assert (row["outcome"], row["charged"], row["refund_reason"]) == ("unknown", 0, "no_verdict")
    assert await short_stack.until_settled(key) == (0, 0)


@pytest.mark.long
async def test_with_inference_down_a_key_that_was_used_today_gets_503(short_stack: Stack) -> None:
    key = await short_stack.create_key()
    assert (await _ask(short_stack, key)).status_code == 200
    short_stack.kill("inference")
    _assert_outage(await _ask(short_stack, key), "inference_unavailable")
    assert await _recovery(short_stack, "inference", key) < _RECOVERY_SECONDS
    assert await short_stack.until_settled(key) == (2, 0), "the failed one is released by the sweeper"


async def test_a_gateway_killed_during_a_stream_leaves_an_exact_row_and_a_charge(short_stack: Stack) -> None:
    key = await short_stack.create_key()
    async with _streaming(short_stack, key) as response:
        short_stack.kill("gateway-1")
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    row = await _until_row(short_stack, key)
    assert (row["charged"], row["usage_source"], row["completion_tokens"]) == (1, "reported", 40)
    assert await short_stack.until_settled(key) == (1, 0)
    assert await _recovery(short_stack, "gateway-1", key) < _RECOVERY_SECONDS


async def test_with_groq_down_the_answer_is_503_and_nothing_is_charged(short_stack: Stack) -> None:
    key = await short_stack.create_key()
    short_stack.kill("groq-standin")
    _assert_outage(await _ask(short_stack, key), "upstream_unavailable")
    assert await short_stack.until_settled(key) == (0, 0)
    assert await _recovery(short_stack, "groq-standin", key) < _RECOVERY_SECONDS


@pytest.mark.long
async def test_a_request_over_its_total_deadline_ends_and_costs_nothing(short_stack: Stack) -> None:
    key = await short_stack.create_key()
    response = await _ask(short_stack, key, "[[standin:hang]]")
    assert response.status_code == 504, response.text
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert await short_stack.until_settled(key) == (0, 0)
    assert [row["outcome"] for row in short_stack.ledger(key)] == ["timed_out"]


@pytest.mark.long
async def test_a_stream_over_its_total_deadline_after_output_is_charged_and_marked(short_stack: Stack) -> None:
    key = await short_stack.create_key()
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        body = say("[[standin:tokens count=9]] [[standin:hang_stream after=3]]", stream=True)
        response = await client.post(f"{short_stack.base_url}/api/v1/chat", headers=key.headers, json=body)
    assert "[DONE]" not in response.text
    assert '"code":"deadline_exceeded"' in response.text
    assert await short_stack.until_settled(key) == (1, 0)
    (row,) = short_stack.ledger(key)
    assert (row["outcome"], row["charged"], row["usage_source"]) == ("timed_out", 1, "estimated")
