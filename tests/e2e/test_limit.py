"""Exactly the limit is answered, and every record agrees with what Groq served."""

import asyncio
from collections import Counter

import aiohttp
import pytest

from tests.e2e.concurrent_load import ask, check_limit_under_load
from tests.e2e.stack import Stack, connector, say


async def test_of_1200_concurrent_requests_through_two_gateways_exactly_1000_are_answered(stack: Stack) -> None:
    await check_limit_under_load(stack, requests=1_200, limit=1_000)


async def test_a_key_with_a_limit_of_zero_is_never_answered(stack: Stack) -> None:
    key = await stack.create_key(daily_limit=0)
    async with aiohttp.ClientSession() as session:
        status, _ = await ask(session, stack.base_url, key, 1)
    assert status == 429
    assert stack.counters(key) == (0, 0)


async def test_a_refused_request_says_when_the_limit_resets_and_not_to_retry(stack: Stack) -> None:
    key = await stack.create_key(daily_limit=1)
    async with aiohttp.ClientSession() as session:
        assert (await ask(session, stack.base_url, key, 1))[0] == 200
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


async def test_a_request_refused_while_slots_are_in_use_is_told_to_retry_soon(stack: Stack) -> None:
    key = await stack.create_key(daily_limit=1)
    async with aiohttp.ClientSession() as session:
        url = f"{stack.base_url}/api/v1/chat"
        slow = say("[[standin:slow token_ms=50]] take your time", stream=True)
        async with session.post(url, headers=key.headers, json=slow) as streaming:
            await streaming.content.readline()
            async with session.post(url, headers=key.headers, json=say("meanwhile")) as response:
                error = (await response.json())["error"]
            assert response.status == 429
            assert "In use" in error["message"]
            assert response.headers["retry-after"] == "1"
            assert "x-should-retry" not in response.headers
            await streaming.read()


async def test_a_new_key_does_not_start_an_accounts_limit_over_and_the_429_names_it(own_stack: Stack) -> None:
    """Before, an owner who revoked and created keys got the limit of a key again and again."""
    await own_stack.set_plan("free", daily_limit=3, account_daily_limit=4)
    async with aiohttp.ClientSession() as session:
        first = await own_stack.create_key()
        assert [(await ask(session, own_stack.base_url, first, number))[0] for number in range(4)] == [200] * 3 + [429]
        await own_stack.until_settled(first)
        await own_stack.revoke_key(first)
        second = await own_stack.create_key()
        url = f"{own_stack.base_url}/api/v1/chat"
        async with session.post(url, headers=second.headers, json=say("the last one")) as response:
            assert response.status == 200
            assert response.headers["x-ratelimit-limit-requests"] == "4"
            assert response.headers["x-ratelimit-remaining-requests"] == "0"
        await own_stack.until_settled(second)
        async with session.post(url, headers=second.headers, json=say("one too many")) as response:
            error = (await response.json())["error"]
            assert response.status == 429
    assert error["code"] == "rate_limit_exceeded"
    assert error["message"].startswith("Rate limit reached for your account on requests per day (RPD): Limit 4, Used 4")
    assert own_stack.counters(second) == (1, 0)


@pytest.mark.long
async def test_an_account_that_is_deleted_and_created_again_does_not_start_its_limit_over(own_stack: Stack) -> None:
    """Before, a deletion and a sign-up gave an account's requests of the day again. Tomorrow's start at zero."""
    await own_stack.set_plan("free", daily_limit=3, account_daily_limit=4)
    async with aiohttp.ClientSession() as session:
        first = await own_stack.create_key()
        assert [(await ask(session, own_stack.base_url, first, number))[0] for number in range(3)] == [200] * 3
        await own_stack.until_settled(first)
        await own_stack.delete_account()
        await own_stack.create_account()
        second = await own_stack.create_key()
        url = f"{own_stack.base_url}/api/v1/chat"
        async with session.post(url, headers=second.headers, json=say("the last one")) as response:
            assert response.status == 200
            assert response.headers["x-ratelimit-limit-requests"] == "4"
            assert response.headers["x-ratelimit-remaining-requests"] == "0"
            request_id = response.headers["x-request-id"]
        async with session.post(url, headers=second.headers, json=say("one too many")) as response:
            assert response.status == 429

        (row,) = own_stack.ledger(second)
        assert (row["account_id"], row["quota_account_id"]) == (second.account_id, first.account_id)
        usage = f"{own_stack.base_url}/api/v1/usage"
        async with session.get(f"{usage}/{request_id}", headers=second.headers) as receipt:
            assert (receipt.status, (await receipt.json())["charged"]) == (200, True)
        of_first = own_stack.ledger(first)[0]["request_id"]
        async with session.get(f"{usage}/{of_first}", headers=second.headers) as receipt:
            assert receipt.status == 404

        # The counters start from the ledger, with the rows of both accounts.
        own_stack.flush_redis()
        async with session.post(url, headers=second.headers, json=say("one too many")) as response:
            assert response.status == 429
        own_stack.stop("quota")
        own_stack.start("quota", QUOTA_CLOCK_OFFSET_SECONDS="86400")
        await own_stack.until_ready("quota")
        async with asyncio.timeout(10):
            while (status := (await ask(session, own_stack.base_url, second, 9))[0]) == 503:
                await asyncio.sleep(0.05)
        assert status == 200


async def test_the_limit_resets_at_midnight_utc(own_stack: Stack) -> None:
    """The offset of the scripts' clock is moved past midnight, so the test need not wait for it."""
    key = await own_stack.create_key(daily_limit=2)
    async with aiohttp.ClientSession() as session:
        today = [(await ask(session, own_stack.base_url, key, number))[0] for number in range(3)]
        await own_stack.until_settled(key)
        own_stack.stop("quota")
        own_stack.start("quota", QUOTA_CLOCK_OFFSET_SECONDS="86400")
        await own_stack.until_ready("quota")
        await _until_quota_is_back(session, own_stack)
        tomorrow = [(await ask(session, own_stack.base_url, key, number))[0] for number in range(3)]
    assert today == [200, 200, 429]
    assert tomorrow == [200, 200, 429]
    assert await own_stack.until_settled(key) == (4, 0)
    assert sorted(Counter(row["day"] for row in own_stack.ledger(key)).values()) == [2, 2]


async def _until_quota_is_back(session: aiohttp.ClientSession, stack: Stack) -> None:
    """Return when the gateway reaches quota again, tried with another key, which the test does not count."""
    probe = await stack.create_key()
    async with asyncio.timeout(5):
        while (await ask(session, stack.base_url, probe, 0))[0] != 200:
            await asyncio.sleep(0.05)


async def test_a_request_right_after_the_last_slot_gets_limit_exceeded(stack: Stack) -> None:
    """If it were answered "in use", the OpenAI and Groq packages would wait and retry uselessly."""
    async with aiohttp.ClientSession(connector=connector(1)) as session:
        for number in range(10):
            key = await stack.create_key(daily_limit=1)
            assert (await ask(session, stack.base_url, key, number * 10 + 1))[0] == 200
            async with session.post(f"{stack.base_url}/api/v1/chat", headers=key.headers, json=say("again")) as refused:
                error = (await refused.json())["error"]
            assert (refused.status, refused.headers.get("x-should-retry")) == (429, "false"), error["message"]
            assert "Limit 1, Used 1, In use 0" in error["message"]
