"""The queue for calls to Groq: fair shares between accounts, and one deadline.

A request is sent at once if nothing waits for its model, a permit for a concurrent call is free, and Groq's allowance
has room. Otherwise it waits here for its account's turn (`allowance/shares.py`). A request that would wait too long is
refused at once with the time after which to send it again.

Waiting costs nothing: nothing has been sent. A request that waits holds no permit.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from services.common.runtime.clock import Clock
from services.inference.allowance.model import Admission, AllowanceView, Demand, Observation, Settlement
from services.inference.groq.errors import UpstreamBusy, UpstreamError
from services.inference.key_pool.pool import KeyPool
from services.inference.metrics import QUEUE_REFUSED, QUEUE_REQUESTS, QUEUE_SECONDS

_HEADS_MAX = 64
"""Accounts that are considered at a time. Of more, others are considered next."""
_POLL_SECONDS_MAX = 0.5
"""Longest time between two turns. An account's entry in the shared view lives longer than that."""
_POLL_SECONDS_MIN = 0.001
_NO_WAIT = -1.0
"""A maximum wait that admits nothing."""
_DURATION_WEIGHT = 0.1
"""Weight of the latest call in the mean duration of calls."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the queue and of concurrent calls."""

    calls_max: int
    """Maximum concurrent calls."""
    calls_per_account_max: int
    """Maximum concurrent calls of one account; applies once several accounts use the service."""
    waiting_max: int
    """Maximum number of waiting requests. Beyond it, the account with the most per weight loses its newest."""


@dataclass(slots=True, eq=False)
class Waiter:
    """A request that needs a slot."""

    account_id: str
    weight: int
    tokens: int
    """Estimate of what Groq counts for the request."""
    deadline: float = math.inf
    """Monotonic time until which it may wait."""
    _granted: "asyncio.Future[Slot | None] | None" = field(default=None, init=False, repr=False)

    @property
    def granted(self) -> "asyncio.Future[Slot | None]":
        """The slot; None if the request must be refused."""
        if self._granted is None:
            self._granted = asyncio.get_running_loop().create_future()
        return self._granted

    def refuse(self) -> None:
        """End the wait without a slot. A caller that has just left is not told."""
        if not self.granted.done():
            self.granted.set_result(None)


@dataclass(slots=True, eq=False)
class Slot:
    """Permission to make one call to Groq; `release` ends it."""

    _queue: "UpstreamQueue" = field(repr=False)
    model: str
    key: int
    """Index of the key to use."""
    waiter: Waiter
    began: float
    used: int | None = None
    """Tokens that Groq counts for the call; None if they are not known, and then the estimate counts."""
    requests: int = 1
    """0 if Groq does not count the call."""

    def observe(self, observations: Sequence[Observation]) -> None:
        """Record what Groq reports about its limits."""
        if observations:
            self._queue._view.observe(self.model, self.key, observations)

    def release(self) -> None:
        """End the call, and correct the estimate of its tokens."""
        self._queue._release(self)


class _ModelQueue:
    """Waiting requests for one model, by account."""

    def __init__(self) -> None:
        self.accounts: dict[str, deque[Waiter]] = {}
        self.asking: set[str] = set()
        """Accounts for which the view was asked, and which others may wait for."""
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def demand(self, waiter: Waiter, keys: Sequence[int]) -> Demand:
        """Return the demand of an account whose next request is `waiter`."""
        waiting = self.accounts.get(waiter.account_id, ())
        tokens = sum(one.tokens for one in waiting)
        return Demand(waiter.account_id, waiter.weight, waiter.tokens, keys, tokens, len(waiting))

    def rotate(self, considered: Sequence[Demand]) -> None:
        """Move accounts to the end if not all could be considered."""
        if len(considered) >= _HEADS_MAX:
            for one in considered:
                if one.account_id in self.accounts:
                    self.accounts[one.account_id] = self.accounts.pop(one.account_id)


