"""How a command ends when it cannot do what was asked: one sentence and an exit code."""

from typing import IO, Any

import click


class Failure(click.ClickException):
    """A service refused the call or failed at it, or something is missing here. (Code 2 is a mistake's.)"""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the sentence to standard error."""
        click.echo(f"stackctl: {self.message}", file=file, err=file is None)


class Unreachable(Failure):
    """A service did not answer."""

    exit_code = 3
