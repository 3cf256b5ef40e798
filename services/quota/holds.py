"""Holds: reserving and settling requests of the daily limits of a key and of its account.

Daily counters are initialised from the ledger. The first reserve of a day finds no counter, reads the number of charged
requests from the ledger and retries with it. The store uses that number only if there is still no counter. The rules
are in docs/accounting.md.
"""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from services.common.batched import batched
from services.common.errors import ServiceError, Unavailable
from services.common.estimate import Estimate
from services.common.limits import Limit, Unit, Window
from services.common.verdict import Amounts, Verdict
from services.quota.days import first_day_of_next_month
from services.quota.metrics import BATCH_ITEMS, RESERVATIONS, SETTLEMENTS

_MONTH_SECONDS_MAX = 1.0
"""Longest time for which a sum over an account's month delays the others of its batch."""
_MONTHS_AT_ONCE = 8
COUNTERS_MAX = 1_000
"""Maximum number of counters in one call to the ledger."""
_INITIALISE_ATTEMPTS = 3
"""An initial count is for the wrong day when midnight passes in between, which cannot happen twice in a row."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A request for a slot of each limit, and for the tokens and the cost that it may take."""

    request_id: str
    key_id: str
    account_id: str
    limit: int
    """Current limit of the key in requests per day; 0 denies every request."""
    account_limit: int | None = None
    """Current limit of the account in requests per day; None counts without a limit."""
    limits: tuple[Limit, ...] = ()
    """All other limits."""
    estimate: Estimate | None = None
    """None takes no tokens and costs nothing."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """A verdict that closes one hold."""

    request_id: str
    account_id: str
    day: int
    """Day of the reserve, in days since 1970-01-01."""
    verdict: Verdict
    amounts: Amounts | None = None
    """What a charged request has used; None charges all that is held."""


@dataclass(frozen=True, slots=True)
class DayStatus:
    """Counts of a limit, after the operation that returned them."""

    day: int
    """Day of the operation, in days since 1970-01-01."""
    charged: int
    held: int
    reset_at: float
    """Unix time in seconds at which the limit's window ends: for a day, the next 00:00 UTC."""


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """A limit and its counts."""

    limit: Limit
    counts: DayStatus

    @property
    def remaining(self) -> int:
        """What is left; negative if the limit was lowered below what is charged and held."""
        return self.limit.limit - self.counts.charged - self.counts.held


@dataclass(frozen=True, slots=True)
class Held:
    """Outcome of a reservation: all limits allow the request."""

    tightest: LimitStatus
    """Of the limits in requests per day, the one with the least left."""
    reserved_at: float
    """Time of the reserve by Redis' clock, in Unix seconds."""
    output_tokens: int = 0
    """Tokens of output that are held; 0 without an estimate."""
    tokens: LimitStatus | None = None
    """Of the limits of tokens, the one with the least left; None if there is none."""

    @property
    def status(self) -> DayStatus:
        """Counts of the tightest limit."""
        return self.tightest.counts


@dataclass(frozen=True, slots=True)
class Denied:
    """Outcome of a reservation: a limit is reached. Nothing was changed."""

    tightest: LimitStatus
    """The limit that denies the request."""

    @property
    def status(self) -> DayStatus:
        """Counts of that limit."""
        return self.tightest.counts


@dataclass(frozen=True, slots=True)
class Counter:
    """Name of the counter of a key or an account for one window."""

    account_id: str
    key_id: str
    """Empty for the counter of the account."""
    day: int
    """First day of the window, in days since 1970-01-01."""
    unit: Unit = Unit.REQUESTS
    window: Window = Window.DAY
    """A day or a month. Counters of minutes are not stored in the ledger."""

    @property
    def last_day(self) -> int:
        """Last day of the window, in days since 1970-01-01."""
        return self.day if self.window is Window.DAY else first_day_of_next_month(self.day) - 1


