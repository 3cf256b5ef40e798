"""Batching of reserves and settles: items that are submitted at about the same time share one call."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from services.common.concurrency.batch import Batcher
from services.common.errors import ServiceError, Unavailable
from services.common.estimate import Estimate
from services.common.limits import Scope, Unit, Window
from services.common.verdict import RELEASED, RowVerdict
from services.gateway.requests.types import Hold, LimitReached, Principal, RateLimit

_BATCH_ITEMS_MAX = 500
_BATCHES_MAX = 4
_ACCOUNT_REQUESTS = (Scope.ACCOUNT, Unit.REQUESTS, Window.DAY)
_OVERLAP_SECONDS = 0.005
"""Several times what a reserve takes."""
_SETTLE_GATHER_SECONDS = 0.01
"""Clients do not wait for a settle. Gathering settles for 10 ms divides their cost by five."""


@dataclass(slots=True)
class ReserveItem:
    """A request to hold one slot of all limits."""

    request_id: str
    principal: Principal
    estimate: Estimate | None = None

    def requested(self, unit: Unit) -> int:
        """Return what the request takes at least of a limit."""
        return 1 if self.estimate is None else self.estimate.least(unit)


@dataclass(slots=True)
class SettleItem:
    """A request to close one hold."""

    hold: Hold
    verdict: RowVerdict


class QuotaBatches(Protocol):
    """Quota, called with batches. Calls have a deadline and raise `ServiceError` when quota cannot be reached."""

    async def reserve(self, items: Sequence[ReserveItem]) -> Sequence[Hold | LimitReached | Unavailable]:
        """Return the outcome of each item, in order."""

    async def settle(self, items: Sequence[SettleItem]) -> Sequence[Unavailable | None]:
        """Close each hold; `Unavailable` in place of None when one could not be closed."""


class BatchedQuota:
    """A `Quota` that batches calls."""

    def __init__(self, batches: QuotaBatches) -> None:
        """Send batches to `batches`."""
        self._reserves: Batcher[ReserveItem, Hold] = Batcher(
            batches.reserve,
            name="reserve",
            max_items=_BATCH_ITEMS_MAX,
            max_concurrent_batches=_BATCHES_MAX,
            overlap_seconds=_OVERLAP_SECONDS,
        )
        self._settles: Batcher[SettleItem, None] = Batcher(
            batches.settle,
            name="settle",
            max_items=_BATCH_ITEMS_MAX,
            max_concurrent_batches=1,
            gather_seconds=_SETTLE_GATHER_SECONDS,
        )
        self._settling: Counter[str] = Counter()
        """Settles in flight, by account."""
        self._unclaimed: set[asyncio.Task[None]] = set()
        """Releases of holds whose caller was cancelled while they were reserved."""

    async def reserve(self, request_id: str, principal: Principal, estimate: Estimate | None = None) -> Hold:
        """Hold what a request takes; see `Quota.reserve`."""
        item, account_id = ReserveItem(request_id, principal, estimate), principal.quota_account_id
        was_settling = account_id in self._settling
        try:
            return await self._reserve(item)
        except LimitReached as exc:
            # A settle of then may have been answered before this reserve, and yet come after it in quota.
            if not exc.rate_limit.held or not (was_settling or account_id in self._settling):
                raise
        # A settle that waits here for its batch may free a slot.
        await self._settles.flush()
        return await self._reserve(item)

    async def drain(self) -> None:
        """Wait for reserves whose caller was cancelled; see `Quota.drain`."""
        while self._unclaimed:
            await asyncio.wait(self._unclaimed)

    async def _reserve(self, item: ReserveItem) -> Hold:
        reserving = self._reserves.send(item)
        try:
            return await asyncio.shield(reserving)
        except asyncio.CancelledError:
            release = asyncio.get_running_loop().create_task(self._release(reserving))
            self._unclaimed.add(release)
            release.add_done_callback(self._unclaimed.discard)
            raise

    async def _release(self, reserving: "asyncio.Future[Hold]") -> None:
        """Release a hold without a caller, once it is reserved."""
        with suppress(ServiceError):  # Nothing is held, or the sweeper closes the hold.
            await self.settle(await reserving, RELEASED)

    def settle(self, hold: Hold, verdict: RowVerdict) -> "asyncio.Future[None]":
        """Close a hold; see `Quota.settle`."""
        account_id = hold.principal.quota_account_id
        self._settling[account_id] += 1
        settled = self._settles.send(SettleItem(hold, verdict))
        settled.add_done_callback(lambda _: self._note_settled(account_id))
        return settled

    def _note_settled(self, account_id: str) -> None:
        self._settling[account_id] -= 1
        if not self._settling[account_id]:
            del self._settling[account_id]


def counter_unavailable() -> Unavailable:
    """Return the error of a reserve whose key's counter cannot be read."""
    return Unavailable("Today's count of this key cannot be read. Try again.", reason="quota_unavailable")


def not_settled() -> Unavailable:
    """Return the error of a hold that could not be closed."""
    return Unavailable("The hold could not be settled.", reason="quota_unavailable")


def without_unlimited(principal: Principal, limits: Sequence[RateLimit]) -> list[RateLimit]:
    """Return limits without the account's requests per day, which quota counts also if they are not limited."""
    if principal.account_limit is not None:
        return list(limits)
    return [one for one in limits if (one.scope, one.unit, one.window) != _ACCOUNT_REQUESTS]
