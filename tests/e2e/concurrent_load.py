"""Many concurrent requests with one key through all gateways of a stack."""

import asyncio
from collections import Counter
from typing import Any

import aiohttp

from tests.e2e.accounting import account_of
from tests.e2e.stack import Key, Stack, connector, say


async def ask(session: aiohttp.ClientSession, base_url: str, key: Key, number: int) -> tuple[int, Any]:
    """Send a question, each tenth one for a stream; return the status and the whole answer."""
    body = say(f"question {number} of {key.id}", stream=number % 10 == 0)
    async with session.post(f"{base_url}/api/v1/chat", headers=key.headers, json=body) as response:
        raw = await response.read()
        return response.status, raw


async def check_limit_under_load(stack: Stack, *, requests: int, limit: int) -> None:
    """Send more concurrent requests than a key's limit, and check that it is kept exactly and that all records
    agree.
    """
    key = await stack.create_key(daily_limit=limit)
    urls = stack.gateways
    async with aiohttp.ClientSession(connector=connector(requests)) as session:
        answers = await asyncio.gather(
            *(ask(session, urls[number % len(urls)], key, number) for number in range(requests))
        )
    account = await account_of(stack, key, Counter(status for status, _ in answers))
    account.assert_exact()
    assert account.statuses == {200: limit, 429: requests - limit}, account
    assert account.charged == len(account.served) == len(account.rows) == limit, account
    assert {row["usage_source"] for row in account.rows} == {"reported"}, account
