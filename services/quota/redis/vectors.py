"""The vector of limits of a reserve: what the script gets for each limit, and what its counts mean."""

from collections.abc import Sequence
from typing import NamedTuple

from services.common.estimate import Estimate
from services.common.limits import Limit, Scope, Unit, Window
from services.quota.days import first_day_of_month, first_day_of_next_month
from services.quota.holds import Counter, DayStatus, LimitStatus, Reservation

DAY_SECONDS = 86_400
_NO_LIMIT = 10**9
"""More requests than can ever be counted in a day."""
_VECTORS_MAX = 1_000
_MILLION = 1_000_000
_LEDGER_COUNTERS = ((Unit.TOKENS, Window.DAY), (Unit.COST, Window.DAY), (Unit.COST, Window.MONTH))
"""Counters besides those of requests that start from the ledger."""

InitialCounts = dict[tuple[str, str, Unit, Window | None], tuple[int, int]]
"""By account id, key id, unit and window: the initial count and the first day of its window."""
_NO_COUNT: tuple[str | int, str | int] = ("", "")


class _Place(NamedTuple):
    """A limit in a vector."""

    limit: Limit
    is_of_key: bool
    window: str
    """The script's name of the window."""
    suffix: str
    """The field of the counter, after the id of the key or the account."""
    unit: Unit
    amount: int


