"""Mixed traffic: answers, streams, all surfaces, invalid requests, unknown keys, keys at their limit, and a client that
disconnects.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import aiohttp

from services.common import checksummed_token
from tests.e2e.stack import Key, Stack, connector, say

_CALLERS = 12
_PAUSE_SECONDS = (0.05, 0.5)
_KINDS = {
    "answer": 30,
    "stream": 30,
    "responses": 10,
    "messages": 10,
    "bad": 8,
    "limited": 8,
    "malformed": 3,
    "leave": 1,
}
"""How often each kind of call is made."""
_MODEL = "openai/gpt-oss-20b"
_LIMIT = 40
"""Daily limit of the key that is soon exhausted."""
_ANSWER = "[[standin:slow first_ms=120 token_ms=4]][[standin:tokens count=60]] hello"
_SURFACES: dict[str, dict[str, object]] = {
    "responses": {"input": _ANSWER},
    "messages": {"messages": [{"role": "user", "content": _ANSWER}], "max_tokens": 100},
}
"""Bodies by path, without the model."""
_UNKNOWN_EVERY_SECONDS = 1.0
"""Rarer than the gateway's limit of invalid requests."""


async def run(stack: Stack, seconds: float) -> Counter[str]:
    """Send requests for a while; return how many answers of each status there were."""
    good, limited = await stack.create_key(daily_limit=1_000_000), await stack.create_key(daily_limit=_LIMIT)
    seen: Counter[str] = Counter()
    ends = time.monotonic() + seconds
    async with aiohttp.ClientSession(connector=connector(2 * _CALLERS)) as session:
        caller = _Caller(f"{stack.base_url}/api/v1", session, seen)
        await asyncio.gather(
            *(_repeat(ends, caller.anything, good, limited) for _ in range(_CALLERS)), _repeat_unknown(ends, caller)
        )
    return seen


class _Caller:
    def __init__(self, url: str, session: aiohttp.ClientSession, seen: Counter[str]) -> None:
        self._url, self._session, self._seen = url, session, seen

    async def anything(self, good: Key, limited: Key) -> None:
        """Make one call of a kind chosen at random, ordinary ones most often."""
        kind = random.choices(tuple(_KINDS), tuple(_KINDS.values()))[0]
        match kind:
            case "answer" | "stream":
                await self.ask(good, _ANSWER, stream=kind == "stream")
            case "responses" | "messages":
                await self._post(kind, good, {"model": _MODEL, **_SURFACES[kind]})
            case "bad":
                await self.ask(good, "hello", temperature=9)
            case "limited":
                await self.ask(limited, "hello")
            case "malformed":
                await self.ask(Key("", "sk_stk_none"), "hello")
            case _:
                await self.leave(good)

    async def ask(self, key: Key, text: str, **members: object) -> None:
        """Send a chat, and read the answer to its end."""
        await self._post("chat", key, say(text, **members))

    async def _post(self, path: str, key: Key, body: dict[str, object]) -> None:
        async with self._session.post(f"{self._url}/{path}", headers=key.headers, json=body) as response:
            await response.read()
            self._seen[str(response.status)] += 1

    async def leave(self, key: Key) -> None:
        """Request a stream, and disconnect in the middle."""
        async with self._session.post(
            f"{self._url}/chat", headers=key.headers, json=say(_ANSWER, stream=True)
        ) as response:
            await response.content.readline()
            response.close()
        self._seen["left"] += 1


async def _repeat(ends: float, ask: Callable[[Key, Key], Awaitable[None]], good: Key, limited: Key) -> None:
    while time.monotonic() < ends:
        await ask(good, limited)
        await asyncio.sleep(random.uniform(*_PAUSE_SECONDS))


async def _repeat_unknown(ends: float, caller: _Caller) -> None:
    while time.monotonic() < ends:
        await caller.ask(Key("", checksummed_token.mint("sk_stk_")), "hello")
        await asyncio.sleep(_UNKNOWN_EVERY_SECONDS)
