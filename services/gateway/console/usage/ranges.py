"""Ranges of time of the usage page: the last hour, 24 hours, 7 or 30 days, or days that the user chooses."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from services.gateway.console.charts import Axis

FIVE_MINUTES, HOUR, DAY = 300, 3_600, 86_400
DEFAULT = "30d"
_NAMED = {"1h": (FIVE_MINUTES, 12), "24h": (HOUR, 24), "7d": (DAY, 7), DEFAULT: (DAY, 30)}
"""Length and number of the steps of each named range. The last step is the current one."""
RANGES = {"1h": "1 hour", "24h": "24 hours", "7d": "7 days", DEFAULT: "30 days"}
"""Labels of the named ranges."""
DAYS_MAX = 92
_DAYS_BY_HOUR_MAX = 2
_HOURS_KEPT_DAYS = 34
"""Days for which inference keeps sums by hour, less a day."""
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_FIRST_DAY, _LAST_DAY = date(2000, 1, 1), date(2999, 12, 31)
_UNITS = {FIVE_MINUTES: "5 minutes", HOUR: "hour", DAY: "day"}


@dataclass(frozen=True, slots=True)
class UsageRange:
    """A range of whole steps."""

    name: str
    """Name of the range; empty if the user chose days."""
    start: int
    """Unix seconds."""
    end: int
    """Unix seconds, excluded."""
    step: int
    """Length of the steps in seconds: five minutes, an hour or a day."""

    @property
    def times(self) -> Sequence[int]:
        """The begins of the steps, oldest first."""
        return range(self.start, self.end, self.step)

    @property
    def unit(self) -> str:
        """Name of a step, such as `hour`."""
        return _UNITS[self.step]

    @property
    def from_day(self) -> str:
        """The first day, `YYYY-MM-DD`."""
        return _utc(self.start).date().isoformat()

    @property
    def to_day(self) -> str:
        """The last day."""
        return _utc(self.end - 1).date().isoformat()

    @property
    def axis(self) -> Axis:
        """The time axis of charts."""
        if self.step == DAY:
            return Axis.of_days([_utc(at).date().isoformat() for at in self.times])
        names = [f"{_utc(at):%Y-%m-%d %H:%M}" for at in self.times]
        return Axis(names, [name[11:] for name in names], self.unit)

    @property
    def description(self) -> str:
        """The range in words."""
        if self.name and self.step == DAY:
            return f"The last {RANGES[self.name]}"
        if self.name:
            return f"The last {RANGES[self.name].removeprefix('1 ')}, since {_utc(self.start):%-d %b %Y, %H:%M}"
        return self.from_day if self.from_day == self.to_day else f"{self.from_day} to {self.to_day}"


def named_range(name: str, *, now: float) -> UsageRange:
    """Return a named range that ends with the current step."""
    step, count = _NAMED[name]
    end = (int(now) // step + 1) * step
    return UsageRange(name, end - count * step, end, step)


def range_of(name: str, from_day: str, to_day: str, *, now: float) -> tuple[UsageRange, Sequence[str]]:
    """Return the range that an address asks for, and what of the address is not used, for the user.

    Days take precedence over a name. Without any, the range is that of the last 30 days.
    """
    problems = [
        f"“{text[:20]}” is not a date from 2000 to 2999, so `{field}` is ignored. Write dates as 2026-11-30."
        for field, text in (("from", from_day), ("to", to_day))
        if text and _parsed(text) is None
    ]
    first, last = _parsed(from_day), _parsed(to_day)
    if first or last:
        chosen, note = _of_days(first, last, today=_utc(now).date())
        return chosen, [*problems, *note]
    if name and name not in _NAMED:
        problems.append(f"`range` must be one of {', '.join(_NAMED)}. The last 30 days are shown.")
    return named_range(name if name in _NAMED else DEFAULT, now=now), problems


def _of_days(first: date | None, last: date | None, *, today: date) -> tuple[UsageRange, Sequence[str]]:
    last = last or max(today, first or today)
    first, last = sorted((first or last - timedelta(days=29), last))
    notes = []
    if (last - first).days >= DAYS_MAX:
        first = last - timedelta(days=DAYS_MAX - 1)
        notes = [f"A range has at most {DAYS_MAX} days. The last {DAYS_MAX} of those that you chose are shown."]
    has_hours = first >= today - timedelta(days=_HOURS_KEPT_DAYS)
    step = HOUR if has_hours and (last - first).days < _DAYS_BY_HOUR_MAX else DAY
    return UsageRange("", _midnight(first), _midnight(last + timedelta(days=1)), step), notes


def _parsed(text: str) -> date | None:
    try:
        day = date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        return None
    return day if day and _FIRST_DAY <= day <= _LAST_DAY else None


def _midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
