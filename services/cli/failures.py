"""Exceptions that end a command with a message and an exit code."""

from typing import IO, Any

import click


class Failure(click.ClickException):
    """A call was rejected or failed, or a local requirement such as the admin token is missing."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the message to standard error."""
        click.echo(f"stackctl: {self.message}", file=file, err=file is None)


class Unreachable(Failure):
    """A service did not respond."""

    exit_code = 3
