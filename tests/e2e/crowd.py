"""A crowd that asks with one key, all at once, through all gateways of a stack."""

import asyncio
from collections import Counter
from typing import Any

import aiohttp

from tests.e2e.stack import Key, Stack, connector, say


async def ask(session: aiohttp.ClientSession, base_url: str, key: Key, number: int) -> tuple[int, Any]:
    """Ask a question, each tenth one for a stream; return the status and the whole answer."""
    body = say(f"question {number} of {key.id}", stream=number % 10 == 0)
    async with session.post(f"{base_url}/api/v1/chat", headers=key.headers, json=body) as response:
        raw = await response.read()
        return response.status, raw


async def hold_the_limit(stack: Stack, *, requests: int, limit: int) -> None:
    """Send more requests than a key's limit at once, and hold that it is kept exactly and that all records agree."""
    key = await stack.create_key(daily_limit=limit)
    urls = stack.gateways
    async with aiohttp.ClientSession(connector=connector(requests)) as session:
        answers = await asyncio.gather(
            *(ask(session, urls[number % len(urls)], key, number) for number in range(requests))
        )
    statuses = Counter(status for status, _ in answers)
    assert statuses == {200: limit, 429: requests - limit}

    assert await stack.until_settled(key) == (limit, 0)
    rows = stack.ledger(key)
    assert len(rows) == limit
    assert all(row["charged"] and row["outcome"] == "answered" and row["usage_source"] == "reported" for row in rows)
    assert_same_as_served(rows, [one for one in await stack.journal() if key.id in (one["last_user_message"] or "")])


def assert_same_as_served(rows: list[dict[str, Any]], served: list[dict[str, Any]]) -> None:
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
