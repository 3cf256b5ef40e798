"""Redis store of holds. Each operation is one Lua script, and a batch of operations is one round trip."""

import time
from collections.abc import Iterator, Sequence

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
    Scope,
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
_NO_LIMIT = 10**12
"""More requests than can ever be counted."""
_SCOPES = (Scope.KEY, Scope.ACCOUNT)
_Group = tuple[str, str, int, int]
"""Account id, key id, limit of the key, limit of the account."""


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
        for i, reservation in enumerate(reservations):
            groups.setdefault(_group(reservation), []).append(i)
        steps = [
            self._reserve_step(group, [reservations[i].request_id for i in members], initial_counts)
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

    async def status(self, keys: Sequence[KeyRef]) -> Sequence[DayStatus | Uninitialised]:
        """Return today's counts of keys."""
        arguments = (self._offset, *self.clock.days(self._offset))
        steps = [Step(STATUS, (entries_of(key.account_id),), (*arguments, counter_of(key))) for key in keys]
        answers = await run(self._client, steps)
        return [
            Uninitialised(day, self._reset_at(day)) if charged < 0 else self._day_status(day, charged, held)
            for day, charged, held in answers
        ]

    def _reserve_step(self, group: _Group, request_ids: list[str], initial_counts: InitialCounts) -> Step:
        account_id, key_id, limit, account_limit = group
        initial_day, *initial = _initial(account_id, key_id, initial_counts) if initial_counts else ("", "", "")
        arguments = (
            *(self._offset, *self.clock.days(self._offset), self._hold_ms, account_id, key_id, initial_day, 2),
            *(f"{key_id}:requests", limit, 1, initial[0]),
            *(f"{account_id}:requests", account_limit, 1, initial[1]),
        )
        return Step(RESERVE, (entries_of(account_id), deadlines_of(account_id)), (*arguments, *request_ids))

    def _outcomes(self, group: _Group, answer: list[int], count: int) -> Iterator[Held | Denied | Uninitialised]:
        day, now_ms, is_initialised, *rest = answer
        self.clock.record_day(day)
        if self._observes:
            self.clock.observe(now_ms / 1000)
        if not is_initialised:
            scopes = tuple(scope for scope, is_missing in zip(_SCOPES, rest, strict=True) if is_missing)
            yield from [Uninitialised(day, self._reset_at(day), scopes)] * count
            return
        for start in range(0, len(rest), 5):
            tightest = self._tightest(group, day, rest[start + 1 : start + 5])
            yield Held(tightest, reserved_at=now_ms / 1000) if rest[start] else Denied(tightest)

    def _tightest(self, group: _Group, day: int, counts: list[int]) -> LimitStatus:
        """Return the limit with the least left; the key's if both have the same."""
        _, _, limit, account_limit = group
        charged, held, account_charged, account_held = counts
        if account_limit != _NO_LIMIT and account_limit - account_charged - account_held < limit - charged - held:
            return LimitStatus(Scope.ACCOUNT, account_limit, self._day_status(day, account_charged, account_held))
        return LimitStatus(Scope.KEY, limit, self._day_status(day, charged, held))

    def _day_status(self, day: int, charged: int, held: int) -> DayStatus:
        return DayStatus(day, charged, held, self._reset_at(day))

    def _reset_at(self, day: int) -> float:
        return (day + 1) * _DAY_SECONDS - self._offset


def _group(reservation: Reservation) -> _Group:
    account_limit = _NO_LIMIT if reservation.account_limit is None else reservation.account_limit
    return reservation.account_id, reservation.key_id, reservation.limit, account_limit


def _initial(account_id: str, key_id: str, initial_counts: InitialCounts) -> tuple[int | str, int | str, int | str]:
    """Return the day and the initial counts of a key and its account; empty texts for those that are not given."""
    day = next(iter(initial_counts)).day
    of_key, of_account = (initial_counts.get(Counter(account_id, one, day), "") for one in (key_id, ""))
    return day, of_key, of_account


def _settle_step(account_id: str, day: int, settlements: Sequence[Settlement]) -> Step:
    keys = (f"{entries_of(account_id)}:{day}", deadlines_of(account_id))
    pairs = [part for settlement in settlements for part in (settlement.request_id, settlement.verdict.value)]
    return Step(SETTLE, keys, (account_id, day, *pairs))
