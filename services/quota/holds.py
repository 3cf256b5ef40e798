"""Holds: reserving and settling slots of a key's daily limit.

A key's daily counter is initialised from the ledger. The first reserve of a day finds no counter, reads the number of
charged requests from the ledger and retries with it. The store uses that number only if there is still no counter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.common.errors import ServiceError
from services.common.verdict import Verdict
from services.quota.metrics import BATCH_ITEMS, RESERVATIONS, SETTLEMENTS

_INITIALISE_ATTEMPTS = 3
"""An initial count is for the wrong day when midnight passes in between, which cannot happen twice in a row."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A request for one slot."""

    request_id: str
    key_id: str
    account_id: str
    limit: int
    """Current limit in requests per day; 0 denies every request."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """A verdict that closes one hold."""

    request_id: str
    key_id: str
    day: int
    """Day of the reserve, in days since 1970-01-01."""
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class DayStatus:
    """A key's counts for one day, after the operation that returned them."""

    day: int
    """Days since 1970-01-01."""
    charged: int
    held: int
    reset_at: float
    """Unix time in seconds of the next 00:00 UTC."""


@dataclass(frozen=True, slots=True)
class Held:
    """Outcome of a reservation: the slot is held."""

    status: DayStatus
    reserved_at: float
    """Time of the reserve by Redis' clock, in Unix seconds."""


@dataclass(frozen=True, slots=True)
class Denied:
    """Outcome of a reservation: the limit is reached. Nothing was changed."""

    status: DayStatus


@dataclass(frozen=True, slots=True)
class Uninitialised:
    """Outcome of a reservation: the key has no counter for this day yet. Nothing was changed."""

    day: int
    reset_at: float
    """Unix time in seconds of the next 00:00 UTC."""


@dataclass(frozen=True, slots=True)
class CounterUnavailable:
    """Outcome of a reservation: the key's counter could not be initialised or read. Nothing was held."""


@dataclass(frozen=True, slots=True)
class KeyDay:
    """A key and a day."""

    key_id: str
    day: int
    """Days since 1970-01-01."""


_OUTCOMES = {
    Held: RESERVATIONS.labels("held"),
    Denied: RESERVATIONS.labels("denied"),
    CounterUnavailable: RESERVATIONS.labels("unavailable"),
}
_SETTLED = {verdict: SETTLEMENTS.labels(verdict.value) for verdict in Verdict}
_RESERVE_ITEMS, _SETTLE_ITEMS = BATCH_ITEMS.labels("Reserve"), BATCH_ITEMS.labels("Settle")

InitialCounts = dict[KeyDay, int]
"""Number of charged ledger rows by key and day."""


class HoldStore(Protocol):
    """Store of counters and holds. Each call is atomic for each key.

    Every method raises `errors.Unavailable` when the store cannot be reached. A call that raised may have taken effect.
    """

    async def reserve(
        self, reservations: Sequence[Reservation], initial_counts: InitialCounts
    ) -> Sequence[Held | Denied | Uninitialised | CounterUnavailable]:
        """Hold a slot for each reservation and return the outcomes in order.

        Reserving a request id that already has a hold does not hold a second slot. The outcome is
        `CounterUnavailable` when the key's entries cannot be read; other keys are not affected.

        Args:
            reservations: Slots to hold.
            initial_counts: Counts to start counters from; ignored for keys that have a counter.
        """

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool | None]:
        """Close holds.

        Returns:
            For each settlement, in order: true if the hold was closed; false if there was none, in which case nothing
            changed; None if the key's entries could not be changed, which does not affect other keys.
        """

    async def status(self, key_ids: Sequence[str]) -> Sequence[DayStatus | Uninitialised]:
        """Return today's counts of keys, in order, without changing anything."""


class Ledger(Protocol):
    """Port to the usage ledger."""

    async def count_charged(self, key_days: Sequence[KeyDay]) -> list[int]:
        """Return the number of charged rows of each key and day, in order.

        Raises:
            ServiceError: The ledger cannot be read.
        """


class Holds:
    """Reserves and settles slots, with counters initialised from the ledger. Safe for concurrent use and replicas."""

    def __init__(self, store: HoldStore, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger

    async def reserve(self, reservations: Sequence[Reservation]) -> list[Held | Denied | CounterUnavailable]:
        """Hold a slot for each reservation, independently, and return the outcomes in order.

        Raises:
            ServiceError: The store cannot be reached. The sweeper closes any holds that were made.
        """
        _RESERVE_ITEMS.observe(len(reservations))
        results: list[Held | Denied | CounterUnavailable] = [CounterUnavailable()] * len(reservations)
        waiting = list(range(len(reservations)))
        initial_counts: InitialCounts = {}
        for _ in range(_INITIALISE_ATTEMPTS):
            outcomes = await self._store.reserve([reservations[i] for i in waiting], initial_counts)
            uninitialised: dict[int, KeyDay] = {}
            for i, outcome in zip(waiting, outcomes, strict=True):
                if isinstance(outcome, Uninitialised):
                    uninitialised[i] = KeyDay(reservations[i].key_id, outcome.day)
                else:
                    results[i] = outcome
            initial_counts = await self._count(set(uninitialised.values()))
            waiting = [i for i, key_day in uninitialised.items() if key_day in initial_counts]
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

    async def status(self, key_ids: Sequence[str]) -> list[DayStatus]:
        """Return today's counts of keys, in order; a key without a counter gets its count from the ledger.

        Raises:
            ServiceError: The store or the ledger cannot be reached.
        """
        found = await self._store.status(key_ids)
        missing = [
            KeyDay(key_id, state.day)
            for key_id, state in zip(key_ids, found, strict=True)
            if isinstance(state, Uninitialised)
        ]
        counts = iter(await self._ledger.count_charged(missing) if missing else [])
        return [
            DayStatus(state.day, next(counts), 0, state.reset_at) if isinstance(state, Uninitialised) else state
            for state in found
        ]

    async def _count(self, key_days: set[KeyDay]) -> InitialCounts:
        """Return the ledger's counts; empty when the ledger is unavailable, so the keys stay uninitialised."""
        if not key_days:
            return {}
        ordered = list(key_days)
        try:
            return dict(zip(ordered, await self._ledger.count_charged(ordered), strict=True))
        except ServiceError:
            return {}
