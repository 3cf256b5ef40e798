"""Output of commands: a JSON object for programs, aligned text for terminals."""

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import MappingProxyType
from typing import IO, Any

import click
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from services.cli.failures import Failure, printable

_OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)

_STATE_COLORS = {
    **dict.fromkeys(("ok", "active"), "green"),
    **dict.fromkeys(("degraded", "expires", "paused", "unknown"), "yellow"),
    **dict.fromkeys(("revoked", "expired", "suspended", "deleted", "unreachable", "rejected"), "red"),
}
_Colors = Mapping[str, Callable[[str], str | None]]
_PLAIN: _Colors = MappingProxyType({})

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


class NotWritten(Failure):
    """The output of a command could not be written to standard output."""

    def __init__(self, why: str, *, is_reader_gone: bool = False) -> None:
        super().__init__(f"the output could not be written: {why}")
        self.why = why
        self._is_reader_gone = is_reader_gone

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the message, unless the reader has closed the pipe, as `head` does."""
        if not self._is_reader_gone:
            super().show(file)


@contextmanager
def written() -> Iterator[None]:
    """Write to standard output in the block.

    Raises:
        NotWritten: It cannot be written to.
    """
    if sys.stdout is None:
        raise NotWritten("standard output is closed")
    try:
        yield
    except OSError as exc:
        if exc.errno not in _OUTPUT_ERRORS:
            raise
        _discard_output()
        raise NotWritten(exc.strerror or str(exc), is_reader_gone=exc.errno == errno.EPIPE) from exc


@contextmanager
def secret_of(key_id: str) -> Iterator[None]:
    """Print a new key's secret in the block. If that fails, report which key to revoke.

    Raises:
        Failure: The secret is lost.
    """
    try:
        yield
    except NotWritten as exc:
        raise Failure(
            f"the secret of the new key {key_id} could not be written ({exc.why}) and cannot be shown again; "
            f"revoke the key: stackctl keys revoke {key_id}"
        ) from exc


def state_color(text: str) -> str | None:
    """Return the colour of a state such as `active` or `revoked 2026-11-30`; None for none."""
    return _STATE_COLORS.get(text.split(" ", 1)[0])


def styled(text: str, *, color: str | None = None, bold: bool = False) -> str:
    """Return text in a colour, if standard output is a terminal and NO_COLOR is not set (https://no-color.org)."""
    if not has_colors() or not (color or bold):
        return text
    return click.style(text, fg=color, bold=bold or None)


def has_colors() -> bool:
    """Return whether to print colours."""
    return sys.stdout is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def say(line: str = "") -> None:
    """Print one line."""
    write(printable(line))


def write(text: str) -> None:
    """Print text in which nothing is from users or services, or all of that is printable: it may have colours."""
    with written():
        click.echo(text)


def _discard_output() -> None:
    """Discard buffered output, which Python would otherwise try to write at exit, with a traceback."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def show_json(value: Mapping[str, Any]) -> None:
    """Print a JSON object on one line."""
    say(json.dumps(value))


def show_fields(fields: Mapping[str, Any]) -> None:
    """Print names and values, one pair per line, with aligned values."""
    width = max(len(name) for name in fields)
    for name, value in fields.items():
        say(f"{name:<{width}}  {value}")


def show_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    colors: _Colors = _PLAIN,
) -> None:
    """Print rows below headings. Columns of integers are right-aligned, others left-aligned.

    Args:
        headings: Names of the columns.
        rows: The cells of each row.
        colors: By heading: the colour of a cell.
    """
    widths = [max(len(str(cell)) for cell in column) for column in zip(headings, *rows, strict=True)]
    is_number = [bool(rows) and all(isinstance(row[place], int) for row in rows) for place in range(len(headings))]
    color_of = [colors.get(heading, _no_color) for heading in headings]
    for place, cells in enumerate((headings, *rows)):
        line = [
            printable(f"{cell!s:>{width}}" if to_right else f"{cell!s:<{width}}")
            for cell, width, to_right in zip(cells, widths, is_number, strict=True)
        ]
        line[-1] = line[-1].rstrip()
        shown = [
            styled(text, bold=True) if place == 0 else styled(text, color=color(str(cell)))
            for text, cell, color in zip(line, cells, color_of, strict=True)
        ]
        write("  ".join(shown).rstrip())


def _no_color(_: str) -> str | None:
    return None


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Return an aware datetime as a protobuf timestamp; None stays None."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def moment(message: Message, field: str) -> str | None:
    """Return a timestamp field in ISO 8601, in UTC and to the second; None if it is absent."""
    if not message.HasField(field):
        return None
    value = getattr(message, field)
    assert isinstance(value, Timestamp)
    return value.ToDatetime(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
