"""The promise: exactly the limit is answered, and every record agrees with what Groq served."""

import asyncio
from collections import Counter
from typing import Any

import aiohttp

from tests.e2e.stack import Key, Stack, connector, say

_REQUESTS, _LIMIT = 1_200, 1_000


async def _ask(session: aiohttp.ClientSession, base_url: str, key: Key, number: int) -> tuple[int, Any]:
    body = say(f"question {number} of {key.id}", stream=number % 10 == 0)
    async with session.post(f"{base_url}/api/v1/chat", headers=key.headers, json=body) as response:
        raw = await response.read()
        return response.status, raw


async def test_of_1200_concurrent_requests_through_two_gateways_exactly_1000_are_answered(stack: Stack) -> None:
    key = await stack.create_key(daily_limit=_LIMIT)
    async with aiohttp.ClientSession(connector=connector(_REQUESTS)) as session:
        answers = await asyncio.gather(
            *(_ask(session, stack.gateways[number % 2], key, number) for number in range(_REQUESTS))
        )
    statuses = Counter(status for status, _ in answers)
    assert statuses == {200: _LIMIT, 429: _REQUESTS - _LIMIT}

    assert await stack.until_settled(key) == (_LIMIT, 0)
    rows = stack.ledger(key)
    assert len(rows) == _LIMIT
    assert all(row["charged"] and row["outcome"] == "answered" and row["usage_source"] == "reported" for row in rows)
    _assert_same_as_served(rows, [one for one in await stack.journal() if key.id in (one["last_user_message"] or "")])


def _assert_same_as_served(rows: list[dict[str, Any]], served: list[dict[str, Any]]) -> None:
    """Compare request for request and token for token, by Groq's own id."""
    booked = {
        row["upstream_id"]: (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"], row["stream"] == 1)
        for row in rows
    }
    counted = {
        one["x_groq_id"]: (
            one["usage"]["prompt_tokens"],
            one["usage"]["completion_tokens"],
            one["usage"]["total_tokens"],
            one["stream"],
        )
        for one in served
    }
    assert len(booked) == len(rows)
    assert booked == counted


async def test_a_key_with_a_limit_of_zero_is_never_answered(stack: Stack) -> None:
    key = await stack.create_key(daily_limit=0)
    async with aiohttp.ClientSession() as session:
        status, _ = await _ask(session, stack.base_url, key, 1)
    assert status == 429
    assert stack.counters(key) == (0, 0)


async def test_a_refused_request_tells_when_the_limit_resets_and_that_retrying_is_in_vain(stack: Stack) -> None:
    key = await stack.create_key(daily_limit=1)
    async with aiohttp.ClientSession() as session:
        assert (await _ask(session, stack.base_url, key, 1))[0] == 200
        await stack.until_settled(key)
        url = f"{stack.base_url}/api/v1/chat"
        async with session.post(url, headers=key.headers, json=say("one too many")) as response:
            error = (await response.json())["error"]
            headers = response.headers
    assert response.status == 429
    assert (error["type"], error["code"]) == ("rate_limit_exceeded", "rate_limit_exceeded")
    assert "Limit 1, Used 1" in error["message"]
    assert 0 < int(headers["retry-after"]) <= 86_400
    assert headers["x-should-retry"] == "false"
    assert headers["x-ratelimit-limit-requests"] == "1"
    assert headers["x-ratelimit-remaining-requests"] == "0"


async def test_a_request_refused_because_slots_are_in_use_is_told_to_retry_soon(stack: Stack) -> None:
    key = await stack.create_key(daily_limit=1)
    async with aiohttp.ClientSession() as session:
        url = f"{stack.base_url}/api/v1/chat"
        slow = say("[[standin:slow token_ms=50]] take your time", stream=True)
        async with session.post(url, headers=key.headers, json=slow) as streaming:
            await streaming.content.readline()
            async with session.post(url, headers=key.headers, json=say("meanwhile")) as response:
                error = (await response.json())["error"]
            assert response.status == 429
            assert "in use" in error["message"]
            assert response.headers["retry-after"] == "1"
            assert "x-should-retry" not in response.headers
            await streaming.read()


async def test_the_limit_resets_at_midnight_utc(own_stack: Stack) -> None:
    """The scripts' clock is moved past midnight by their offset; nobody waits for the night."""
    key = await own_stack.create_key(daily_limit=2)
    async with aiohttp.ClientSession() as session:
        today = [(await _ask(session, own_stack.base_url, key, number))[0] for number in range(3)]
        await own_stack.until_settled(key)
        own_stack.stop("quota")
        own_stack.start("quota", QUOTA_CLOCK_OFFSET_SECONDS="86400")
        await own_stack.until_ready("quota")
        await _until_quota_is_back(session, own_stack)
        tomorrow = [(await _ask(session, own_stack.base_url, key, number))[0] for number in range(3)]
    assert today == [200, 200, 429]
    assert tomorrow == [200, 200, 429]
    assert await own_stack.until_settled(key) == (4, 0)
    assert sorted(Counter(row["day"] for row in own_stack.ledger(key)).values()) == [2, 2]


async def _until_quota_is_back(session: aiohttp.ClientSession, stack: Stack) -> None:
    """Return when the gateway reaches quota again; asked with another key, which the test does not count."""
    probe = await stack.create_key()
    async with asyncio.timeout(5):
        while (await _ask(session, stack.base_url, probe, 0))[0] != 200:
            await asyncio.sleep(0.05)
