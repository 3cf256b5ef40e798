"""Confirmation of actions that cannot be undone."""

import sys
from collections.abc import Callable
from typing import Any

import click

from services.cli.failures import Failure


def confirmed(question: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds `--yes` to a command, which asks `question` without it.

    Without a terminal, the command is refused, so that a script says what it means.
    """

    def check(context: click.Context, _: click.Parameter, is_confirmed: bool) -> None:
        if not is_confirmed and not context.resilient_parsing:
            confirm(question)

    return click.option(
        "--yes", "-y", is_flag=True, expose_value=False, callback=check, help="Do not ask for confirmation."
    )


def confirm(question: str) -> None:
    """Ask a question on the terminal.

    Raises:
        Failure: There is no terminal, or the answer is not yes.
    """
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):  # None is closed.
        raise Failure(f"{question} This cannot be undone and there is no terminal to ask. Repeat with --yes.")
    if not click.confirm(f"{question} This cannot be undone. Continue?", err=True):
        raise Failure("Nothing was changed.")
