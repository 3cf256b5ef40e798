"""A replica's own view of Groq's limits, in memory."""

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

from services.common.runtime.clock import Clock
from services.common.wildcards import permits
from services.inference.allowance.buckets import Buckets
from services.inference.allowance.model import Admission, Demand, Grant, Limits, Observation, Settlement, Turn, Window
from services.inference.allowance.shares import RETRY_SPACING, Appointments, Shares

ACTIVE = 1 / 6
"""Part of a minute for which an account that was served counts as competing for the allowance."""
LEFT_STEPS = 20
"""In how many steps it is compared what keys have left."""
_NEXT_SECONDS = 0.001
"""Seconds to wait before the other demands are retried if one of them comes first."""
_MODELS_MAX = 1_000
"""Maximum number of models, since callers choose the names."""
_ACCOUNTS_MAX = 1_000
_GRACE_SECONDS_MIN = 5.0
"""Minimum time for which an appointment is kept for a client that is late."""


class _Model:
    """State of one model."""

    def __init__(self) -> None:
        self.keys: dict[int, Buckets] = {}
        self.shares = Shares()
        self.appointments: OrderedDict[str, Appointments] = OrderedDict()


class OwnView:
    """Implements `AllowanceView` for one process."""

    def __init__(
        self,
        clock: Clock,
        *,
        configured: Mapping[str, Limits] | None = None,
        minute_seconds: float = 60.0,
        day_seconds: float = 86_400.0,
    ) -> None:
        """Create a view in which nothing is used.

        Args:
            clock: Source of monotonic time.
            configured: Limits by model name or pattern with `*`, in order of precedence; they replace Groq's.
            minute_seconds: Length of the windows of a minute.
            day_seconds: Length of the windows of a day.
        """
        self._clock = clock
        self._configured = configured or {}
        self.seconds = {window: day_seconds if window.is_daily else minute_seconds for window in Window}
        self._models: OrderedDict[str, _Model] = OrderedDict()

    async def acquire(self, model: str, demands: Sequence[Demand], *, grants_max: int, is_waiting: bool) -> Turn:
        """Take the allowance for as many demands as possible; see `AllowanceView.acquire`."""
        state, now = self._model(model), self._clock.monotonic()
        shares = state.shares
        if is_waiting:
            for demand in demands:
                shares.ask(demand.account_id, demand.weight)
        first_other = shares.first_other({demand.account_id for demand in demands})
        grants: list[Grant] = []
        order: Sequence[int] = range(len(demands))
        if len(demands) > 1:
            order = sorted(order, key=lambda position: shares.start(demands[position].account_id))
        for position in order:
            if len(grants) >= grants_max:
                break
            demand = demands[position]
            # Passing an account by less than one request saves a round, and the order evens it out.
            if first_other + demand.tokens / demand.weight < shares.start(demand.account_id):
                return Turn(grants, _NEXT_SECONDS, is_behind=True)
            seconds, key = self._best_key(model, state, demand, now)
            if seconds:
                return Turn(grants, seconds)
            self.take(model, key, demand, now)
            if demand.waiting_requests <= 1:
                shares.leave(demand.account_id)
            grants.append(Grant(position, key))
        return Turn(grants, 0.0)

    def tokens_max(self, model: str) -> float:
        """Return the most tokens of one request; see `AllowanceView.tokens_max`."""
        state = self._models.get(model)
        return max((one.tokens_max() for one in state.keys.values()), default=math.inf) if state else math.inf

    def take(self, model: str, key: int, demand: Demand, now: float) -> None:
        """Count a request that is granted."""
        state = self._model(model)
        self._buckets(model, state, key, now).take(demand.tokens, now)
        state.shares.serve(demand.account_id, demand.tokens, demand.weight, now)

    async def admit(self, model: str, demand: Demand, *, wait_max: float, wait_min: float) -> Admission:
        """Decide whether a request may wait; see `AllowanceView.admit`."""
        state, now = self._model(model), self._clock.monotonic()
        served_since = now - self.seconds[Window.REQUESTS_PER_MINUTE] * ACTIVE
        share = state.shares.share(demand.account_id, demand.weight, served_since=served_since)
        buckets = [self._buckets(model, state, key, now) for key in demand.keys]
        first = max(wait_min, min((one.seconds_until(demand.tokens, now) for one in buckets), default=0.0))
        owed = state.shares.owed(demand.account_id, demand.weight)
        tokens = demand.waiting_tokens + owed
        queued = _together(buckets, tokens, demand.waiting_requests + owed / max(1, demand.tokens), now) / share
        one = _together(buckets, demand.tokens, 1, now) / share
        wait = first + queued
        appointments = self._appointments(state, demand.account_id)
        is_backlogged = appointments.expire(now, max(wait_max, _GRACE_SECONDS_MIN))
        due = appointments.due(now + wait_max)
        if wait <= wait_max and (not is_backlogged or appointments.keep(now) or queued + due * one <= wait_max / 2):
            state.shares.enter(demand.account_id, demand.weight)
            return Admission(True, wait)
        earliest = max(first, wait - max(0.0, wait_max) / 2)
        return Admission(False, appointments.make(now, earliest, RETRY_SPACING * one))

    def pause(self, model: str, account_id: str) -> None:
        """Record that an account waits, but could not be served now."""
        self._model(model).shares.pause(account_id)

    def leave(self, model: str, account_id: str) -> None:
        """Record that nothing of an account waits any more."""
        self._model(model).shares.leave(account_id)

    def settle(self, settlement: Settlement) -> None:
        """Correct the estimate of a request that was granted."""
        model, now = settlement.model, self._clock.monotonic()
        state, estimated, used = self._model(model), settlement.estimated, settlement.used
        self._buckets(model, state, settlement.key, now).settle(estimated, used, settlement.requests, now)
        state.shares.correct(settlement.account_id, used - estimated, settlement.weight)

    def observe(self, model: str, key: int, observations: Sequence[Observation]) -> None:
        """Record what Groq reports."""
        now = self._clock.monotonic()
        self._buckets(model, self._model(model), key, now).observe(observations, now)

    def replace(self, model: str, key: int, counts: Mapping[Window, tuple[int, float]]) -> None:
        """Take over limits and what is used of them, by the shared view; a limit of 0 is not known."""
        now = self._clock.monotonic()
        self._buckets(model, self._model(model), key, now).replace(counts, now)

    def remaining(self) -> Iterator[tuple[int, str, Window, float]]:
        """Yield key, model, window and what is left of each known limit."""
        now = self._clock.monotonic()
        for name, state in self._models.items():
            for key, buckets in state.keys.items():
                for window, left in buckets.remaining(now).items():
                    yield key, name, window, left

    @property
    def is_shared(self) -> bool:
        """Whether it follows the view of all replicas. It does not."""
        return False

    def allowances(self) -> Iterator[tuple[int, str, Window, int, float]]:
        """Yield key, model, window, limit and what is left of it, for each known limit."""
        now = self._clock.monotonic()
        for name, state in self._models.items():
            for key, buckets in state.keys.items():
                for window, (limit, left) in buckets.allowances(now).items():
                    yield key, name, window, limit, left

    def configured(self, model: str) -> Limits:
        """Return the configured limits of a model."""
        return next((limits for name, limits in self._configured.items() if permits([name], model)), {})

    def _best_key(self, model: str, state: _Model, demand: Demand, now: float) -> tuple[float, int]:
        """Return the time until a key can be used and the key: of those that can be now, the one with most left.

        Keys with about the same left take turns.
        """
        if len(demand.keys) == 1:
            return self._buckets(model, state, demand.keys[0], now).seconds_until(demand.tokens, now), demand.keys[0]
        buckets = [(self._buckets(model, state, key, now), key) for key in demand.keys]
        ranked = [
            (one.seconds_until(demand.tokens, now), -round(one.left(now) * LEFT_STEPS), key) for one, key in buckets
        ]
        seconds, _, key = min(ranked, key=lambda rank: rank[:2])
        return seconds, key

    def _buckets(self, model: str, state: _Model, key: int, now: float) -> Buckets:
        buckets = state.keys.get(key)
        if buckets is None:
            buckets = state.keys[key] = Buckets(self.configured(model), self.seconds, now)
        return buckets

    def _model(self, name: str) -> _Model:
        state = self._models.get(name)
        if state is None:
            state = self._models[name] = _Model()
            if len(self._models) > _MODELS_MAX:
                self._models.popitem(last=False)
        else:
            self._models.move_to_end(name)
        return state

    def _appointments(self, state: _Model, account_id: str) -> Appointments:
        found = state.appointments.setdefault(account_id, Appointments())
        state.appointments.move_to_end(account_id)
        if len(state.appointments) > _ACCOUNTS_MAX:
            state.appointments.popitem(last=False)
        return found


def _together(buckets: Sequence[Buckets], tokens: float, requests: float, now: float) -> float:
    """Return how long requests take at the rates of all keys together."""
    times = [one.seconds_for(tokens, requests, now) for one in buckets]
    if not times or min(times) <= 0:
        return 0.0
    return 1 / sum(1 / time for time in times)
