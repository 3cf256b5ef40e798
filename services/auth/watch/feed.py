"""Feed of key changes for WatchKeys: one database reader, any number of watchers.

The reader polls every 0.1 s, and immediately after this process changes a key. Watchers wake only after a successful
read, so they never send data older than that read, and send nothing while the database cannot be read.
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

_POLL_SECONDS = 0.1
_RESTART_SECONDS = 1.0
_HEARTBEAT_SECONDS = 0.45
"""Idle time before a heartbeat, sent with the next read: in practice one every 0.5 s."""
_FRESH_SECONDS = 0.5
"""Maximum age of a read on which heartbeats and new watchers may rely."""
_RECENT_CHANGES_MAX = 1024
"""Changes kept in memory for slow watchers. Older ones are read from the database again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one key, or of any number of keys."""

    key_id: KeyId | None
    """None means that any key may have changed."""
    revision: int
    """Revision of this change, unique to it."""
    is_revoked: bool = False
    """Whether the key is now revoked, or its account suspended."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes after a given revision."""

    revision: int
    """Revision up to which the changes are complete."""
    changes: Sequence[Change]
    """Changes in revision order. For a key that changed several times, at least the latest change is included."""


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """A message to a watcher: a change or a heartbeat."""

    revision: int
    """Revision up to which all changes have been sent."""
    change: Change | None = None
    """The change; None for a heartbeat."""


class ChangeStore(Protocol):
    """Interface for reading key changes."""

    async def changes_after(self, revision: int | None) -> Changes:
        """Return the changes after a revision; None returns only the current revision.

        Raises:
            Unavailable: The store cannot be read, or the read takes so long that its result would be stale.
        """


class ChangeFeed:
    """Publishes key changes to watchers. Bound to one event loop."""

    def __init__(self, store: ChangeStore, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._revision = 0
        self._read_at: float | None = None
        self._recent: deque[Change] = deque()
        self._recent_since = 0
        self._reading = asyncio.Lock()
        self._read_requested = asyncio.Event()
        self._updated = asyncio.Event()
        self._closed = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read the database while the block runs."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(restarting(self._read_loop, pause_seconds=_RESTART_SECONDS))
                try:
                    yield
                finally:
                    self.close()
        except ExceptionGroup as group:
            # Raise the original exception: process.run() catches `StartError`, not a group.
            raise group.exceptions[0] from group

    def notify(self) -> None:
        """Read the database now, because this process changed a key."""
        self._read_requested.set()

    def close(self) -> None:
        """End all watches. No new ones can start."""
        self._closed = True
        self._read_requested.set()
        self._wake_watchers()

    async def watch(self, after_revision: int | None) -> AsyncGenerator[ChangeEvent, None]:
        """Yield a heartbeat with the starting revision, then changes in revision order, with heartbeats in between.

        The stream ends when the feed is closed, and when the database's revision decreases because a replica without
        the last commits took over. A watcher that resumes then receives a first revision below its own, and must
        discard its cached keys.

        Args:
            after_revision: Yield every change after this revision; None starts at the current one.

        Raises:
            Unavailable: The database cannot be read, or the feed is closed.
        """
        position = await self._start(after_revision)
        heartbeat_at = self._clock.monotonic()
        yield ChangeEvent(position)
        while not self._closed and position <= self._revision:
            updated = self._updated  # Taken before the read, so that no update in between is missed.
            step = await self._after(position)
            for change in step.changes:
                yield ChangeEvent(change.revision, change)
            position = step.revision
            if self._clock.monotonic() - heartbeat_at >= _HEARTBEAT_SECONDS and self._is_current(position):
                heartbeat_at = self._clock.monotonic()
                yield ChangeEvent(position)
            await updated.wait()

    async def _start(self, after_revision: int | None) -> int:
        if self._closed:
            raise Unavailable("Auth is shutting down. Watch another replica.", reason="auth_unavailable")
        # A watcher that comes from another replica may be ahead of the last read here.
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
        # Newer changes come with the feed's next read, so that a position is never ahead of the feed.
        return Changes(until, [change for change in changes if change.revision <= until])

    async def _read_loop(self) -> None:
        while not self._closed:
            was_fresh = self._is_fresh()
            try:
                await self._read()
            except Unavailable as exc:
                if was_fresh:
                    _log.warning(
                        "Key changes cannot be read from the database. Heartbeats stop until a read succeeds.",
                        extra={"error": exc.message},
                    )
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._read_requested.wait()
            self._read_requested.clear()

    async def _read(self) -> None:
        # One read at a time: results out of order would look like a database whose revision decreased.
        async with self._reading:
            started = self._clock.monotonic()
            self._apply(await self._store.changes_after(None if self._read_at is None else self._revision))
            self._read_at = started
        self._wake_watchers()

    def _apply(self, read: Changes) -> None:
        if self._read_at is None or read.revision < self._revision:
            self._recent.clear()
            self._recent_since = read.revision
        self._revision = read.revision
        self._recent.extend(read.changes)
        while len(self._recent) > _RECENT_CHANGES_MAX:
            self._recent_since = self._recent.popleft().revision

    def _wake_watchers(self) -> None:
        self._updated.set()
        self._updated = asyncio.Event()

    def _is_current(self, position: int) -> bool:
        return position == self._revision and self._is_fresh()

    def _is_fresh(self) -> bool:
        return self._read_at is not None and self._clock.monotonic() - self._read_at < _FRESH_SECONDS
