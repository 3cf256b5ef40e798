"""Keys that change at random and watchers that restart at random: what each watcher must have received, and when."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from services.auth.watch.feed import ChangeEvent, ChangeFeed
from services.common.errors import Unavailable

Keys = dict[str, int]
"""Revoked keys and the revision at which each was revoked."""


@dataclass
class Watcher:
    """Applies events like a gateway, and resumes after the last received revision."""

    feed: Callable[[], ChangeFeed]
    truth: Keys
    random: random.Random
    revision: int | None = None
    floor: int = 0
    """Changes up to here need not be sent: the watcher cleared its cache after them."""
    received: set[str] = field(default_factory=set)
    restarts: int = 0

    async def follow(self) -> None:
        """Watch for ever, with restarts after a random number of events."""
        while True:
            patience = self.random.choice([1, 2, 3, 5, 20])
            try:
                async with aclosing(self.feed().watch(self.revision)) as events:
                    await self._take(events, patience)
            except Unavailable:
                await asyncio.sleep(0)
            self.restarts += 1

    async def _take(self, events: AsyncIterator[ChangeEvent], patience: int) -> None:
        async for event in events:
            self._learn(event)
            patience -= 1
            if not patience:
                return

    def _learn(self, event: ChangeEvent) -> None:
        if self.revision is None or event.revision < self.revision or (event.change and event.change.key_id is None):
            self.floor = event.revision
        elif event.change is not None and event.change.is_revoked:
            self.received.add(str(event.change.key_id))
        self.revision = event.revision
        missed = self._unknown(until=event.revision)
        assert not missed, f"{len(missed)} revoked keys would still work: received all up to {event.revision}, {missed}"

    def _unknown(self, *, until: float) -> set[str]:
        return {key for key, revision in self.truth.items() if self.floor < revision <= until} - self.received

    async def until_knows_all(self) -> None:
        """Return when every revocation has been received."""
        while self.revision is None or self._unknown(until=float("inf")):
            await asyncio.sleep(0.001)


async def watch_while(
    work: Awaitable[object], feeds: list[ChangeFeed], truth: Keys, chance: random.Random, *, watchers: int
) -> list[Watcher]:
    """Run watchers of random feeds until the work is done and each of them has received all of it."""
    followers = [Watcher(lambda: chance.choice(feeds), truth, chance) for _ in range(watchers)]
    tasks = [asyncio.ensure_future(one.follow()) for one in followers]
    try:
        done = asyncio.ensure_future(_all_known(work, followers))
        await asyncio.wait([done, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, done):
            if task.done():
                task.result()
    finally:
        for task in (*tasks, done):
            task.cancel()
        await asyncio.gather(*tasks, done, return_exceptions=True)
    return followers


async def _all_known(work: Awaitable[object], watchers: list[Watcher]) -> None:
    await work
    async with asyncio.timeout(20):
        await asyncio.gather(*(one.until_knows_all() for one in watchers))
