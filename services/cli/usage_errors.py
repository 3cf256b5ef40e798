"""Invalid command-line arguments, reported with one message and exit code 2."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any

import click

from services.cli.failures import Failure
from services.cli.output import NotWritten, written
from services.common.ids import Kind, is_id

_TARGET = re.compile(r"(?:dns:(?://[^/\s]*/)?|ipv4:|ipv6:)?(?P<host>\[[^\s\]]+\]|[^\s/:]+):(?P<port>[0-9]{1,5})")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SOCKET = re.compile(r"unix:(?:///?)?[^\s]+|unix-abstract:[^\s]+")


class Mistake(Failure):
    """A command-line argument is invalid, whether stackctl or a service rejected it."""

    exit_code = 2


class Commands(click.Group):
    """A command group that reports invalid arguments in one message that refers to the command's help."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the command line."""
        _check_text(args)
        with _as_mistake():
            return super().make_context(info_name, args, parent, **extra)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line. Failures to write the help text are also reported in one sentence."""
        try:
            with written():
                return super().main(*args, **extra)
        except NotWritten as exc:
            exc.show()
            sys.exit(exc.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand."""
        with _as_mistake():
            return super().invoke(ctx)


class Target(click.ParamType[str]):
    """Address of a service: `host:port`, `dns:///host:port` or `unix:/path`."""

    name = "target"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Validate a target."""
        text = str(value)
        found = _TARGET.fullmatch(text)
        if not _is_text(text) or not (_SOCKET.fullmatch(text) or (found and 0 < int(found["port"]) < 65_536)):
            self.fail(f"{text!r} is not an address. Use host:port, dns:///host:port or unix:/path.", param, ctx)
        return text


class Id(click.ParamType[str]):
    """A public id of one kind."""

    name = "id"

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Validate an id. An empty value is allowed."""
        text = str(value)
        if text and not is_id(text, self._kind):
            self.fail(f"{text!r} is not a valid id. Ids of this kind are {self._kind}_ and 26 characters.", param, ctx)
        return text


class Day(click.ParamType[date]):
    """A UTC day, `YYYY-MM-DD`."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """Return the day."""
        if isinstance(value, date):
            return value
        text = str(value)
        try:
            return date.fromisoformat(text if _DAY.fullmatch(text) else "")
        except ValueError:
            self.fail(f"{text!r} is not a day. Write it as YYYY-MM-DD.", param, ctx)


def _check_text(arguments: Sequence[str]) -> None:
    for argument in arguments:
        if not _is_text(argument):
            shown = argument.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            raise Mistake(f"An argument is not valid UTF-8: {shown}. Encode it as UTF-8.")


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _as_mistake() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as exc:
        message = " ".join(exc.format_message().split()).rstrip(".")
        command = exc.ctx.command_path if exc.ctx else "stackctl"
        raise Mistake(f"{message}. See `{command} --help`.") from exc