class UpstreamQueue:
    """Grants slots for calls to Groq."""

    def __init__(
        self,
        keys: KeyPool,
        view: AllowanceView,
        limits: Limits,
        *,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        is_shared: bool = False,
    ) -> None:
        """Create a queue.

        Args:
            keys: The operator's keys.
            view: The view of Groq's limits.
            limits: Limits of the queue.
            clock: Source of monotonic time.
            sleep: Sleeps for a number of seconds.
            is_shared: Whether several accounts already use the service.
        """
        self._keys = keys
        self._view = view
        self._limits = limits
        self._clock = clock
        self._sleep = sleep
        self._is_shared = is_shared
        self._only_account = ""
        self._calls: Counter[str] = Counter()
        self._calls_in_total = 0
        self._call_seconds = 0.0
        """Mean duration of calls."""
        self._models: dict[str, _ModelQueue] = {}
        self._waiting = 0

    @property
    def calls(self) -> int:
        """Number of calls in progress."""
        return self._calls_in_total

    async def acquire(self, waiter: Waiter, models: Sequence[str], *, wait_max: float) -> Slot:
        """Return a slot for the first model that can be called now; otherwise wait for the one that can be soonest.

        Args:
            waiter: The request.
            models: The models that the request allows, in order of preference.
            wait_max: Maximum wait in seconds.

        Raises:
            UpstreamBusy: The wait would be too long; nothing was sent.
            UpstreamError: All keys are rejected or fail.
        """
        self._record_account(waiter.account_id)
        for model in models:
            if (slot := await self._try(model, waiter)) is not None:
                return slot
        began = self._clock.monotonic()
        try:
            return await self._wait(min(models, key=lambda model: self._seconds_until(model, waiter)), waiter, wait_max)
        finally:
            QUEUE_SECONDS.observe(self._clock.monotonic() - began)

    async def _try(self, model: str, waiter: Waiter) -> Slot | None:
        if model in self._models or not self._has_room(waiter.account_id):
            return None
        keys = self._usable(model, waiter)
        if not keys:
            return None
        self._take(waiter.account_id)  # Before the view is asked, so that others see it.
        try:
            demand = Demand(waiter.account_id, waiter.weight, waiter.tokens, keys)
            turn = await self._view.acquire(model, (demand,), grants_max=1, is_waiting=False)
        except BaseException:
            self._give_back(waiter.account_id)
            raise
        if not turn.grants:
            self._give_back(waiter.account_id)
            return None
        return Slot(self, model, turn.grants[0].key, waiter, self._clock.monotonic())

    async def _wait(self, model: str, waiter: Waiter, wait_max: float) -> Slot:
        await self._enter(model, waiter, wait_max)
        queue = self._models[model]
        try:
            slot = await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and (slot := waiter.granted.result()):
                slot.used, slot.requests = 0, 0
                slot.release()
            self._withdraw(model, queue, waiter)
            raise
        if slot is None:
            admission = await self._admit(model, waiter, wait_max=_NO_WAIT)
            raise self._refusal(model, waiter, admission.seconds)
        return slot

    async def _enter(self, model: str, waiter: Waiter, wait_max: float) -> None:
        """Add a request to its account's queue.

        Raises:
            UpstreamBusy: It would wait too long.
            UpstreamError: All keys are rejected or fail.
        """
        admission = await self._admit(model, waiter, wait_max=wait_max if wait_max > 0 else _NO_WAIT)
        if not admission.is_admitted:
            raise self._refusal(model, waiter, admission.seconds)
        if not self._make_room(waiter):
            if model not in self._models or waiter.account_id not in self._models[model].accounts:
                self._view.leave(model, waiter.account_id)
            raise self._refusal(model, waiter, admission.seconds)
        waiter.deadline = self._clock.monotonic() + wait_max
        queue = self._models.setdefault(model, _ModelQueue())
        queue.accounts.setdefault(waiter.account_id, deque()).append(waiter)
        self._count_waiting(1)
        queue.changed.set()
        if queue.task is None:
            queue.task = asyncio.get_running_loop().create_task(self._serve(model, queue))

    async def _admit(self, model: str, waiter: Waiter, *, wait_max: float) -> Admission:
        queue = self._models.get(model) or _ModelQueue()
        demand = queue.demand(waiter, self._usable(model, waiter) or list(range(len(self._keys))))
        wait_min = self._wait_min(model, waiter, demand.waiting_requests)
        return await self._view.admit(model, demand, wait_max=wait_max, wait_min=wait_min)

    def _refusal(self, model: str, waiter: Waiter, seconds: float) -> UpstreamError:
        """Return the error of a request that may be sent again after some seconds."""
        QUEUE_REFUSED.inc()
        until_usable = self._seconds_until(model, waiter)
        if until_usable and self._keys.is_failing(model):
            return UpstreamError(retry_seconds=until_usable)
        return UpstreamBusy(retry_seconds=seconds)

    async def _serve(self, model: str, queue: _ModelQueue) -> None:
        """Grant slots until nothing waits for a model."""
        try:
            while queue.accounts:
                queue.changed.clear()
                self._expire(model, queue)
                seconds = await self._grant(model, queue)
                if queue.accounts and seconds > 0:
                    await self._pause(queue, seconds)
        finally:
            del self._models[model]
            self._refuse_all(model, queue)

    def _refuse_all(self, model: str, queue: _ModelQueue) -> None:
        """Refuse what still waits: nothing, unless this task failed or is cancelled at the end of the process."""
        accounts = dict(queue.accounts)
        queue.accounts.clear()  # A caller that leaves now must not be counted twice.
        for account_id, waiters in accounts.items():
            self._count_waiting(-len(waiters))
            self._view.leave(model, account_id)
            for waiter in waiters:
                waiter.refuse()

    async def _grant(self, model: str, queue: _ModelQueue) -> float:
        """Grant what is possible and return the time until more may be; 0 to try at once."""
        demands, seconds = self._demands(model, queue)
        if not demands:
            return seconds
        free = self._limits.calls_max - self._calls_in_total
        turn = await self._view.acquire(model, demands, grants_max=free, is_waiting=True)
        if turn.grants or turn.is_behind:
            queue.rotate(demands)
        for position, key in turn.grants:
            self._hand_over(model, queue, demands[position], key)
        return 0.0 if turn.grants else min(seconds, max(turn.seconds, _POLL_SECONDS_MIN))

    def _demands(self, model: str, queue: _ModelQueue) -> tuple[list[Demand], float]:
        """Return the demands of accounts that can be served, and the time until others may be."""
        demands: list[Demand] = []
        seconds = _POLL_SECONDS_MAX
        for account_id, waiters in queue.accounts.items():
            if len(demands) >= _HEADS_MAX:
                break
            waiter = waiters[0]
            has_room = self._has_room(account_id)
            if has_room and (keys := self._usable(model, waiter)):
                demands.append(queue.demand(waiter, keys))
                queue.asking.add(account_id)
                continue
            if account_id in queue.asking:
                queue.asking.remove(account_id)
                self._view.pause(model, account_id)
            if has_room:
                seconds = min(seconds, max(self._seconds_until(model, waiter), _POLL_SECONDS_MIN))
        return demands, seconds

    def _hand_over(self, model: str, queue: _ModelQueue, demand: Demand, key: int) -> None:
        waiters = queue.accounts.get(demand.account_id, deque())
        while waiters and waiters[0].granted.done():  # Its caller has just left.
            waiters.popleft()
            self._after_removal(model, queue, demand.account_id, waiters)
        if not waiters or waiters[0].tokens != demand.tokens or not self._has_room(demand.account_id):
            # While the view was asked, the request left, or a call for another model took the permit.
            unused = (model, key, demand.account_id, demand.weight, demand.tokens)
            self._view.settle(Settlement(*unused, used=0, requests=0))
            return
        waiter = waiters.popleft()
        self._after_removal(model, queue, demand.account_id, waiters)
        self._take(demand.account_id)
        waiter.granted.set_result(Slot(self, model, key, waiter, self._clock.monotonic()))

    def _expire(self, model: str, queue: _ModelQueue) -> None:
        now = self._clock.monotonic()
        for account_id, waiters in list(queue.accounts.items()):
            for waiter in [one for one in waiters if one.deadline <= now]:
                waiters.remove(waiter)
                self._after_removal(model, queue, account_id, waiters)
                waiter.refuse()

    async def _pause(self, queue: _ModelQueue, seconds: float) -> None:
        """Wait for a time, until the first deadline, or until something changes."""
        first = min(waiter.deadline for waiters in queue.accounts.values() for waiter in waiters)
        seconds = min(seconds, max(first - self._clock.monotonic(), 0.0))
        sleeping = asyncio.ensure_future(self._sleep(seconds))
        changing = asyncio.ensure_future(queue.changed.wait())
        try:
            await asyncio.wait({sleeping, changing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sleeping, changing):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def _make_room(self, waiter: Waiter) -> bool:
        """Return whether one more request may wait, after dropping the newest of the longest queue if it is full."""
        if self._waiting < self._limits.waiting_max:
            return True
        model, queue, waiters = max(
            ((name, queue, waiters) for name, queue in self._models.items() for waiters in queue.accounts.values()),
            key=lambda one: len(one[2]) / one[2][0].weight,
            default=(None, None, None),
        )
        if model is None or queue is None or waiters is None or waiters[0].account_id == waiter.account_id:
            return False
        dropped = waiters.pop()
        self._after_removal(model, queue, dropped.account_id, waiters)
        dropped.refuse()
        return True

    def _withdraw(self, model: str, queue: _ModelQueue, waiter: Waiter) -> None:
        waiters = queue.accounts.get(waiter.account_id)
        if waiters and waiter in waiters:
            waiters.remove(waiter)
            self._after_removal(model, queue, waiter.account_id, waiters)
            queue.changed.set()

    def _after_removal(self, model: str, queue: _ModelQueue, account_id: str, waiters: "deque[Waiter]") -> None:
        self._count_waiting(-1)
        if not waiters:
            del queue.accounts[account_id]
            queue.asking.discard(account_id)
            self._view.leave(model, account_id)

    def _count_waiting(self, by: int) -> None:
        self._waiting += by
        QUEUE_REQUESTS.set(self._waiting)

    def _usable(self, model: str, waiter: Waiter) -> Sequence[int]:
        return self._keys.usable(model, waiter.account_id, tokens=waiter.tokens)

    def _seconds_until(self, model: str, waiter: Waiter) -> float:
        return self._keys.seconds_until(model, waiter.account_id, tokens=waiter.tokens)

    def _wait_min(self, model: str, waiter: Waiter, waiting: int) -> float:
        """Return the expected wait for a usable key, or for a permit if there is none."""
        seconds = self._seconds_until(model, waiter)
        if self._has_room(waiter.account_id):
            return seconds
        permits = self._limits.calls_max
        if self._is_at_own_limit(waiter.account_id):
            permits = self._limits.calls_per_account_max
        else:
            waiting = self._waiting
        return max(seconds, (waiting + 1) * self._call_seconds / permits)

    def _record_account(self, account_id: str) -> None:
        self._is_shared = self._is_shared or bool(
            account_id and self._only_account and account_id != self._only_account
        )
        self._only_account = self._only_account or account_id

    def _has_room(self, account_id: str) -> bool:
        return self._calls_in_total < self._limits.calls_max and not self._is_at_own_limit(account_id)

    def _is_at_own_limit(self, account_id: str) -> bool:
        return bool(account_id) and self._is_shared and self._calls[account_id] >= self._limits.calls_per_account_max

    def _take(self, account_id: str) -> None:
        self._calls[account_id] += 1
        self._calls_in_total += 1

    def _release(self, slot: Slot) -> None:
        waiter = slot.waiter
        duration = self._clock.monotonic() - slot.began
        self._call_seconds += _DURATION_WEIGHT * (duration - self._call_seconds)
        used = waiter.tokens if slot.used is None else slot.used
        if used != waiter.tokens or not slot.requests:
            estimate = (slot.model, slot.key, waiter.account_id, waiter.weight, waiter.tokens)
            self._view.settle(Settlement(*estimate, used=used, requests=slot.requests))
        self._give_back(waiter.account_id)

    def _give_back(self, account_id: str) -> None:
        self._calls_in_total -= 1
        self._calls[account_id] -= 1
        if not self._calls[account_id]:
            del self._calls[account_id]
        for queue in self._models.values():
            queue.changed.set()
