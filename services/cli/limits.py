"""Limits on the command line."""

from typing import Any

import click

from services.common.errors import InvalidRequest
from services.common.limits import Limit, parse_limit


class LimitText(click.ParamType[Limit]):
    """A limit, such as `key:tokens:minute=6000`."""

    name = "scope:unit:window=number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Limit:
        """Parse a limit."""
        try:
            return parse_limit(value)
        except InvalidRequest as exc:
            self.fail(exc.message, param, ctx)


class LimitName(click.ParamType[Limit]):
    """The name of a limit, such as `key:tokens:minute`. It becomes that limit with the number 0."""

    name = "scope:unit:window"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Limit:
        """Parse a name."""
        try:
            return parse_limit(f"{value}=0")
        except InvalidRequest:
            self.fail(f"{value!r} is not the name of a limit. Write it like key:tokens:minute.", param, ctx)
