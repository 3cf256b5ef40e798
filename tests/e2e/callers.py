"""Callers of the API that record when they were refused, and streams that record when they ended."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.e2e.stack import Key, say

_PAUSE_SECONDS = 0.05
"""Pause between two calls, so that two hundred callers do not measure the queue before the processors."""


@dataclass
class Caller:
    """Calls repeatedly until it is refused."""

    url: str
    key: Key
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the first answer."""
    admitted_at: float = 0
    """When the last answered request began, in the event loop's time."""
    refused_at: float = 0
    slowest_seconds: float = 0
    """Duration of the slowest answer: how long requests queue on this machine under this load."""
    error: dict[str, Any] = field(default_factory=dict)

    async def call(self, session: aiohttp.ClientSession) -> None:
        """Return when refused; any other error is a failure."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            async with session.post(self.url, headers=self.key.headers, json=say("hi")) as response:
                body = await response.json()
            if response.status == 401:
                self.refused_at, self.error = loop.time(), body["error"]
                return
            assert response.status == 200, body
            self.admitted_at = began
            self.slowest_seconds = max(self.slowest_seconds, loop.time() - began)
            self.answered.set()
            await asyncio.sleep(_PAUSE_SECONDS)


@dataclass
class Listener:
    """Reads a stream to its end."""

    url: str
    key: Key
    text: str
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the first event."""
    events: list[str] = field(default_factory=list)
    ended_at: float = 0

    async def listen(self, session: aiohttp.ClientSession) -> None:
        """Return when the stream has ended."""
        body = say(self.text, stream=True)
        async with session.post(self.url, headers=self.key.headers, json=body) as response:
            assert response.status == 200, await response.text()
            async for line in response.content:
                if line.startswith(b"data: "):
                    self.events.append(line.removeprefix(b"data: ").decode().strip())
                    self.heard.set()
        self.ended_at = asyncio.get_running_loop().time()

    def assert_cut(self) -> None:
        """Check that the stream ended with the error of a revoked key, and not as if it were complete."""
        error = json.loads(self.events[-1])["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
        assert "This API key has been revoked" in error["message"]
        assert "[DONE]" not in self.events
