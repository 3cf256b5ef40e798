"""Redis store of holds. Each operation is one Lua script, and a batch of operations is one round trip."""

import time
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from services.common.estimate import Estimate
from services.common.limits import Limit, Scope, Unit, Window
from services.quota.days import first_day_of_month, first_day_of_next_month
from services.quota.holds import (
    Counter,
    CounterUnavailable,
    DayStatus,
    Denied,
    Held,
    InitialCounts,
    KeyRef,
    LimitStatus,
    Reservation,
    Settlement,
    Uninitialised,
)
from services.quota.redis.batches import BatchRedis
from services.quota.redis.clock import RedisClock
from services.quota.redis.connections import Client, connect
from services.quota.redis.previous_layout import take_over
from services.quota.redis.scripts import (
    RESERVE,
    SETTLE,
    STATUS,
    Step,
    counter_of,
    deadlines_of,
    entries_of,
    run,
    run_each,
)

__all__ = ["RedisHoldStore", "connect"]

_DAY_SECONDS = 86_400
_NO_LIMIT = 10**9
"""More requests than can ever be counted in a day."""
_REQUEST = (1, 0)
_NOTHING = (0, 0)
_NO_COUNT = ("", "")
_Initial = dict[tuple[str, str, Unit, Window | None], tuple[int, int]]
"""By account id, key id, unit and window: the initial count and the first day of its window."""
_Group = tuple[str, str, int, int | None, tuple[Limit, ...], Estimate | None]
"""Account id, key id, limit of the key, limit of the account, other limits, estimate. Members share a script call."""


