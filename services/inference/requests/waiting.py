"""The requests that wait for a call to Groq, by model and account."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress

from services.inference.allowance.model import AllowanceView, Demand
from services.inference.metrics import QUEUE_REQUESTS
from services.inference.requests.slots import Waiter

HEADS_MAX = 64
"""Accounts that are considered at a time. Of more, others are considered next."""


class WaitingCount:
    """Number of waiting requests, of all models."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, number: int) -> None:
        """Add a number, which may be negative."""
        self.value += number
        QUEUE_REQUESTS.set(self.value)


class ModelQueue:
    """Waiting requests for one model, by account.

    Attributes:
        accounts: The requests of each account, in order. An account without one has no entry.
        changed: Set when a request begins or stops to wait, or may have become possible.
        task: Grants the requests; None before the first one waits.
    """

    def __init__(self, model: str, view: AllowanceView, count: WaitingCount) -> None:
        """Create an empty queue.

        Args:
            model: The model.
            view: Learns which accounts stop waiting.
            count: Counts the requests of this and other queues.
        """
        self.accounts: dict[str, deque[Waiter]] = {}
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self._model = model
        self._view = view
        self._count = count
        self._asking: set[str] = set()
        """Accounts for which the view was asked, and for which others may have to wait."""

    def add(self, waiter: Waiter) -> None:
        """Add a request."""
        self.accounts.setdefault(waiter.account_id, deque()).append(waiter)
        self._count.add(1)
        self.changed.set()

    def remove(self, waiter: Waiter) -> None:
        """Remove a request if it still waits."""
        waiters = self.accounts.get(waiter.account_id)
        if waiters and waiter in waiters:
            waiters.remove(waiter)
            self._after_removal(waiter.account_id)
            self.changed.set()

    def demand(self, waiter: Waiter, keys: Sequence[int]) -> Demand:
        """Return the demand of an account whose next request is `waiter`."""
        waiting = self.accounts.get(waiter.account_id, ())
        tokens = sum(one.tokens for one in waiting)
        return Demand(waiter.account_id, waiter.weight, waiter.tokens, keys, tokens, len(waiting))

    def ask(self, waiter: Waiter, keys: Sequence[int]) -> Demand:
        """Return the demand of an account, which asks for its next request."""
        self._asking.add(waiter.account_id)
        return self.demand(waiter, keys)

    def pause(self, account_id: str) -> None:
        """Record that an account could not be served now, so that no other one waits for it."""
        if account_id in self._asking:
            self._asking.remove(account_id)
            self._view.pause(self._model, account_id)

    def rotate(self, considered: Sequence[Demand]) -> None:
        """Move accounts to the end if not all could be considered."""
        if len(considered) >= HEADS_MAX:
            for one in considered:
                if one.account_id in self.accounts:
                    self.accounts[one.account_id] = self.accounts.pop(one.account_id)

    def take(self, demand: Demand) -> Waiter | None:
        """Remove the request that a demand was for, and return it; None if it has left.

        Another one of the same size is as good.
        """
        waiters = self.accounts.get(demand.account_id, deque())
        while waiters and waiters[0].granted.done():  # Its caller has just left.
            waiters.popleft()
            self._after_removal(demand.account_id)
        if not waiters or waiters[0].tokens != demand.tokens:
            return None
        waiter = waiters.popleft()
        self._after_removal(demand.account_id)
        return waiter

    def drop_newest(self, account_id: str) -> None:
        """Refuse the newest request of an account."""
        dropped = self.accounts[account_id].pop()
        self._after_removal(account_id)
        dropped.refuse()

    def expire(self, now: float) -> None:
        """Refuse the requests that have waited too long."""
        for account_id, waiters in list(self.accounts.items()):
            for waiter in [one for one in waiters if one.deadline <= now]:
                waiters.remove(waiter)
                self._after_removal(account_id)
                waiter.refuse()

    def refuse_all(self) -> None:
        """Refuse all requests."""
        accounts, self.accounts = self.accounts, {}  # A caller that leaves now must not be counted twice.
        for account_id, waiters in accounts.items():
            self._count.add(-len(waiters))
            self._view.leave(self._model, account_id)
            for waiter in waiters:
                waiter.refuse()

    async def wait_for_change(self, sleep: Awaitable[None]) -> None:
        """Wait until something changes, at most for the time of `sleep`."""
        tasks = asyncio.ensure_future(sleep), asyncio.ensure_future(self.changed.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def first_deadline(self) -> float:
        """Return the monotonic time at which the first request has waited too long."""
        return min((waiter.deadline for waiters in self.accounts.values() for waiter in waiters), default=math.inf)

    def _after_removal(self, account_id: str) -> None:
        self._count.add(-1)
        if not self.accounts[account_id]:
            del self.accounts[account_id]
            self._asking.discard(account_id)
            self._view.leave(self._model, account_id)


def drop_newest_of_longest(queues: Iterable[ModelQueue], account_id: str) -> bool:
    """Refuse the newest request of the account with the most per weight, in favour of one of `account_id`.

    Returns:
        Whether a request was refused; False if the account with the most is the same, or if nothing waits.
    """
    queue, longest = max(
        ((queue, waiters) for queue in queues for waiters in queue.accounts.values()),
        key=lambda one: len(one[1]) / one[1][0].weight,
        default=(None, None),
    )
    if queue is None or longest is None or longest[0].account_id == account_id:
        return False
    queue.drop_newest(longest[0].account_id)
    return True
