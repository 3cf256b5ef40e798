"""The vector of limits of a reserve: what the script gets for each limit, and what its counts mean."""

from collections.abc import Sequence

from services.common.estimate import Estimate
from services.common.limits import Limit, Scope, Unit, Window
from services.quota.days import first_day_of_month, first_day_of_next_month
from services.quota.holds import Counter, DayStatus, LimitStatus, Reservation

DAY_SECONDS = 86_400
_NO_LIMIT = 10**9
"""More requests than can ever be counted in a day."""
_VECTORS_MAX = 1_000
_POSITIONS: tuple[tuple[Scope, Unit, Window | None], ...] = tuple(
    (scope, unit, window)
    for unit, window in (
        (Unit.REQUESTS, Window.DAY),
        (Unit.REQUESTS, Window.MINUTE),
        (Unit.TOKENS, Window.DAY),
        (Unit.TOKENS, Window.MINUTE),
        (Unit.COST, Window.DAY),
        (Unit.COST, Window.MONTH),
        (Unit.CONCURRENT_REQUESTS, None),
    )
    for scope in Scope
)
"""The limits in the order of the script's arguments."""

InitialCounts = dict[tuple[str, str, Unit, Window | None], tuple[int, int]]
"""By account id, key id, unit and window: the initial count and the first day of its window."""


class Counts:
    """The counts of the limits of a vector.

    Attributes:
        day: The day, in days since 1970-01-01.
        now: Redis' time, with the store's offset.
    """

    __slots__ = ("_taken", "_values", "day", "now")

    def __init__(self, day: int, now: float, values: Sequence[int]) -> None:
        """Create counts from the script's values: charged and held of each limit that is set."""
        self.day, self.now = day, now
        self._values = values
        self._taken = dict.fromkeys(Unit, 0)

    def take(self, estimate: Estimate | None, output_tokens: int) -> None:
        """Add what a new hold takes."""
        self._taken[Unit.REQUESTS] += 1
        self._taken[Unit.CONCURRENT_REQUESTS] += 1
        if estimate is not None:
            held = estimate.held(output_tokens)
            self._taken[Unit.TOKENS] += held.tokens
            self._taken[Unit.COST] += held.cost

    def charged(self, place: int) -> int:
        """Return what is charged of the limit at a place among those that are set."""
        return self._values[2 * place]

    def held(self, place: int, unit: Unit) -> int:
        """Return what is held of that limit."""
        return self._values[2 * place + 1] + self._taken[unit]


class Vector:
    """All limits of a reserve: requests per day of the key, then of the account, then the others.

    Attributes:
        arguments: The script's arguments: a limit for each position, or an empty text.
        width: The number of limits that are set.
    """

    __slots__ = ("_daily", "_order", "_places", "_tokens", "arguments", "limits", "others", "width")

    def __init__(self, limit: int, account_limit: int | None, others: tuple[Limit, ...]) -> None:
        of_account = _NO_LIMIT if account_limit is None else min(account_limit, _NO_LIMIT)
        self.others = others
        self.limits = (
            Limit(Scope.KEY, Unit.REQUESTS, Window.DAY, min(limit, _NO_LIMIT)),
            Limit(Scope.ACCOUNT, Unit.REQUESTS, Window.DAY, of_account),
            *others,
        )
        lowest: dict[tuple[Scope, Unit, Window | None], int] = {}
        for one in self.limits:
            lowest[_position(one)] = min(one.limit, lowest.get(_position(one), one.limit))
        self.arguments = tuple(lowest.get(position, "") for position in _POSITIONS)
        self._order = [position for position in _POSITIONS if position in lowest]
        self._places = tuple(self._order.index(_position(one)) for one in self.limits)
        self.width = len(self._order)
        # Quota counts the account's requests even if they are not limited.
        self._daily = (0, 1) if of_account < _NO_LIMIT else (0,)
        self._tokens = tuple(i for i, one in enumerate(self.limits) if one.unit is Unit.TOKENS)

    def initial(self, account_id: str, key_id: str, counts: InitialCounts) -> str:
        """Return the script's argument of initial counts."""
        found = []
        for place, (scope, unit, window) in enumerate(self._order, 1):
            count = counts.get((account_id, key_id if scope is Scope.KEY else "", unit, window))
            if count is not None:
                found.append(f" {place}@{count[1]}={count[0]}")
        return "".join(found)

    def missing(self, account_id: str, key_id: str, day: int, flags: Sequence[int]) -> tuple[Counter, ...]:
        """Return the counters that are missing by the script's flags."""
        return tuple(
            Counter(account_id, key_id if scope is Scope.KEY else "", _start(day, window), unit, window)
            for (scope, unit, window), flag in zip(self._order, flags, strict=True)
            if flag and window is not None
        )

    def tightest(self, counts: Counts) -> int:
        """Return which limit in requests per day has the least left, also after further holds of the same key."""
        return min(self._daily, key=lambda i: self._left(i, counts))

    def tightest_of_tokens(self, counts: Counts) -> int | None:
        """Return which limit of tokens has the least left, also after further holds; None without one."""
        return min(self._tokens, key=lambda i: self._left(i, counts), default=None)

    def denying(self, counts: Counts, estimate: Estimate | None) -> LimitStatus:
        """Return the limit that denies a request: of several, the one that resets last, and then has the least left."""
        denying = [
            self.status(i, counts)
            for i, limit in enumerate(self.limits)
            if self._left(i, counts) < _least(limit.unit, estimate)
        ]
        return max(denying, key=lambda one: (one.counts.reset_at, -one.remaining))

    def status(self, i: int, counts: Counts) -> LimitStatus:
        """Return a limit with its counts."""
        limit, place = self.limits[i], self._places[i]
        reset_at = _end(limit.window, counts.day, counts.now)
        return LimitStatus(
            limit, DayStatus(counts.day, counts.charged(place), counts.held(place, limit.unit), reset_at)
        )

    def _left(self, i: int, counts: Counts) -> int:
        limit, place = self.limits[i], self._places[i]
        return limit.limit - counts.charged(place) - counts.held(place, limit.unit)


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


def _position(limit: Limit) -> tuple[Scope, Unit, Window | None]:
    return limit.scope, limit.unit, limit.window


def _least(unit: Unit, estimate: Estimate | None) -> int:
    """Return what a request takes at least of a limit: with one token of output if it wants any."""
    if unit in (Unit.REQUESTS, Unit.CONCURRENT_REQUESTS):
        return 1
    if estimate is None:
        return 0
    held = estimate.held(min(1, estimate.output_tokens))
    return held.tokens if unit is Unit.TOKENS else held.cost


def _start(day: int, window: Window) -> int:
    return first_day_of_month(day) if window is Window.MONTH else day


def _end(window: Window | None, day: int, now: float) -> float:
    """Return the time at which a window ends; for concurrent requests the end of the minute."""
    if window is Window.DAY:
        return float((day + 1) * DAY_SECONDS)
    if window is Window.MONTH:
        return float(first_day_of_next_month(day) * DAY_SECONDS)
    return (now // 60 + 1) * 60
