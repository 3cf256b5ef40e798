"""UTC days: numbers in Redis, `YYYY-MM-DD` everywhere else."""

from datetime import date, timedelta
from functools import lru_cache

_EPOCH = date(1970, 1, 1)


@lru_cache(maxsize=64)
def iso_date(day: int) -> str:
    """Return days since 1970-01-01 as `YYYY-MM-DD`."""
    return (_EPOCH + timedelta(days=day)).isoformat()


@lru_cache(maxsize=64)
def day_number(text: str) -> int:
    """Return `YYYY-MM-DD` as days since 1970-01-01.

    Raises:
        ValueError: The text is not such a date.
    """
    return (date.fromisoformat(text) - _EPOCH).days


@lru_cache(maxsize=64)
def first_day_of_month(day: int) -> int:
    """Return the first day of a day's month; both in days since 1970-01-01."""
    return day - (_EPOCH + timedelta(days=day)).day + 1


def first_day_of_next_month(day: int) -> int:
    """Return the first day of the month after a day's; both in days since 1970-01-01."""
    return first_day_of_month(first_day_of_month(day) + 31)
