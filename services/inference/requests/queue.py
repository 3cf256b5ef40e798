"""The queue for calls to Groq: fair shares between accounts, and one deadline.

A request is sent at once if nothing waits for its model, a permit for a concurrent call is free, and Groq's allowance
has room. Otherwise it waits here for its account's turn (`allowance/shares.py`). A request that would wait too long is
refused at once with the time after which to send it again.

Waiting costs nothing: nothing has been sent. A request that waits holds no permit.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from services.common.runtime.clock import Clock
from services.inference.allowance.model import Admission, AllowanceView, Demand, Settlement
from services.inference.groq.errors import UpstreamBusy, UpstreamError
from services.inference.key_pool.pool import KeyPool
from services.inference.metrics import QUEUE_REFUSED, QUEUE_SECONDS
from services.inference.requests.slots import Limits, Permits, Slot, Waiter
from services.inference.requests.waiting import HEADS_MAX, ModelQueue, WaitingCount, drop_newest_of_longest

_POLL_SECONDS_MAX = 0.5
"""Longest time between two turns. An account's entry in the shared view lives longer than that."""
_POLL_SECONDS_MIN = 0.001
_NO_WAIT = -1.0
"""A maximum wait that admits nothing."""
_TOO_LARGE_COUNTS = 30.0
"""A request that is larger than a limit counts this part of it until Groq refuses it: about a usual request."""


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
        self._permits = Permits(limits, is_shared=is_shared)
        self._models: dict[str, ModelQueue] = {}
        self._waiting = WaitingCount()

    @property
    def calls(self) -> int:
        """Number of calls in progress."""
        return self._permits.used

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
        self._permits.record_account(waiter.account_id)
        most = max(map(self._view.tokens_max, models))
        if waiter.tokens > most:
            # Groq refuses it at once, with an error that says so. An empty allowance, which it would need, never comes.
            waiter.tokens = max(1, int(most / _TOO_LARGE_COUNTS))
        for model in models:
            if (slot := await self._try(model, waiter)) is not None:
                return slot
        began = self._clock.monotonic()
        try:
            return await self._wait(min(models, key=lambda model: self._seconds_until(model, waiter)), waiter, wait_max)
        finally:
            QUEUE_SECONDS.observe(self._clock.monotonic() - began)

    async def _try(self, model: str, waiter: Waiter) -> Slot | None:
        if model in self._models or not self._permits.has_room(waiter.account_id):
            return None
        if not (keys := self._usable(model, waiter)):
            return None
        self._permits.take(waiter.account_id)  # Before the view is asked, so that others see it.
        try:
            demand = Demand(waiter.account_id, waiter.weight, waiter.tokens, keys)
            turn = await self._view.acquire(model, (demand,), grants_max=1, is_waiting=False)
        except BaseException:
            self._give_back(waiter.account_id)
            raise
        if not turn.grants:
            self._give_back(waiter.account_id)
            return None
        return self._slot(model, turn.grants[0].key, waiter)

    async def _wait(self, model: str, waiter: Waiter, wait_max: float) -> Slot:
        await self._enter(model, waiter, wait_max)
        queue = self._models[model]
        try:
            slot = await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and (slot := waiter.granted.result()):
                slot.used, slot.requests = 0, 0
                slot.release()
            queue.remove(waiter)
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
        if not admission.is_admitted or not self._make_room(model, waiter):
            raise self._refusal(model, waiter, admission.seconds)
        waiter.deadline = self._clock.monotonic() + wait_max
        queue = self._models.setdefault(model, self._new_queue(model))
        queue.add(waiter)
        if queue.task is None:
            queue.task = asyncio.get_running_loop().create_task(self._serve(model, queue))

    async def _admit(self, model: str, waiter: Waiter, *, wait_max: float) -> Admission:
        queue = self._models.get(model) or self._new_queue(model)
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

    async def _serve(self, model: str, queue: ModelQueue) -> None:
        """Grant slots until nothing waits for a model."""
        try:
            while queue.accounts:
                queue.changed.clear()
                queue.expire(self._clock.monotonic())
                seconds = await self._grant(model, queue)
                if queue.accounts and seconds > 0:
                    await self._pause(queue, seconds)
        finally:
            del self._models[model]
            queue.refuse_all()

    async def _grant(self, model: str, queue: ModelQueue) -> float:
        """Grant what is possible and return the time until more may be; 0 to try at once."""
        demands, seconds = self._demands(model, queue)
        if not demands:
            return seconds
        turn = await self._view.acquire(model, demands, grants_max=self._permits.free, is_waiting=True)
        if turn.grants or turn.is_behind:
            queue.rotate(demands)
        for position, key in turn.grants:
            self._hand_over(model, queue, demands[position], key)
        return 0.0 if turn.grants else min(seconds, max(turn.seconds, _POLL_SECONDS_MIN))

    def _demands(self, model: str, queue: ModelQueue) -> tuple[list[Demand], float]:
        """Return the demands of accounts that can be served, and the time until others may be."""
        demands: list[Demand] = []
        seconds = _POLL_SECONDS_MAX
        for account_id, waiters in queue.accounts.items():
            if len(demands) >= HEADS_MAX:
                break
            waiter = waiters[0]
            if not self._permits.has_room(account_id):
                queue.pause(account_id)
            elif keys := self._usable(model, waiter):
                demands.append(queue.ask(waiter, keys))
            else:
                queue.pause(account_id)
                seconds = min(seconds, max(self._seconds_until(model, waiter), _POLL_SECONDS_MIN))
        return demands, seconds

    def _hand_over(self, model: str, queue: ModelQueue, demand: Demand, key: int) -> None:
        # While the view was asked, the request may have left, or a call for another model may have taken the permit.
        waiter = queue.take(demand) if self._permits.has_room(demand.account_id) else None
        if waiter is None:
            unused = (model, key, demand.account_id, demand.weight, demand.tokens)
            self._view.settle(Settlement(*unused, used=0, requests=0))
            return
        self._permits.take(waiter.account_id)
        waiter.granted.set_result(self._slot(model, key, waiter))

    async def _pause(self, queue: ModelQueue, seconds: float) -> None:
        """Wait for a time, until the first deadline, or until something changes."""
        longest = max(queue.first_deadline() - self._clock.monotonic(), 0.0)
        await queue.wait_for_change(self._sleep(min(seconds, longest)))

    def _make_room(self, model: str, waiter: Waiter) -> bool:
        """Return whether one more request may wait, after dropping the newest of the longest queue if it is full."""
        has_room = self._waiting.value < self._limits.waiting_max
        if has_room or drop_newest_of_longest(self._models.values(), waiter.account_id):
            return True
        if waiter.account_id not in self._models.get(model, self._new_queue(model)).accounts:
            self._view.leave(model, waiter.account_id)
        return False

    def _new_queue(self, model: str) -> ModelQueue:
        return ModelQueue(model, self._view, self._waiting)

    def _slot(self, model: str, key: int, waiter: Waiter) -> Slot:
        return Slot(self._view, self._release, model, key, waiter, self._clock.monotonic())

    def _usable(self, model: str, waiter: Waiter) -> Sequence[int]:
        return self._keys.usable(model, waiter.account_id, tokens=waiter.tokens)

    def _seconds_until(self, model: str, waiter: Waiter) -> float:
        return self._keys.seconds_until(model, waiter.account_id, tokens=waiter.tokens)

    def _wait_min(self, model: str, waiter: Waiter, waiting: int) -> float:
        """Return the expected wait for a usable key, or for a permit if there is none."""
        until_free = self._permits.seconds_until_free(waiter.account_id, waiting, self._waiting.value)
        return max(self._seconds_until(model, waiter), until_free)

    def _release(self, slot: Slot) -> None:
        waiter = slot.waiter
        self._permits.record_duration(self._clock.monotonic() - slot.began)
        used = waiter.tokens if slot.used is None else slot.used
        if used != waiter.tokens or not slot.requests:
            estimate = (slot.model, slot.key, waiter.account_id, waiter.weight, waiter.tokens)
            self._view.settle(Settlement(*estimate, used=used, requests=slot.requests))
        self._give_back(waiter.account_id)

    def _give_back(self, account_id: str) -> None:
        self._permits.give_back(account_id)
        for queue in self._models.values():
            queue.changed.set()
