"""A scripted auth service, a clock controlled by the test, and a cache that follows both."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from services.common import checksummed_token
from services.common.errors import Unavailable
from services.gateway.keys.auth_cache import AuthCache
from services.gateway.keys.auth_client import Authentication, WatchEvent
from services.gateway.requests.types import Principal

KEY = checksummed_token.mint("sk_stk_")
OTHER = checksummed_token.mint("sk_stk_")
PRINCIPAL = Principal(key_id="key_1", account_id="acc_1", daily_limit=1000, expires_at=None)


class ManualClock:
    """A clock controlled by the test."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


class ScriptedAuthClient:
    """A scripted auth service that records its calls."""

    def __init__(self) -> None:
        self.answers: dict[str, Authentication] = {KEY: Authentication(PRINCIPAL, "", 1)}
        self.asked: list[str] = []
        self.is_down = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.resumed_from: list[int | None] = []
        self._events: asyncio.Queue[WatchEvent | None] = asyncio.Queue()

    async def authenticate(self, api_key: str) -> Authentication:
        self.asked.append(api_key)
        if self.is_down:
            raise Unavailable("away", reason="auth_unavailable")
        answer = self.answers.get(api_key, Authentication(None, "unknown", 1))
        await self.gate.wait()
        return answer

    async def watch(self, after_revision: int | None) -> AsyncIterator[WatchEvent]:
        self.resumed_from.append(after_revision)
        while (event := await self._events.get()) is not None:
            yield event

    async def emit(self, revision: int, changed_key_id: str = "", **facts: bool) -> None:
        """Send an event and wait until it is processed."""
        self._events.put_nowait(WatchEvent(revision, changed_key_id, **facts))
        await settle()

    async def end_watch(self) -> None:
        """End the stream, as a drain of auth does."""
        self._events.put_nowait(None)
        await settle()


async def settle() -> None:
    """Run everything that is ready to run."""
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def watching(cache: AuthCache) -> AsyncIterator[None]:
    """Run a cache's watch and its checks of live streams for the block."""
    tasks = [asyncio.create_task(cache.watch_invalidations()), asyncio.create_task(cache.watch_streams())]
    await settle()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
