"""Limits of keys and accounts: what may be limited, and the short text in which people write a limit."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from services.common.errors import InvalidRequest

MICRODOLLARS = 1_000_000
"""Microdollars in a US dollar."""


class Scope(StrEnum):
    """What a limit applies to."""

    KEY = "key"
    ACCOUNT = "account"
    """The account with all keys that it ever had."""


class Unit(StrEnum):
    """What a limit counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    """Tokens of prompts and answers."""
    COST = "cost"
    """Cost of requests in microdollars."""
    CONCURRENT_REQUESTS = "concurrent_requests"
    """Requests in flight at the same time. Such a limit has no window."""


class Window(StrEnum):
    """The time for which a limit counts. Days and months are those of UTC."""

    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"


WINDOWS: dict[Unit, tuple[Window | None, ...]] = {
    Unit.REQUESTS: (Window.MINUTE, Window.DAY),
    Unit.TOKENS: (Window.MINUTE, Window.DAY),
    Unit.COST: (Window.DAY, Window.MONTH),
    Unit.CONCURRENT_REQUESTS: (None,),
}
"""The windows that a limit of each unit can have."""
LIMIT_MAX: dict[Unit, int] = {
    Unit.REQUESTS: 10**9,
    Unit.TOKENS: 10**15,
    Unit.COST: 10**15,
    Unit.CONCURRENT_REQUESTS: 10**6,
}
"""The highest limit of each unit. Sums stay below 2^53, up to which Redis' Lua counts exactly."""

_TEXT = re.compile(r"(\w+):(\w+)(?::(\w+))?=(\$?)([0-9]{1,16}(?:\.[0-9]{1,6})?)", re.ASCII)
_EXAMPLES = "account:tokens:day=200000, key:cost:month=$5 or account:concurrent_requests=20"


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a key or an account may take of a unit in a window.

    Raises:
        InvalidRequest: The unit does not have the window, or the limit is out of range.
    """

    scope: Scope
    unit: Unit
    window: Window | None
    """None for concurrent requests."""
    limit: int
    """0 denies every request. The limit of a cost is in microdollars."""

    def __post_init__(self) -> None:
        if self.window not in WINDOWS[self.unit]:
            raise _invalid(f"{self.name} is not a limit. {_allowed(self.unit)}")
        if not 0 <= self.limit <= LIMIT_MAX[self.unit]:
            raise _invalid(f"The limit {self.name} is {self.limit}. It must be 0 to {LIMIT_MAX[self.unit]}.")

    @property
    def name(self) -> str:
        """What is limited, such as `account:tokens:day`."""
        return ":".join(part for part in (self.scope, self.unit, self.window) if part is not None)

    def __str__(self) -> str:
        return f"{self.name}={self.limit}"


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a request among those of a limit in requests per day, at the time of its reserve."""

    number: int
    """Requests that were charged or in flight, including this one."""
    limit: int
    """The limit, as it was then."""
    scope: Scope


def parse_limit(text: str) -> Limit:
    """Return the limit that a text such as `key:tokens:minute=6000` describes. `str` is the inverse.

    A cost is in microdollars, or in dollars after `$`: `key:cost:month=$5` is `key:cost:month=5000000`.

    Raises:
        InvalidRequest: The text does not describe a limit.
    """
    if (match := _TEXT.fullmatch(text.strip())) is None:
        raise _invalid(f"{text[:100]!r} is not a limit. Write it like {_EXAMPLES}.")
    scope, unit, window, dollars, number = match.groups()
    try:
        parsed = Scope(scope), Unit(unit), None if window is None else Window(window)
    except ValueError as exc:
        raise _invalid(f"{text[:100]!r} is not a limit: {exc}. Write it like {_EXAMPLES}.") from exc
    if dollars and parsed[1] is not Unit.COST:
        raise _invalid(f"{text[:100]!r} has an amount in dollars, but {unit} are not money. Remove the $.")
    amount = Decimal(number) * (MICRODOLLARS if dollars else 1)
    if amount != int(amount):
        raise _invalid(f"{text[:100]!r} is not a whole number. Write it like {_EXAMPLES}.")
    return Limit(*parsed, int(amount))


def parse_limits(texts: Iterable[str]) -> tuple[Limit, ...]:
    """Return the limits that the texts describe; see `parse_limit`."""
    return tuple(parse_limit(text) for text in texts)


def checked_limits(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    """Return limits ordered by name.

    Raises:
        InvalidRequest: Something is limited twice.
    """
    by_name: dict[str, Limit] = {}
    for limit in limits:
        if limit.name in by_name:
            raise _invalid(f"The limit {limit.name} is given twice. Give it once.")
        by_name[limit.name] = limit
    return tuple(by_name[name] for name in sorted(by_name))


def effective_limits(of_plan: Iterable[Limit], of_key: Iterable[Limit]) -> tuple[Limit, ...]:
    """Return the limits of a key: its own, and those of its plan that it does not override, ordered by name."""
    by_name = {limit.name: limit for limit in (*of_plan, *of_key)}
    return tuple(by_name[name] for name in sorted(by_name))


def _allowed(unit: Unit) -> str:
    windows = [window for window in WINDOWS[unit] if window is not None]
    return f"Limits of {unit} are per {' or '.join(windows)}." if windows else f"Limits of {unit} have no window."


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, reason="invalid_limit")
