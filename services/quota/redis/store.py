"""Redis store of holds. Each operation is one Lua script, and a batch of operations is one round trip."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from services.common.estimate import Estimate
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
from services.quota.redis import vectors
from services.quota.redis.clock import RedisClock
from services.quota.redis.connections import BatchRedis, Client, connect
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
from services.quota.redis.vectors import DAY_SECONDS, Counts, Vector, Vectors

__all__ = ["RedisHoldStore", "connect"]

_Group = tuple[str, str, Vector]
"""Account id, key id and limits of reservations that share a script call."""
_Request = tuple[str, Estimate | None]
"""Request id and estimate of a reservation."""

_NONE = (0, 0, 0, 0)
_DENIED, _HELD = 0, 1
"""Results of the script for a request. The third one is that the request had a hold before."""


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
        self._vectors = Vectors()
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
            groups.setdefault(self._group(reservation), []).append(i)
        steps = [
            self._reserve_step(
                group, [(reservations[i].request_id, reservations[i].estimate) for i in members], initial
            )
            for group, members in groups.items()
        ]
        results: list[Held | Denied | Uninitialised | CounterUnavailable] = [CounterUnavailable()] * len(reservations)
        for (group, members), answer in zip(groups.items(), await run_each(self._client, steps), strict=True):
            if answer is not None:
                estimates = [reservations[i].estimate for i in members]
                for i, outcome in zip(members, self._outcomes(group, answer, estimates), strict=True):
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
        group = self._group(reservation)
        (answer,) = await run(self._client, [self._reserve_step(group, [], _index(initial_counts))])
        day, now_ms, is_initialised, *rest = answer
        vector = group[2]
        if not is_initialised:
            return self._uninitialised(group, day, rest)
        counts = Counts(day, now_ms / 1000 + self._offset, rest)
        return [self._without_offset(vector.status(i, counts)) for i in range(len(vector.limits))]

    async def status(self, keys: Sequence[KeyRef]) -> Sequence[DayStatus | Uninitialised]:
        """Return today's counts of keys."""
        arguments = (self._offset, *self.clock.days(self._offset))
        steps = [Step(STATUS, (entries_of(key.account_id),), (*arguments, counter_of(key))) for key in keys]
        answers = await run(self._client, steps)
        return [
            Uninitialised(day, self._reset_at(day)) if charged < 0 else self._day_status(day, charged, held)
            for day, charged, held in answers
        ]

    def _group(self, reservation: Reservation) -> _Group:
        return reservation.account_id, reservation.key_id, self._vectors.of(reservation)

    def _reserve_step(self, group: _Group, requests: Sequence[_Request], initial: vectors.InitialCounts) -> Step:
        account_id, key_id, vector = group
        values_each, values = _values(requests)
        arguments = (
            *(self._offset, *self.clock.days(self._offset), self._hold_ms, account_id, key_id, values_each),
            vector.initial(account_id, key_id, initial) if initial else "",
            *vector.arguments,
            *values,
        )
        return Step(RESERVE, (entries_of(account_id), deadlines_of(account_id)), arguments)

    def _outcomes(
        self, group: _Group, answer: list[int], estimates: Sequence[Estimate | None]
    ) -> Iterator[Held | Denied | Uninitialised]:
        day, now_ms, is_initialised, *rest = answer
        self.clock.record_day(day)
        if self._observes:
            self.clock.observe(now_ms / 1000)
        if not is_initialised:
            yield from [self._uninitialised(group, day, rest)] * len(estimates)
            return
        vector = group[2]
        width = 2 * vector.width
        counts = Counts(day, now_ms / 1000 + self._offset, rest[:width])
        tightest, of_tokens = vector.tightest(counts), vector.tightest_of_tokens(counts)
        for state, output_tokens, estimate in zip(rest[width::2], rest[width + 1 :: 2], estimates, strict=True):
            if state == _DENIED:
                yield Denied(self._without_offset(vector.denying(counts, estimate)))
                continue
            if state == _HELD:
                counts.take(estimate, output_tokens)
            status = self._without_offset(vector.status(tightest, counts))
            tokens = None if of_tokens is None else self._without_offset(vector.status(of_tokens, counts))
            yield Held(status, now_ms / 1000, output_tokens, tokens)

    def _uninitialised(self, group: _Group, day: int, flags: Sequence[int]) -> Uninitialised:
        account_id, key_id, vector = group
        return Uninitialised(day, self._reset_at(day), vector.missing(account_id, key_id, day, flags))

    def _without_offset(self, status: LimitStatus) -> LimitStatus:
        """Return a status whose reset is a time of Redis' clock."""
        if not self._offset:
            return status
        counts = status.counts
        return replace(status, counts=replace(counts, reset_at=counts.reset_at - self._offset))

    def _day_status(self, day: int, charged: int, held: int) -> DayStatus:
        return DayStatus(day, charged, held, self._reset_at(day))

    def _reset_at(self, day: int) -> float:
        return (day + 1) * DAY_SECONDS - self._offset


def _index(initial_counts: InitialCounts) -> vectors.InitialCounts:
    return {(one.account_id, one.key_id, one.unit, one.window): (n, one.day) for one, n in initial_counts.items()}


def _values(requests: Sequence[_Request]) -> tuple[int, list[str | int]]:
    """Return how many of the script's values each request has, and the values."""
    if all(estimate is None for _, estimate in requests):
        return 1, [request_id for request_id, _ in requests]
    values: list[str | int] = []
    for request_id, one in requests:
        taken = (one.output_tokens, one.prompt_tokens, one.prompt_cost, one.output_cost_per_million) if one else _NONE
        values += (request_id, *taken)
    return 5, values


def _settle_step(account_id: str, day: int, settlements: Sequence[Settlement]) -> Step:
    arguments: list[str | int] = [account_id, day]
    for one in settlements:
        amounts = ("", "") if one.amounts is None else (one.amounts.tokens, one.amounts.cost)
        arguments += (one.request_id, one.verdict.value, *amounts)
    return Step(SETTLE, (entries_of(account_id), deadlines_of(account_id)), tuple(arguments))
