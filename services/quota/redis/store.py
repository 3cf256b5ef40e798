"""Redis store of holds. Each operation is one Lua script, and a batch of operations is one round trip."""

import time
from collections.abc import Iterator, Sequence

from services.quota.holds import (
    CounterUnavailable,
    DayStatus,
    Denied,
    Held,
    InitialCounts,
    KeyDay,
    Reservation,
    Settlement,
    Uninitialised,
)
from services.quota.redis.batches import BatchRedis
from services.quota.redis.clock import RedisClock
from services.quota.redis.connections import Client, connect
from services.quota.redis.scripts import RESERVE, SETTLE, STATUS, Step, deadlines_of, entries_of, run, run_each

__all__ = ["RedisHoldStore", "connect"]

_DAY_SECONDS = 86_400


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
        """Hold a slot for each reservation; reservations of the same key share a script call."""
        groups: dict[tuple[str, str, int], list[int]] = {}
        for i, reservation in enumerate(reservations):
            groups.setdefault((reservation.key_id, reservation.account_id, reservation.limit), []).append(i)
        counts = {key_day.key_id: (key_day.day, count) for key_day, count in initial_counts.items()}
        steps = [
            self._reserve_step(group, [reservations[i].request_id for i in members], counts.get(group[0]))
            for group, members in groups.items()
        ]
        results: list[Held | Denied | Uninitialised | CounterUnavailable] = [CounterUnavailable()] * len(reservations)
        for members, answer in zip(groups.values(), await run_each(self._client, steps), strict=True):
            if answer is not None:
                for i, outcome in zip(members, self._outcomes(answer, len(members)), strict=True):
                    results[i] = outcome
        return results

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool | None]:
        """Close holds; settlements of the same key and day share a script call."""
        groups: dict[KeyDay, list[int]] = {}
        for i, settlement in enumerate(settlements):
            groups.setdefault(KeyDay(settlement.key_id, settlement.day), []).append(i)
        steps = [_settle_step(key_day, [settlements[i] for i in members]) for key_day, members in groups.items()]
        closed: list[bool | None] = [None] * len(settlements)
        for members, answer in zip(groups.values(), await run_each(self._client, steps), strict=True):
            for i, flag in zip(members, answer or [], strict=answer is not None):
                closed[i] = flag == 1
        return closed

    async def status(self, key_ids: Sequence[str]) -> Sequence[DayStatus | Uninitialised]:
        """Return today's counts of keys."""
        arguments = (self._offset, *self.clock.days(self._offset))
        steps = [Step(STATUS, (entries_of(key_id),), arguments) for key_id in key_ids]
        answers = await run(self._client, steps)
        return [
            Uninitialised(day, self._reset_at(day)) if charged < 0 else self._day_status(day, charged, held)
            for day, charged, held in answers
        ]

    def _reserve_step(
        self, group: tuple[str, str, int], request_ids: list[str], initial: tuple[int, int] | None
    ) -> Step:
        key_id, account_id, limit = group
        initial_day, initial_count = initial if initial else ("", "")
        days = self.clock.days(self._offset)
        arguments = (self._offset, *days, self._hold_ms, key_id, account_id, limit, initial_day, initial_count)
        return Step(RESERVE, (entries_of(key_id), deadlines_of(key_id)), (*arguments, *request_ids))

    def _outcomes(self, answer: list[int], count: int) -> Iterator[Held | Denied | Uninitialised]:
        day, now_ms, is_initialised, *rest = answer
        self.clock.record_day(day)
        if self._observes:
            self.clock.observe(now_ms / 1000)
        if not is_initialised:
            yield from [Uninitialised(day, self._reset_at(day))] * count
            return
        for is_held, charged, held in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
            status = self._day_status(day, charged, held)
            yield Held(status, reserved_at=now_ms / 1000) if is_held else Denied(status)

    def _day_status(self, day: int, charged: int, held: int) -> DayStatus:
        return DayStatus(day, charged, held, self._reset_at(day))

    def _reset_at(self, day: int) -> float:
        return (day + 1) * _DAY_SECONDS - self._offset


def _settle_step(key_day: KeyDay, settlements: Sequence[Settlement]) -> Step:
    keys = (f"{entries_of(key_day.key_id)}:{key_day.day}", deadlines_of(key_day.key_id))
    pairs = [part for settlement in settlements for part in (settlement.request_id, settlement.verdict.value)]
    return Step(SETTLE, keys, (key_day.key_id, key_day.day, *pairs))
