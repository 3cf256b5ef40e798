"""The feed of key changes behind WatchKeys: one reader of the database, any number of watchers.

The reader reads every 0.1 s, and at once when this process itself changed a key. Watchers wake when a read succeeded,
and only then: what they send is never older than that read, and when the database cannot be read they fall silent.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from services.auth.keys.model import KeyId
from services.common.errors import Unavailable
from services.common.runtime.clock import Clock
from services.common.runtime.tasks import restarting

_READ_EVERY_SECONDS = 0.1
_RESTART_SECONDS = 1.0
_HEARTBEAT_SECONDS = 0.45
"""A heartbeat goes out with the first read after this long a silence, so every 0.5 s."""
_FRESH_SECONDS = 0.5
"""A read older than this proves nothing any more."""
_RECENT_CHANGES_MAX = 1024
"""Changes kept in memory for watchers that lag; older ones are read from the database again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """A key changed."""

    key_id: KeyId | None
    """None means that any key may have changed."""
    revision: int
    """Revision that this change made; every change has its own."""
    is_revoked: bool = False
    """Whether the key is revoked now."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened after some revision."""

    revision: int
    """Up to here the changes are complete."""
    changes: Sequence[Change]
    """In the order of their revisions. A key that changed several times is there at least with its latest change."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a watcher is told."""

    revision: int
    """All changes up to this revision have been told."""
    change: Change | None = None
    """What changed; None is a heartbeat."""


class ChangeStore(Protocol):
    """Where the changes can be read."""

    async def changes_after(self, revision: int | None) -> Changes:
        """Read what happened after a revision; None reads only where the present is.

        Raises:
            Unavailable: The store cannot be read, or takes so long that the answer would be old.
        """


class ChangeFeed:
    """Tells watchers of changes. All of it belongs to one event loop."""

    def __init__(self, store: ChangeStore, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._revision = 0
        self._read_at: float | None = None
        self._recent: deque[Change] = deque()
        self._recent_since = 0
        self._reading = asyncio.Lock()
        self._kicked = asyncio.Event()
        self._news = asyncio.Event()
        self._closed = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read the database for as long as the block runs."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(restarting(self._read_on, pause_seconds=_RESTART_SECONDS))
                try:
                    yield
                finally:
                    self.close()
        except ExceptionGroup as group:
            # What the block raises must leave it as it was: a `StartError` is told in a sentence.
            raise group.exceptions[0] from group

    def notify(self) -> None:
        """Read at once: a key was changed here."""
        self._kicked.set()

    def close(self) -> None:
        """End all watches, now and for good."""
        self._closed = True
        self._kicked.set()
        self._announce()

    async def watch(self, after_revision: int | None) -> AsyncGenerator[Event, None]:
        """Yield a heartbeat with the revision to start from, then changes in order, with heartbeats between them.

        Ends when the feed is closed, and when the database went back in time (a replica without the last commits took
        over): then whoever resumes sees a first revision below its own, and must forget what it knew.

        Args:
            after_revision: Yield every change after this one; None starts at the present.

        Raises:
            Unavailable: The database cannot be read just now.
        """
        position = await self._start(after_revision)
        heartbeat_at = self._clock.monotonic()
        yield Event(position)
        while not self._closed and position <= self._revision:
            news = self._news  # Taken before looking, so that no read in between is missed.
            step = await self._after(position)
            for change in step.changes:
                yield Event(change.revision, change)
            position = step.revision
            if self._clock.monotonic() - heartbeat_at >= _HEARTBEAT_SECONDS and self._is_present(position):
                heartbeat_at = self._clock.monotonic()
                yield Event(position)
            await news.wait()

    async def _start(self, after_revision: int | None) -> int:
        if self._closed:
            raise Unavailable("auth is stopping; watch another replica", reason="auth_unavailable")
        # A watcher that comes from another replica may be ahead of what was read here last.
        if not self._is_fresh() or (after_revision or 0) > self._revision:
            await self._read()
        return self._revision if after_revision is None else min(after_revision, self._revision)

    async def _after(self, position: int) -> Changes:
        until = self._revision
        if position >= self._recent_since:
            return Changes(until, [change for change in self._recent if change.revision > position])
        try:
            changes = (await self._store.changes_after(position)).changes
        except Unavailable:
            return Changes(position, [])
        # What is newer comes with the feed's own next read; so a position is never ahead of the feed.
        return Changes(until, [change for change in changes if change.revision <= until])

    async def _read_on(self) -> None:
        while not self._closed:
            was_fresh = self._is_fresh()
            try:
                await self._read()
            except Unavailable as exc:
                if was_fresh:
                    _log.warning("key changes cannot be read", extra={"error": exc.message})
            with suppress(TimeoutError):
                async with asyncio.timeout(_READ_EVERY_SECONDS):
                    await self._kicked.wait()
            self._kicked.clear()

    async def _read(self) -> None:
        # One at a time: two answers that overtake each other would look as if the database went back.
        async with self._reading:
            started = self._clock.monotonic()
            self._take(await self._store.changes_after(None if self._read_at is None else self._revision))
            self._read_at = started
        self._announce()

    def _take(self, read: Changes) -> None:
        if self._read_at is None or read.revision < self._revision:
            self._recent.clear()
            self._recent_since = read.revision
        self._revision = read.revision
        self._recent.extend(read.changes)
        while len(self._recent) > _RECENT_CHANGES_MAX:
            self._recent_since = self._recent.popleft().revision

    def _announce(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _is_present(self, position: int) -> bool:
        return position == self._revision and self._is_fresh()

    def _is_fresh(self) -> bool:
        return self._read_at is not None and self._clock.monotonic() - self._read_at < _FRESH_SECONDS