@dataclass(frozen=True, slots=True)
class Uninitialised:
    """Outcome of a reservation: there are limits without a counter for this window. Nothing was changed."""

    day: int
    reset_at: float
    """Unix time in seconds of the next 00:00 UTC."""
    counters: tuple[Counter, ...] = ()
    """The missing counters."""


@dataclass(frozen=True, slots=True)
class CounterUnavailable:
    """Outcome of a reservation: a counter could not be initialised or read. Nothing was held."""


@dataclass(frozen=True, slots=True)
class KeyRef:
    """A key and its account."""

    account_id: str
    key_id: str


_OUTCOMES = {
    Held: RESERVATIONS.labels("held"),
    Denied: RESERVATIONS.labels("denied"),
    CounterUnavailable: RESERVATIONS.labels("unavailable"),
}
_SETTLED = {verdict: SETTLEMENTS.labels(verdict.value) for verdict in Verdict}
_RESERVE_ITEMS, _SETTLE_ITEMS = BATCH_ITEMS.labels("Reserve"), BATCH_ITEMS.labels("Settle")

InitialCounts = dict[Counter, int]
"""What the charged ledger rows of each counter have used."""


class HoldStore(Protocol):
    """Store of counters and holds. Each call is atomic for each account.

    Every method raises `errors.Unavailable` when the store cannot be reached. A call that raised may have taken effect.
    """

    async def reserve(
        self, reservations: Sequence[Reservation], initial_counts: InitialCounts
    ) -> Sequence[Held | Denied | Uninitialised | CounterUnavailable]:
        """Hold a slot of all limits, or of none, for each reservation and return the outcomes in order.

        Reserving a request id that already has a hold does not hold a second slot. The outcome is
        `CounterUnavailable` when the account's entries cannot be read; other accounts are not affected.

        Args:
            reservations: Slots to hold.
            initial_counts: Counts to start counters from; ignored for counters that exist.
        """

    async def take_over(self, counters: Sequence[Counter]) -> None:
        """Move counters of keys, with their holds, from the layout of the previous version; fence that layout.

        Afterwards no replica of the previous version admits a request of these keys on these days.
        """

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool | None]:
        """Close holds.

        Returns:
            For each settlement, in order: true if the hold was closed; false if there was none, in which case nothing
            changed; None if the account's entries could not be changed, which does not affect other accounts.
        """

    async def limits(
        self, reservation: Reservation, initial_counts: InitialCounts
    ) -> list[LimitStatus] | Uninitialised:
        """Return the counts of all limits of a reservation, and hold nothing.

        The first two are those in requests per day of the key and of the account.
        """

    async def status(self, keys: Sequence[KeyRef]) -> Sequence[DayStatus | Uninitialised]:
        """Return today's counts of keys, in order, without changing anything."""


class Ledger(Protocol):
    """Port to the usage ledger."""

    async def count_charged(self, counters: Sequence[Counter]) -> list[int]:
        """Return what the charged rows of each counter have used, in order.

        Raises:
            ServiceError: The ledger cannot be read.
        """


