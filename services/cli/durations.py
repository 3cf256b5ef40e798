"""Spans of time and moments on the command line."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

_SPAN = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Duration(click.ParamType[timedelta]):
    """A span such as `90s`, `15m`, `24h` or `30d`; gives a `timedelta`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read a span."""
        if isinstance(value, timedelta):
            return value
        match = _SPAN.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is no span of time; write one such as 15m, 24h or 30d", param, ctx)
        return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


class Expiry(click.ParamType[datetime]):
    """A moment such as `2027-01-31`, or a span from now such as `30d`; gives an aware `datetime`."""

    name = "expiry"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read a moment; a day means its beginning in UTC."""
        if isinstance(value, datetime):
            return value
        try:
            if _SPAN.fullmatch(value):
                return datetime.now(UTC) + Duration().convert(value, param, ctx)
            moment = datetime.fromisoformat(value)
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except ValueError:
            self.fail(f"{value!r} is neither a day such as 2027-01-31 nor a span such as 30d", param, ctx)
        except OverflowError:
            self.fail(f"{value!r} is beyond the year 9999; write an earlier moment", param, ctx)
