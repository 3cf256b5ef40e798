"""How a command ends when it cannot do what was asked: one sentence and an exit code."""

import re
from typing import IO, Any

import click

_SECRET = re.compile(r"(?<![0-9A-Za-z])([a-z]{2,3}_stk_|gsk_|sk-)[0-9A-Za-z_-]{6,}")
"""What an API key looks like: people paste one where its id belongs."""


class Failure(click.ClickException):
    """A service refused the call or failed at it, or something is missing here. (Code 2 is a mistake's.)"""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the sentence to standard error."""
        message = _SECRET.sub(r"\1****", self.message)
        click.echo(f"stackctl: {message}", file=file, err=file is None)


class Unreachable(Failure):
    """A service did not answer."""

    exit_code = 3
