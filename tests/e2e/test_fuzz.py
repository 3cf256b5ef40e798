"""Any body at all: never a 500, never a hang, never a count for what was refused.

Hypothesis makes requests, good ones and broken ones; each is sent, and then fifty mutations of it. `make test-fuzz
BODIES=100000` sends as many as one likes; the suite sends a few hundred.
"""

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import aiohttp
from hypothesis import HealthCheck, given, settings

from tests.e2e.stack import Key, Stack, connector
from tests.properties.chat_bodies import GOOD_BODIES, JSON_VALUES, broken_bodies

_BODIES = int(os.environ.get("FUZZ_BODIES") or 500)
_MUTATIONS = 49
_SECONDS_MAX = 15
_AT_ONCE = 16
_STATUSES = {200, 400, 404, 413}
_VALUES: tuple[Any, ...] = (None, True, 0, -1, 1.5, 10**30, "", "user", [], {}, ["a"], {"a": None}, "\ud800", "\0")


def _made(count: int) -> list[Any]:
    """Return so many requests that hypothesis made."""
    made: list[Any] = []

    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(GOOD_BODIES | broken_bodies() | JSON_VALUES)
    def collect(body: Any) -> None:
        made.append(body)

    collect()
    return made[:count]


def _bodies() -> Iterator[bytes]:
    """Yield every request that hypothesis made, and mutations of it, as they are sent."""
    chance = random.Random(20_261_122)
    for body in _made(max(1, _BODIES // (_MUTATIONS + 1))):
        text = json.dumps(body)
        yield _harmless(text.encode())
        for _ in range(_MUTATIONS):
            if chance.random() < 0.5:
                yield _harmless(_bent(chance, text.encode()))
            else:
                yield _harmless(json.dumps(_changed(chance, body)).encode())


def _bent(chance: random.Random, body: bytes) -> bytes:
    """Return a body with some of its bytes replaced, removed, repeated or added."""
    start = chance.randrange(len(body) + 1)
    end = min(len(body), start + chance.randrange(12))
    new = chance.choice(
        [b"", bytes([chance.randrange(256)]), body[start:end] * 2, b'"', b"}", b"[[[[", b"1e999", b"\xff"]
    )
    return body[:start] + new + body[end:]


def _changed(chance: random.Random, value: Any) -> Any:
    """Return a value with one place in it replaced."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name = chance.choice(list(value))
        return {**value, name: _changed(chance, value[name])}
    if isinstance(value, list) and value and chance.random() < 0.9:
        place = chance.randrange(len(value))
        return [*value[:place], _changed(chance, value[place]), *value[place + 1 :]]
    return chance.choice(_VALUES)


def _harmless(body: bytes) -> bytes:
    """Return a body that asks the stand-in for no failure."""
    return body.replace(b"[[standin", b"[[other")


class Tally:
    """What was answered."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.refused_by_groq = 0


async def _send_all(stack: Stack, key: Key, tally: Tally) -> None:
    bodies = _bodies()
    timeout = aiohttp.ClientTimeout(total=_SECONDS_MAX)
    async with (
        aiohttp.ClientSession(connector=connector(_AT_ONCE), timeout=timeout) as session,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(_AT_ONCE):
            tasks.create_task(_send_some(session, stack, key, bodies, tally))


async def _send_some(
    session: aiohttp.ClientSession, stack: Stack, key: Key, bodies: Iterator[bytes], tally: Tally
) -> None:
    for body in bodies:
        url = f"{stack.base_url}/v1/chat/completions"
        async with session.post(url, headers=key.headers, data=body) as response:
            text = await response.read()
        tally.statuses[response.status] += 1
        assert response.status in _STATUSES, (response.status, text, body)
        if response.status != 200:
            tally.refused_by_groq += "x-ratelimit-limit-requests" in response.headers
            assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}


async def test_any_body_is_answered_or_refused_and_only_answers_count(stack: Stack) -> None:
    key, tally = await stack.create_key(daily_limit=10**9), Tally()
    await _send_all(stack, key, tally)
    counters = await stack.until_settled(key)
    rows = stack.ledger(key)
    print(f"{tally.statuses.total():,} bodies: {dict(tally.statuses)}, {tally.refused_by_groq} refused by Groq")
    assert counters == (tally.statuses[200], 0)
    assert sum(row["charged"] for row in rows) == tally.statuses[200]
    assert len(rows) == tally.statuses[200] + tally.refused_by_groq, "what the edge refused never reached inference"
