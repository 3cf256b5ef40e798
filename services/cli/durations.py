"""Command-line parameter types for durations and expiry times."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

_DURATION = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Duration(click.ParamType[timedelta]):
    """A duration such as `90s`, `15m`, `24h` or `30d`, converted to a `timedelta`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Parse a duration."""
        if isinstance(value, timedelta):
            return value
        match = _DURATION.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is not a duration. Use one such as 15m, 24h or 30d.", param, ctx)
        return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


class Expiry(click.ParamType[datetime]):
    """An ISO 8601 date or time such as `2027-01-31`, or a duration from now such as `30d`.

    It is converted to an aware `datetime` in UTC. Values without a time zone are in UTC.
    """

    name = "expiry"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse an expiry time. A date means midnight UTC at its start."""
        if isinstance(value, datetime):
            return value
        try:
            if _DURATION.fullmatch(value):
                return datetime.now(UTC) + Duration().convert(value, param, ctx)
            time = datetime.fromisoformat(value)
            return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
        except ValueError:
            self.fail(f"{value!r} is not a date or a duration. Use one such as 2027-01-31 or 30d.", param, ctx)
        except OverflowError:
            self.fail(f"{value!r} is after the year 9999. Use an earlier time.", param, ctx)