class Vector:
    """All limits of a reserve: requests per day of the key, then of the account, then the others."""

    __slots__ = ("_daily", "_places", "_tokens", "_unused", "limits", "others")

    def __init__(self, limit: int, account_limit: int | None, others: tuple[Limit, ...]) -> None:
        of_account = _NO_LIMIT if account_limit is None else min(account_limit, _NO_LIMIT)
        self.others = others
        self.limits = (
            Limit(Scope.KEY, Unit.REQUESTS, Window.DAY, min(limit, _NO_LIMIT)),
            Limit(Scope.ACCOUNT, Unit.REQUESTS, Window.DAY, of_account),
            *others,
        )
        self._places = tuple(_place(one) for one in self.limits)
        # Quota counts the account's requests even if they are not limited.
        self._daily = (0, 1) if of_account < _NO_LIMIT else (0,)
        counted = {(one.scope, one.unit, one.window) for one in self.limits}
        self._unused = [
            (scope is Scope.KEY, f":{unit.value}{'@month' if window is Window.MONTH else ''}")
            for scope in Scope
            for unit, window in _LEDGER_COUNTERS
            if (scope, unit, window) not in counted
        ]
        self._tokens = tuple(i for i, one in enumerate(self.limits) if one.unit is Unit.TOKENS)

    def arguments(
        self, account_id: str, key_id: str, estimate: Estimate | None, initial: InitialCounts
    ) -> list[str | int]:
        """Return the arguments of the script: seven for each limit."""
        taken, arguments, count = _taken(estimate), list[str | int](), _NO_COUNT
        for limit, is_of_key, window, suffix, unit, amount in self._places:
            if initial:
                counter = account_id, key_id if is_of_key else "", unit, limit.window
                count = initial.get(counter, _NO_COUNT)
            arguments += (window, (key_id if is_of_key else account_id) + suffix, amount, *taken[unit], *count)
        return arguments

    def unused(self, account_id: str, key_id: str) -> str:
        """Return the counters of limits that are not set, separated by blanks."""
        return " ".join((key_id if is_of_key else account_id) + suffix for is_of_key, suffix in self._unused)

    def missing(self, account_id: str, key_id: str, day: int, flags: Sequence[int]) -> tuple[Counter, ...]:
        """Return the counters that are missing by the script's flags."""
        return tuple(
            Counter(account_id, key_id if limit.scope is Scope.KEY else "", _start(day, window), limit.unit, window)
            for limit, flag in zip(self.limits, flags, strict=True)
            if flag and (window := limit.window) is not None
        )

    def tightest(self, counts: Sequence[int], day: int, now: float) -> LimitStatus:
        """Return the limit in requests per day with the least left."""
        return self.status(min(self._daily, key=lambda i: self._left(i, counts)), counts, day, now)

    def tightest_of_tokens(self, counts: Sequence[int], day: int, now: float) -> LimitStatus | None:
        """Return the limit of tokens with the least left; None without one."""
        if not self._tokens:
            return None
        return self.status(min(self._tokens, key=lambda i: self._left(i, counts)), counts, day, now)

    def denying(self, counts: Sequence[int], estimate: Estimate | None, day: int, now: float) -> LimitStatus:
        """Return the limit that denies a request: of several, the one that resets last, and then has the least left."""
        taken, output = _taken(estimate), 1 if estimate and estimate.output_tokens else 0
        denying = []
        for i, limit in enumerate(self.limits):
            base, rate = taken[limit.unit]
            if self._left(i, counts) < base + -(-output * rate // _MILLION):
                denying.append(self.status(i, counts, day, now))
        return max(denying, key=lambda one: (one.counts.reset_at, -one.remaining))

    def status(self, i: int, counts: Sequence[int], day: int, now: float) -> LimitStatus:
        """Return a limit with its counts. `now` is Redis' time, with the store's offset."""
        limit = self.limits[i]
        return LimitStatus(limit, DayStatus(day, counts[2 * i], counts[2 * i + 1], _end(limit.window, day, now)))

    def _left(self, i: int, counts: Sequence[int]) -> int:
        return self._places[i].amount - counts[2 * i] - counts[2 * i + 1]


class Vectors:
    """The vectors of recent reserves. Most reserves have the limits of an earlier one."""

    def __init__(self) -> None:
        self._vectors: dict[tuple[int, int | None, int], Vector] = {}

    def of(self, reservation: Reservation) -> Vector:
        """Return the vector of a reservation; the same one for the same tuple of limits."""
        others = reservation.limits
        # Hashing a tuple of limits takes as long as building the vector. The vector keeps the tuple, and so its id.
        name = reservation.limit, reservation.account_limit, id(others)
        vector = self._vectors.get(name)
        if vector is None or vector.others is not others:
            if len(self._vectors) >= _VECTORS_MAX:
                self._vectors.clear()
            vector = self._vectors[name] = Vector(reservation.limit, reservation.account_limit, others)
        return vector


def _place(limit: Limit) -> _Place:
    unit = Unit.REQUESTS if limit.unit is Unit.CONCURRENT_REQUESTS else limit.unit
    window = "concurrent" if limit.window is None else limit.window.value
    suffix = "_minute" if limit.window is Window.MINUTE else ""
    return _Place(limit, limit.scope is Scope.KEY, window, f":{unit.value}{suffix}", limit.unit, limit.limit)


def _taken(estimate: Estimate | None) -> dict[Unit, tuple[int, int]]:
    """Return what a request takes by unit: without output, and for each million tokens of output."""
    if estimate is None:
        return _REQUEST_ONLY
    return _REQUEST_ONLY | {
        Unit.TOKENS: (estimate.prompt_tokens, _MILLION),
        Unit.COST: (estimate.prompt_cost, estimate.output_cost_per_million),
    }


_REQUEST_ONLY: dict[Unit, tuple[int, int]] = {
    Unit.REQUESTS: (1, 0),
    Unit.CONCURRENT_REQUESTS: (1, 0),
    Unit.TOKENS: (0, 0),
    Unit.COST: (0, 0),
}


def _start(day: int, window: Window) -> int:
    return first_day_of_month(day) if window is Window.MONTH else day


def _end(window: Window | None, day: int, now: float) -> float:
    """Return the time at which a window ends; for concurrent requests the end of the minute."""
    if window is Window.DAY:
        return float((day + 1) * DAY_SECONDS)
    if window is Window.MONTH:
        return float(first_day_of_next_month(day) * DAY_SECONDS)
    return (now // 60 + 1) * 60
