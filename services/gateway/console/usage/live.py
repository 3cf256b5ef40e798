"""The live list: an account's requests as they end.

A gateway polls the ledger once per interval for each account with listeners, however many they are. Whichever listener
is due polls on behalf of all, so that there is no task to end. Requests appear in the order in which they end, which is
not that of their ids: a poll lists the requests that ended after the latest end that was seen, less a few seconds, and
leaves out those that were seen.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.common.concurrency.fair_semaphore import FairSemaphore, QueueFull, Slot
from services.common.errors import ErrorDetails, ServiceError, Throttled
from services.common.receipts import Receipt
from services.common.runtime.clock import Clock
from services.gateway.console.ports import RequestFilter, UsageClient

LISTENERS, LISTENERS_PER_ACCOUNT = 100, 5
"""Open pages, on one gateway."""
POLL_SECONDS = 2.0
_POLL_ROWS, _POLL_SCAN = 50, 2_000
_OVERLAP_SECONDS = 5.0
"""Longer than the ledger takes to store a request that has ended."""
_BATCHES = 5
"""Polls whose requests a new listener gets, which ended while its page was loaded."""
_SEEN_MAX = 1_000
_RETRY_SECONDS = 30


@dataclass
class _Feed:
    """The polls of one account."""

    listeners: int = 0
    number: int = 0
    """Number of the last poll."""
    polled_at: float = float("-inf")
    """Monotonic time of the last poll."""
    latest_end: float | None = None
    """Latest end of a request, by the ledger's clock; None before there is one."""
    seen: OrderedDict[str, None] = field(default_factory=OrderedDict)
    batches: deque[tuple[int, Sequence[Receipt]]] = field(default_factory=lambda: deque(maxlen=_BATCHES))
    polling: asyncio.Lock = field(default_factory=asyncio.Lock)

    def add(self, requests: Sequence[Receipt], *, now: float) -> None:
        """Add the requests of a poll that were not seen before."""
        new = [one for one in requests if one.id not in self.seen]
        self.seen.update((one.id, None) for one in new)
        while len(self.seen) > _SEEN_MAX:
            self.seen.popitem(last=False)
        self.latest_end = max([*map(_end, new), *([] if self.latest_end is None else [self.latest_end])], default=None)
        self.number += 1
        self.batches.append((self.number, new))
        self.polled_at = now

    def ended_from(self, *, now: float) -> float | None:
        """Return the time from which on a poll lists ended requests; None lists the newest.

        The latest end counts at most as now, in case the ledger's clock was ahead and was set back.
        """
        return None if self.latest_end is None else min(self.latest_end, now) - _OVERLAP_SECONDS

    def after(self, number: int) -> list[Receipt]:
        """Return the requests of the polls after the one with this number."""
        return [one for polled, requests in self.batches if polled > number for one in requests]


class LiveRequests:
    """The feeds of all accounts with listeners."""

    def __init__(self, clock: Clock, *, is_draining: Callable[[], bool], poll_seconds: float = POLL_SECONDS) -> None:
        """Create it. `is_draining` is whether the gateway is shutting down, which ends all listening."""
        self._clock = clock
        self._is_draining = is_draining
        self._poll_seconds = poll_seconds
        self._feeds: dict[str, _Feed] = {}
        self._slots = FairSemaphore(
            LISTENERS, per_client=LISTENERS_PER_ACCOUNT, waiting_max=0, waiting_per_client_max=0
        )

    async def acquire(self, account_id: str) -> Slot:
        """Return the slot of a listener, which the caller must release.

        Raises:
            Throttled: The account, or all accounts together, have too many listeners.
        """
        try:
            return await self._slots.acquire(account_id)
        except QueueFull as exc:
            raise Throttled(
                "Too many pages with live updates are open. Close one, and reload this one.",
                reason="too_many_live_pages",
                details=ErrorDetails(retry_after_seconds=_RETRY_SECONDS),
            ) from exc

    async def listen(self, account_id: str, usage: UsageClient) -> AsyncGenerator[Sequence[Receipt] | None, None]:
        """Yield the requests of each poll, oldest end first and the recent ones again; None if the ledger fails.

        Ends when the gateway drains.
        """
        feed = self._feeds.setdefault(account_id, _Feed())
        feed.listeners += 1
        number = feed.number - len(feed.batches)
        try:
            while not self._is_draining():
                try:
                    await self._poll(feed, number, usage)
                except ServiceError:
                    yield None
                    continue
                requests, number = feed.after(number), feed.number
                if not self._is_draining():
                    yield requests
        finally:
            feed.listeners -= 1
            if not feed.listeners:
                self._feeds.pop(account_id, None)

    async def _poll(self, feed: _Feed, number: int, usage: UsageClient) -> None:
        """Wait for the next poll after the one with this number, or make it."""
        async with feed.polling:
            if feed.number > number:
                return
            if await self._until_due(feed):
                return
            ended_from = feed.ended_from(now=self._clock.now())
            feed.polled_at = self._clock.monotonic()
            page = await usage.requests(RequestFilter(ended_from=ended_from), count=_POLL_ROWS, scan_max=_POLL_SCAN)
            feed.add(page.requests, now=self._clock.monotonic())

    async def _until_due(self, feed: _Feed) -> bool:
        """Wait until the next poll is due, and return whether the gateway drains."""
        while (left := feed.polled_at + self._poll_seconds - self._clock.monotonic()) > 0:
            if self._is_draining():
                return True
            await asyncio.sleep(min(left, 0.5))
        return self._is_draining()


def _end(request: Receipt) -> float:
    return datetime.fromisoformat(request.created_at).timestamp() + request.duration_ms / 1000
