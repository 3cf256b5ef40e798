"""The hold: a slot of a key's day, from its reserve to its verdict.

A key's counter of the day is grounded in the ledger: the first reserve of a day finds none, asks the ledger how many
requests were charged already, and brings that count along. The store takes it only when there is still no counter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.common.errors import ServiceError
from services.common.verdict import Verdict
from services.quota.metrics import BATCH_ITEMS, RESERVATIONS, SETTLEMENTS

_INITIALISE_ATTEMPTS = 3
"""A seed may be for yesterday when midnight passed meanwhile; twice in a row does not happen."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A request's wish for one slot."""

    request_id: str
    key_id: str
    account_id: str
    limit: int
    """Requests a day in force now; 0 admits nothing."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of one hold."""

    request_id: str
    key_id: str
    day: int
    """Days since 1970-01-01, of the reserve."""
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class DayStatus:
    """A key's day, after the step that it comes with."""

    day: int
    """Days since 1970-01-01."""
    charged: int
    held: int
    reset_at: float
    """Unix time in seconds of the next 00:00 UTC."""


@dataclass(frozen=True, slots=True)
class Held:
    """The slot is held."""

    status: DayStatus
    reserved_at: float
    """Redis' time of the hold; Unix seconds."""


@dataclass(frozen=True, slots=True)
class Denied:
    """Charged and held requests fill the limit; nothing was changed."""

    status: DayStatus


@dataclass(frozen=True, slots=True)
class Uninitialised:
    """The key has no counter for this day yet; nothing was changed."""

    day: int
    reset_at: float
    """Unix time in seconds of the next 00:00 UTC."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The key's counter could not be grounded just now; nothing is known and nothing was held."""


@dataclass(frozen=True, slots=True)
class KeyDay:
    """One key on one day."""

    key_id: str
    day: int


_OUTCOMES = {kind: RESERVATIONS.labels(kind.__name__.lower()) for kind in (Held, Denied, Unavailable)}
_SETTLED = {verdict: SETTLEMENTS.labels(verdict.value) for verdict in Verdict}
_RESERVE_ITEMS, _SETTLE_ITEMS = BATCH_ITEMS.labels("Reserve"), BATCH_ITEMS.labels("Settle")

InitialCounts = dict[KeyDay, int]
"""Charged rows of the ledger, by key and day."""


class HoldStore(Protocol):
    """Counters and holds. Every call is one step for each key: others see it whole or not at all.

    All raise `Unavailable` of the error tree when the store cannot be reached; a call that raised may have happened.
    """

    async def reserve(
        self, reservations: Sequence[Reservation], initial_counts: InitialCounts
    ) -> Sequence[Held | Denied | Uninitialised | Unavailable]:
        """Hold a slot for each reservation, in order; a request id that is held already is held once.

        `Unavailable` stands for a reservation of a key whose entries cannot be read; it affects no other key.

        Args:
            reservations: What to hold.
            seeds: Counts to start a counter from; used only where there is none.
        """

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool | None]:
        """Close holds, in order.

        Returns:
            For each settlement, true when the hold was closed; false when there was none, and then nothing is changed;
            None when the key's entries cannot be changed, which affects no other key.
        """

    async def status(self, key_ids: Sequence[str]) -> Sequence[DayStatus | Uninitialised]:
        """Return today's state of keys, in order, changing nothing."""


class Ledger(Protocol):
    """What really happened, as far as quota needs to know."""

    async def count_charged(self, key_days: Sequence[KeyDay]) -> list[int]:
        """Return the charged rows of each key and day, in order.

        Raises:
            ServiceError: The ledger cannot be read just now.
        """


class Holds:
    """Reserves and settles, with counters grounded in the ledger. Safe to use concurrently and by many replicas."""

    def __init__(self, store: HoldStore, ledger: Ledger) -> None:
        """Work on `store`, seeding from `ledger`."""
        self._store = store
        self._ledger = ledger

    async def reserve(self, reservations: Sequence[Reservation]) -> list[Held | Denied | Unavailable]:
        """Hold a slot for each reservation, in order, each on its own.

        Raises:
            ServiceError: The store cannot be reached; what was held of it is the sweeper's.
        """
        _RESERVE_ITEMS.observe(len(reservations))
        results: list[Held | Denied | Unavailable] = [Unavailable()] * len(reservations)
        waiting = list(range(len(reservations)))
        initial_counts: InitialCounts = {}
        for _ in range(_INITIALISE_ATTEMPTS):
            outcomes = await self._store.reserve([reservations[i] for i in waiting], initial_counts)
            unseeded: dict[int, KeyDay] = {}
            for i, outcome in zip(waiting, outcomes, strict=True):
                if isinstance(outcome, Uninitialised):
                    unseeded[i] = KeyDay(reservations[i].key_id, outcome.day)
                else:
                    results[i] = outcome
            initial_counts = await self._count(set(unseeded.values()))
            waiting = [i for i, key_day in unseeded.items() if key_day in initial_counts]
            if not waiting:
                break
        for result in results:
            _OUTCOMES[type(result)].inc()
        return results

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool | None]:
        """Close holds, in order; false where there was none, None where it failed for this key alone.

        Raises:
            ServiceError: The store cannot be reached; settling again is harmless.
        """
        _SETTLE_ITEMS.observe(len(settlements))
        closed = await self._store.settle(settlements)
        for settlement, flag in zip(settlements, closed, strict=True):
            if flag is not None:
                _SETTLED[settlement.verdict].inc()
        return closed

    async def status(self, key_ids: Sequence[str]) -> list[DayStatus]:
        """Return today's state of keys, in order; a key without a counter is read from the ledger.

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
        """Return what the ledger knows; empty when it is away, which leaves the keys unseeded."""
        if not key_days:
            return {}
        wanted = list(key_days)
        try:
            return dict(zip(wanted, await self._ledger.count_charged(wanted), strict=True))
        except ServiceError:
            return {}
