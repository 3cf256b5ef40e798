"""Refused requests of keys: the port to quota, and the sums that pages show."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

HOUR_SECONDS = 3_600
HOURS = 24
"""Hours of the sums of a day, the current one included."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Requests of one key that were refused with one status and `error.code`, of the last seven days."""

    key_id: str
    status: int
    """HTTP status; 0 stands for several."""
    code: str
    """Empty if the error has none."""
    last_at: float
    """Unix seconds."""
    hours: Mapping[int, int]
    """Numbers of requests by the hour's start in Unix seconds."""


class RefusalClient(Protocol):
    """The refused requests of one account."""

    async def refusals(self, key_ids: Sequence[str]) -> Sequence[Refusal]:
        """Return what was refused of keys of the account."""


@dataclass(frozen=True, slots=True)
class RefusalSum:
    """Refused requests of several keys with one status and code."""

    status: int
    code: str
    in_week: int
    in_day: int
    last_at: float
    key_ids: Sequence[str]
    """The keys of these requests, those with the most first."""


def hours_until(now: float) -> Sequence[int]:
    """Return the last 24 hours, oldest first."""
    last = int(now) // HOUR_SECONDS * HOUR_SECONDS
    return range(last - (HOURS - 1) * HOUR_SECONDS, last + 1, HOUR_SECONDS)


def sums_of(refusals: Sequence[Refusal], *, now: float) -> list[RefusalSum]:
    """Return the sums by status and code, the last ones first."""
    groups: dict[tuple[int, str], list[Refusal]] = {}
    for one in refusals:
        groups.setdefault((one.status, one.code), []).append(one)
    sums = [_sum(status, code, group, hours_until(now)) for (status, code), group in groups.items()]
    return sorted(sums, key=lambda one: (-one.last_at, one.status, one.code))


def by_hour(refusals: Sequence[Refusal], *, now: float) -> Sequence[tuple[int, Mapping[str, int]]]:
    """Return the numbers of the last 24 hours by code, oldest first. Without a code, the status stands for it."""
    counts: dict[int, Counter[str]] = {hour: Counter() for hour in hours_until(now)}
    for one in refusals:
        for hour, count in one.hours.items():
            if hour in counts:
                counts[hour][one.code or str(one.status)] += count
    return list(counts.items())


def _sum(status: int, code: str, group: Sequence[Refusal], hours: Sequence[int]) -> RefusalSum:
    keys: Counter[str] = Counter()
    for one in group:
        keys[one.key_id] += sum(one.hours.values())
    in_day = sum(one.hours.get(hour, 0) for one in group for hour in hours)
    last_at = max(one.last_at for one in group)
    return RefusalSum(status, code, keys.total(), in_day, last_at, [key_id for key_id, _ in keys.most_common()])
