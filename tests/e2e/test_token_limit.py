"""Limits of tokens and cost are kept exactly, and used up, under load."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest

from services.common.limits import Unit, Window
from tests.e2e.accounting import account_of
from tests.e2e.stack import Key, Stack, connector, say

_LIMIT = 20_000
_REQUESTS = 1_200


@pytest.mark.long
async def test_1200_concurrent_requests_use_a_token_limit_up_and_never_exceed_it(stack: Stack) -> None:
    key = await stack.create_key(daily_limit=10_000, limits=[f"key:tokens:day={_LIMIT}"])
    urls, highest = stack.gateways, 0

    async def watch() -> None:
        nonlocal highest
        while True:
            highest = max(highest, sum(await asyncio.to_thread(stack.amounts, key, Window.DAY, Unit.TOKENS)))
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    async with aiohttp.ClientSession(connector=connector(_REQUESTS)) as session:
        statuses = await asyncio.gather(
            *(_ask_until_refused(session, urls[number % len(urls)], key, number) for number in range(_REQUESTS))
        )
    watching.cancel()

    account = await account_of(stack, key, Counter(statuses))
    account.assert_exact()
    charged, held = stack.amounts(key, Window.DAY, Unit.TOKENS)
    assert held == 0
    assert charged == sum(row["total_tokens"] for row in account.rows if row["charged"])
    assert set(statuses) == {200, 429}
    assert 0.97 * _LIMIT <= charged <= _LIMIT
    assert charged <= highest <= _LIMIT


async def test_a_budget_is_charged_what_the_requests_cost(stack: Stack) -> None:
    key = await stack.create_key(daily_limit=100, limits=["key:cost:month=$1", "key:cost:day=$0.5"])
    async with aiohttp.ClientSession() as session:
        bodies = [say(f"question {number} of {key.id}", model="openai/gpt-oss-120b") for number in range(5)]
        answers = [await _post(session, stack.base_url, key, body) for body in bodies]
    assert [status for status, *_ in answers] == [200] * 5
    account = await account_of(stack, key, Counter({200: 5}))
    cost = sum(row["cost"] for row in account.rows)
    assert cost > 0
    assert stack.amounts(key, Window.MONTH, Unit.COST) == stack.amounts(key, Window.DAY, Unit.COST) == (cost, 0)


async def test_an_exhausted_budget_says_so_in_dollars_and_with_openais_code(stack: Stack) -> None:
    key = await stack.create_key(daily_limit=100, limits=["key:cost:month=1"])
    body = say(f"question of {key.id}", model="openai/gpt-oss-120b")
    async with aiohttp.ClientSession() as session:
        status, headers, answer = await _post(session, stack.base_url, key, body)
    assert status == 429
    assert answer["error"]["code"] == "insufficient_quota"
    assert "on cost per month: Limit $0.000001" in answer["error"]["message"]
    assert headers["x-should-retry"] == "false"


async def test_answers_name_the_tokens_that_are_left_and_are_cut_to_them(stack: Stack) -> None:
    key = await stack.create_key(daily_limit=100, limits=["key:tokens:minute=1000"])
    text = f"[[standin:tokens count=900]] question of {key.id}"
    async with aiohttp.ClientSession() as session:
        status, headers, answer = await _post(session, stack.base_url, key, say(text, max_completion_tokens=5_000))
    assert status == 200
    assert answer["usage"]["completion_tokens"] < 700
    assert headers["x-ratelimit-limit-tokens"] == "1000"
    assert headers["x-ratelimit-remaining-tokens"] == "0"
    assert headers["x-ratelimit-reset-tokens"].endswith("s")


async def test_a_prompt_that_is_larger_than_a_limit_is_refused_with_its_name(stack: Stack) -> None:
    key = await stack.create_key(daily_limit=100, limits=["key:tokens:minute=500"])
    async with aiohttp.ClientSession() as session:
        body = say(f"{'many words ' * 300} of {key.id}")
        status, headers, answer = await _post(session, stack.base_url, key, body)
    assert status == 429
    assert answer["error"]["code"] == "rate_limit_exceeded"
    assert "on tokens per minute (TPM): Limit 500" in answer["error"]["message"]
    assert "Shorten the prompt" in answer["error"]["message"]
    assert headers["x-should-retry"] == "false"
    assert await stack.until_settled(key) == (0, 0)


async def test_concurrent_requests_are_limited(stack: Stack) -> None:
    key = await stack.create_key(daily_limit=100, limits=["key:concurrent_requests=1"])
    async with aiohttp.ClientSession() as session:
        slow = say(f"[[standin:slow token_ms=50]] take your time, {key.id}", stream=True)
        async with session.post(f"{stack.base_url}/api/v1/chat", headers=key.headers, json=slow) as streaming:
            await streaming.content.readline()
            status, headers, answer = await _post(session, stack.base_url, key, say("meanwhile"))
            await streaming.read()
    assert (status, headers["retry-after"]) == (429, "1")
    assert "on concurrent requests" in answer["error"]["message"]


async def _post(
    session: aiohttp.ClientSession, base_url: str, key: Key, body: Mapping[str, Any]
) -> tuple[int, Mapping[str, str], Any]:
    async with session.post(f"{base_url}/api/v1/chat", headers=key.headers, json=body) as response:
        return response.status, response.headers, await response.json()


async def _ask_until_refused(session: aiohttp.ClientSession, base_url: str, key: Key, number: int) -> int:
    """Send a question; wait as long as an answer says, and send it again, until a retry cannot succeed today."""
    body = say(f"question {number} of {key.id}", max_completion_tokens=50)
    while True:
        status, headers, _ = await _post(session, base_url, key, body)
        if status != 429 or headers.get("x-should-retry") == "false":
            return status
        await asyncio.sleep(float(headers["retry-after"]))
