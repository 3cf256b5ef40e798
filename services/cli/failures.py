"""Exceptions that end a command with a message and an exit code."""

import re
from typing import IO, Any

import click

_SECRET = re.compile(r"(?<![0-9A-Za-z])([a-z]{2,3}_stk_|gsk_|sk-)[0-9A-Za-z_-]{6,}")
"""Pattern of an API key, to mask keys that users paste in place of ids."""


def printable(text: str, *, also: str = "") -> str:
    """Return text that cannot control the terminal: other characters are escaped, except for those in `also`.

    Users choose the names of keys and models.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in also else ascii(one)[1:-1] for one in text)


class Failure(click.ClickException):
    """A call was rejected or failed, or a local requirement such as the admin token is missing."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the message to standard error."""
        message = printable(_SECRET.sub(r"\1****", self.message), also="\n")
        click.echo(f"stackctl: {message}", file=file, err=file is None)


class Unreachable(Failure):
    """A service did not respond."""

    exit_code = 3