class RedisHoldStore:
    """Implements `HoldStore` on Redis 7 or Valkey."""

    def __init__(
        self, client: Client, *, hold_seconds: float, clock_offset_seconds: int = 0, clock: RedisClock | None = None
    ) -> None:
        """Create a store.

        Args:
            client: Client from `connect`.
            hold_seconds: Age at which a hold is overdue.
            clock_offset_seconds: Offset added to Redis' clock to determine the day; for tests around midnight.
            clock: Tracks Redis' clock; None creates a new one.
        """
        self._client = client
        self._hold_ms = round(hold_seconds * 1000)
        self._offset = clock_offset_seconds
        self.clock = clock or RedisClock(time.monotonic, hold_seconds=hold_seconds)
        # The nodes of a cluster have separate clocks, which the sweeper reads together.
        self._observes = isinstance(client, BatchRedis)

    async def reserve(
        self, reservations: Sequence[Reservation], initial_counts: InitialCounts
    ) -> Sequence[Held | Denied | Uninitialised | CounterUnavailable]:
        """Hold a slot of all limits for each reservation; reservations of the same key share a script call."""
        groups: dict[_Group, list[int]] = {}
        initial = _index(initial_counts)
        for i, reservation in enumerate(reservations):
            groups.setdefault(_group(reservation), []).append(i)
        steps = [
            self._reserve_step(group, [reservations[i].request_id for i in members], initial)
            for group, members in groups.items()
        ]
        results: list[Held | Denied | Uninitialised | CounterUnavailable] = [CounterUnavailable()] * len(reservations)
        for (group, members), answer in zip(groups.items(), await run_each(self._client, steps), strict=True):
            if answer is not None:
                for i, outcome in zip(members, self._outcomes(group, answer, len(members)), strict=True):
                    results[i] = outcome
        return results

    async def take_over(self, counters: Sequence[Counter]) -> None:
        """Move counters of keys from the layout of the previous version; see `HoldStore.take_over`."""
        await take_over(self._client, counters, hold_ms=self._hold_ms)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool | None]:
        """Close holds; settlements of the same account and day share a script call."""
        groups: dict[tuple[str, int], list[int]] = {}
        for i, settlement in enumerate(settlements):
            groups.setdefault((settlement.account_id, settlement.day), []).append(i)
        steps = [_settle_step(*group, [settlements[i] for i in members]) for group, members in groups.items()]
        closed: list[bool | None] = [None] * len(settlements)
        for members, answer in zip(groups.values(), await run_each(self._client, steps), strict=True):
            for i, flag in zip(members, answer or [], strict=answer is not None):
                closed[i] = flag == 1
        return closed

    async def limits(
        self, reservation: Reservation, initial_counts: InitialCounts
    ) -> list[LimitStatus] | Uninitialised:
        """Return the counts of a reservation's limits; see `HoldStore.limits`."""
        group = _group(reservation)
        (answer,) = await run(self._client, [self._reserve_step(group, [], _index(initial_counts))])
        day, now_ms, is_initialised, *rest = answer
        limits = _limits(group)
        if not is_initialised:
            return self._uninitialised(day, group, [limit for limit, gone in zip(limits, rest, strict=True) if gone])
        return self._statuses(limits, rest, day, now_ms / 1000)

    async def status(self, keys: Sequence[KeyRef]) -> Sequence[DayStatus | Uninitialised]:
        """Return today's counts of keys."""
        arguments = (self._offset, *self.clock.days(self._offset))
        steps = [Step(STATUS, (entries_of(key.account_id),), (*arguments, counter_of(key))) for key in keys]
        answers = await run(self._client, steps)
        return [
            Uninitialised(day, self._reset_at(day)) if charged < 0 else self._day_status(day, charged, held)
            for day, charged, held in answers
        ]

    def _reserve_step(self, group: _Group, request_ids: list[str], initial: _Initial) -> Step:
        account_id, key_id, *_, estimate = group
        limits = _limits(group)
        arguments: list[str | int] = [self._offset, *self.clock.days(self._offset), self._hold_ms, account_id, key_id]
        arguments += (estimate.output_tokens if estimate else 0, len(limits))
        for limit in limits:
            counter = account_id, _owner(limit, key_id), limit.unit, limit.window
            arguments += (limit.window or "concurrent", _counter_field(limit, account_id, key_id), limit.limit)
            arguments += (*_taken(limit, estimate), *initial.get(counter, _NO_COUNT))
        return Step(RESERVE, (entries_of(account_id), deadlines_of(account_id)), (*arguments, *request_ids))

    def _outcomes(self, group: _Group, answer: list[int], count: int) -> Iterator[Held | Denied | Uninitialised]:
        limits, (day, now_ms, is_initialised, *rest) = _limits(group), answer
        self.clock.record_day(day)
        if self._observes:
            self.clock.observe(now_ms / 1000)
        if not is_initialised:
            missing = [limit for limit, is_missing in zip(limits, rest, strict=True) if is_missing]
            yield from [self._uninitialised(day, group, missing)] * count
            return
        now, width = now_ms / 1000, 2 + 2 * len(limits)
        for start in range(0, len(rest), width):
            is_held, output_tokens, *counts = rest[start : start + width]
            statuses = self._statuses(limits, counts, day, now)
            if is_held:
                tokens = _tightest(one for one in statuses if one.limit.unit is Unit.TOKENS)
                yield Held(_tightest(_of_requests(statuses)) or statuses[0], now, output_tokens, tokens)
            else:
                yield Denied(_denying(statuses, group[-1]))

    def _uninitialised(self, day: int, group: _Group, limits: Sequence[Limit]) -> Uninitialised:
        counters = tuple(
            Counter(group[0], _owner(limit, group[1]), _first_day(day, limit.window), limit.unit, limit.window)
            for limit in limits
            if limit.window is not None
        )
        return Uninitialised(day, self._reset_at(day), counters)

    def _statuses(self, limits: Sequence[Limit], counts: Sequence[int], day: int, now: float) -> list[LimitStatus]:
        pairs = zip(counts[::2], counts[1::2], strict=True)
        return [
            LimitStatus(limit, DayStatus(day, charged, held, self._window_end(limit.window, day, now)))
            for limit, (charged, held) in zip(limits, pairs, strict=True)
        ]

    def _window_end(self, window: Window | None, day: int, now: float) -> float:
        if window is Window.DAY:
            return self._reset_at(day)
        if window is Window.MONTH:
            return self._reset_at(first_day_of_next_month(day) - 1)
        return ((now + self._offset) // 60 + 1) * 60 - self._offset

    def _day_status(self, day: int, charged: int, held: int) -> DayStatus:
        return DayStatus(day, charged, held, self._reset_at(day))

    def _reset_at(self, day: int) -> float:
        return (day + 1) * _DAY_SECONDS - self._offset


def _group(reservation: Reservation) -> _Group:
    one = reservation
    return one.account_id, one.key_id, one.limit, one.account_limit, one.limits, one.estimate


def _limits(group: _Group) -> list[Limit]:
    """Return all limits of a group. The account's requests are counted even without a limit."""
    _, _, limit, account_limit, others, _ = group
    of_account = _NO_LIMIT if account_limit is None else account_limit
    return [_daily(Scope.KEY, limit), _daily(Scope.ACCOUNT, of_account), *others]


@lru_cache(maxsize=1_000)
def _daily(scope: Scope, limit: int) -> Limit:
    return Limit(scope, Unit.REQUESTS, Window.DAY, min(limit, _NO_LIMIT))


def _owner(limit: Limit, key_id: str) -> str:
    return key_id if limit.scope is Scope.KEY else ""


def _counter_field(limit: Limit, account_id: str, key_id: str) -> str:
    unit = Unit.REQUESTS if limit.unit is Unit.CONCURRENT_REQUESTS else limit.unit
    suffix = "_minute" if limit.window is Window.MINUTE else ""
    return f"{key_id if limit.scope is Scope.KEY else account_id}:{unit}{suffix}"


def _taken(limit: Limit, estimate: Estimate | None) -> tuple[int, int]:
    """Return what a request takes of a limit without output, and for each million tokens of output."""
    if limit.unit is Unit.TOKENS:
        return (estimate.prompt_tokens, 1_000_000) if estimate else _NOTHING
    if limit.unit is Unit.COST:
        return (estimate.prompt_cost, estimate.output_cost_per_million) if estimate else _NOTHING
    return _REQUEST


def _index(initial_counts: InitialCounts) -> _Initial:
    return {(one.account_id, one.key_id, one.unit, one.window): (n, one.day) for one, n in initial_counts.items()}


def _first_day(day: int, window: Window | None) -> int:
    return first_day_of_month(day) if window is Window.MONTH else day


def _of_requests(statuses: Iterable[LimitStatus]) -> Iterator[LimitStatus]:
    """Yield the limits in requests per day, except where there is none."""
    for one in statuses:
        if one.limit.unit is Unit.REQUESTS and one.limit.window is Window.DAY and one.limit.limit < _NO_LIMIT:
            yield one


def _tightest(statuses: Iterable[LimitStatus]) -> LimitStatus | None:
    """Return the limit with the least left; the first one if several have the same."""
    return min(statuses, key=lambda one: one.remaining, default=None)


def _denying(statuses: Sequence[LimitStatus], estimate: Estimate | None) -> LimitStatus:
    """Return the limit that denies a request: of several, the one that resets last, and then has the least left."""
    least_output = 1 if estimate and estimate.output_tokens else 0

    def denies(one: LimitStatus) -> bool:
        base, rate = _taken(one.limit, estimate)
        return one.remaining < base + -(-least_output * rate // 1_000_000)

    denying = [one for one in statuses if denies(one)]
    return max(denying, key=lambda one: (one.counts.reset_at, -one.remaining), default=statuses[0])


def _settle_step(account_id: str, day: int, settlements: Sequence[Settlement]) -> Step:
    arguments: list[str | int] = [account_id, day]
    for one in settlements:
        amounts = ("", "") if one.amounts is None else (one.amounts.tokens, one.amounts.cost)
        arguments += (one.request_id, one.verdict.value, *amounts)
    return Step(SETTLE, (entries_of(account_id), deadlines_of(account_id)), tuple(arguments))
