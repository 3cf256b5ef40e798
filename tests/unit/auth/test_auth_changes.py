"""The feed of key changes, over a store and a clock controlled by the test."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.auth.keys.model import KeyId
from services.auth.watch.feed import Change, ChangeEvent, ChangeFeed, Changes
from services.common.errors import Unavailable


class ManualClock:
    """A clock controlled by the test."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


class MemoryStore:
    """A `ChangeStore` in memory that can be made unavailable."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.is_down = False
        self.is_odd = False
        self.reads = 0

    def change(self, count: int = 1) -> None:
        for _ in range(count):
            revision = len(self.changes) + 1
            self.changes.append(Change(KeyId(f"key_{revision}"), revision))

    async def changes_after(self, revision: int | None) -> Changes:
        self.reads += 1
        if self.is_down:
            raise Unavailable("away")
        if self.is_odd:
            raise OverflowError("odd")
        present = len(self.changes)
        return Changes(present, [] if revision is None else self.changes[revision:])


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def feed(store: MemoryStore, clock: ManualClock) -> AsyncIterator[ChangeFeed]:
    """A running feed; it reads only when notified or after a tenth of a second of real time."""
    feed = ChangeFeed(store, clock=clock)
    async with feed.running():
        yield feed


def _event(revision: int) -> ChangeEvent:
    return ChangeEvent(revision, Change(KeyId(f"key_{revision}"), revision))


async def test_an_unexpected_error_while_reading_ends_neither_the_feed_nor_the_service(store: MemoryStore) -> None:
    feed = ChangeFeed(store, clock=ManualClock())
    store.is_odd = True
    async with feed.running():
        while not store.reads:
            await asyncio.sleep(0.005)
        store.is_odd = False
        store.change()
        async with asyncio.timeout(10):
            assert await anext(feed.watch(0)) == ChangeEvent(0)
            reads = store.reads
            while store.reads == reads:
                await asyncio.sleep(0.01)


async def test_a_watch_begins_with_the_current_revision(feed: ChangeFeed, store: MemoryStore) -> None:
    store.change(3)
    await _another_read(feed, store)

    assert await anext(feed.watch(None)) == ChangeEvent(3)


async def test_a_resumed_watch_receives_all_missed_changes_in_order(feed: ChangeFeed, store: MemoryStore) -> None:
    store.change(3)
    watch = feed.watch(1)

    assert [await anext(watch) for _ in range(3)] == [ChangeEvent(1), _event(2), _event(3)]


async def test_every_watch_receives_a_change(feed: ChangeFeed, store: MemoryStore) -> None:
    watches = [feed.watch(None) for _ in range(5)]
    for watch in watches:
        await anext(watch)

    store.change()
    feed.notify()

    assert [await anext(watch) for watch in watches] == [_event(1)] * 5


async def test_a_watch_that_lags_behind_the_memory_misses_nothing(feed: ChangeFeed, store: MemoryStore) -> None:
    watch = feed.watch(None)
    await anext(watch)
    store.change(3000)
    feed.notify()

    reported = [await anext(watch) for _ in range(3000)]

    assert [event.revision for event in reported] == list(range(1, 3001))


async def test_a_heartbeat_is_sent_after_half_a_second(
    feed: ChangeFeed, store: MemoryStore, clock: ManualClock
) -> None:
    watch = feed.watch(None)
    await anext(watch)

    clock.time += 0.46
    feed.notify()

    assert await anext(watch) == ChangeEvent(0)


async def test_no_heartbeat_is_sent_while_the_store_is_unavailable(
    feed: ChangeFeed, store: MemoryStore, clock: ManualClock
) -> None:
    watch = feed.watch(None)
    await anext(watch)
    waiting = asyncio.ensure_future(anext(watch))

    store.is_down = True
    clock.time += 10
    await _another_read(feed, store)
    assert not waiting.done()

    store.is_down = False
    feed.notify()
    assert await waiting == ChangeEvent(0)


async def test_a_watch_is_refused_while_the_store_is_unavailable(
    feed: ChangeFeed, store: MemoryStore, clock: ManualClock
) -> None:
    store.is_down = True
    clock.time += 10

    with pytest.raises(Unavailable):
        await anext(feed.watch(None))


async def test_a_watch_ends_when_the_database_loses_revisions_and_resuming_reports_it(
    feed: ChangeFeed, store: MemoryStore
) -> None:
    """A Postgres replica without the last commits takes over: its new changes reuse revisions that were already
    sent.
    """
    store.change(5)
    await _another_read(feed, store)
    watch = feed.watch(None)
    assert await anext(watch) == ChangeEvent(5)

    del store.changes[3:]
    feed.notify()

    with pytest.raises(StopAsyncIteration):
        await anext(watch)
    assert await anext(feed.watch(5)) == ChangeEvent(3)


async def test_a_watch_ahead_of_this_replica_is_not_mistaken_for_lost_revisions(
    feed: ChangeFeed, store: MemoryStore
) -> None:
    await anext(feed.watch(None))
    store.change()

    assert await anext(feed.watch(1)) == ChangeEvent(1)


async def test_a_closed_feed_ends_its_watches_and_refuses_new_ones(feed: ChangeFeed) -> None:
    watch = feed.watch(None)
    await anext(watch)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)

    feed.close()

    with pytest.raises(StopAsyncIteration):
        await waiting
    with pytest.raises(Unavailable, match="shutting down"):
        await anext(feed.watch(None))


async def test_a_cancelled_watch_leaves_no_task_behind(feed: ChangeFeed) -> None:
    before = asyncio.all_tasks()

    async def listen() -> None:
        async for _ in feed.watch(None):
            pass

    listener = asyncio.create_task(listen())
    await asyncio.sleep(0)
    listener.cancel()
    await asyncio.wait({listener})

    assert asyncio.all_tasks() == before


async def _another_read(feed: ChangeFeed, store: MemoryStore) -> None:
    before = store.reads
    feed.notify()
    while store.reads == before:
        await asyncio.sleep(0)