class Holds:
    """Reserves and settles slots, with counters initialised from the ledger. Safe for concurrent use and replicas."""

    def __init__(self, store: HoldStore, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger
        self._summing = asyncio.Semaphore(_MONTHS_AT_ONCE)

    async def reserve(self, reservations: Sequence[Reservation]) -> list[Held | Denied | CounterUnavailable]:
        """Hold a slot of all its limits for each reservation, independently, and return the outcomes in order.

        Raises:
            ServiceError: The store cannot be reached. The sweeper closes any holds that were made.
        """
        _RESERVE_ITEMS.observe(len(reservations))
        results: list[Held | Denied | CounterUnavailable] = [CounterUnavailable()] * len(reservations)
        waiting = list(range(len(reservations)))
        initial_counts: InitialCounts = {}
        for _ in range(_INITIALISE_ATTEMPTS):
            outcomes = await self._store.reserve([reservations[i] for i in waiting], initial_counts)
            uninitialised: dict[int, tuple[Counter, ...]] = {}
            for i, outcome in zip(waiting, outcomes, strict=True):
                if isinstance(outcome, Uninitialised):
                    uninitialised[i] = outcome.counters
                else:
                    results[i] = outcome
            initial_counts = await self._initial_counts({one for some in uninitialised.values() for one in some})
            waiting = [i for i, some in uninitialised.items() if initial_counts.keys() >= set(some)]
            if not waiting:
                break
        for result in results:
            _OUTCOMES[type(result)].inc()
        return results

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool | None]:
        """Close holds; returns the same as `HoldStore.settle`.

        Raises:
            ServiceError: The store cannot be reached. It is safe to settle again.
        """
        _SETTLE_ITEMS.observe(len(settlements))
        closed = await self._store.settle(settlements)
        for settlement, flag in zip(settlements, closed, strict=True):
            if flag is not None:
                _SETTLED[settlement.verdict].inc()
        return closed

    async def limits(self, reservation: Reservation) -> list[LimitStatus]:
        """Return the counts of all limits of a reservation; see `HoldStore.limits`.

        Raises:
            ServiceError: The store or the ledger cannot be reached.
        """
        found = await self._store.limits(reservation, {})
        for _ in range(_INITIALISE_ATTEMPTS):
            if not isinstance(found, Uninitialised):
                return found
            await self._take_over(found.counters)
            counts = await self._ledger.count_charged(found.counters)
            found = await self._store.limits(reservation, dict(zip(found.counters, counts, strict=True)))
        raise Unavailable("The counts of the key cannot be read. Try again.", reason="quota_unavailable")

    async def status(self, keys: Sequence[KeyRef]) -> list[DayStatus]:
        """Return today's counts of keys, in order; a key without a counter gets its count from the ledger.

        Raises:
            ServiceError: The store or the ledger cannot be reached.
        """
        found = await self._store.status(keys)
        missing = [
            Counter(key.account_id, key.key_id, state.day)
            for key, state in zip(keys, found, strict=True)
            if isinstance(state, Uninitialised)
        ]
        counts = iter(await self._ledger.count_charged(missing) if missing else [])
        return [
            DayStatus(state.day, next(counts), 0, state.reset_at) if isinstance(state, Uninitialised) else state
            for state in found
        ]

    async def _initial_counts(self, counters: set[Counter]) -> InitialCounts:
        """Return the ledger's counts; counters that it cannot count now are missing, and stay uninitialised."""
        if not counters:
            return {}
        await self._take_over(list(counters))
        counts: InitialCounts = {}
        for some in batched([one for one in counters if one.window is Window.DAY], COUNTERS_MAX):
            with suppress(ServiceError):
                counts |= zip(some, await self._ledger.count_charged(some), strict=True)
        async with asyncio.TaskGroup() as tasks:
            for some in _months(counters):
                tasks.create_task(self._count_months(some, counts))
        return counts

    async def _count_months(self, counters: Sequence[Counter], counts: InitialCounts) -> None:
        """Add the ledger's counts of one account's months, unless that takes too long."""
        async with self._summing:
            with suppress(ServiceError, TimeoutError):
                async with asyncio.timeout(_MONTH_SECONDS_MAX):
                    counts |= zip(counters, await self._ledger.count_charged(counters), strict=True)

    async def _take_over(self, counters: Sequence[Counter]) -> None:
        """Move counters from the previous layout.

        This comes before the ledger is read: what the previous version admits until then must be in the ledger or in
        the holds.
        """
        await self._store.take_over([one for one in counters if one.key_id and one.unit is Unit.REQUESTS])


def _months(counters: Collection[Counter]) -> Iterator[Sequence[Counter]]:
    """Yield the counters of months, those of each account by themselves."""
    months: dict[str, list[Counter]] = {}
    for one in counters:
        if one.window is Window.MONTH:
            months.setdefault(one.account_id, []).append(one)
    for some in months.values():
        yield from batched(some, COUNTERS_MAX)
