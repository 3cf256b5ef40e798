"""`stackctl usage export`: the ledger rows of all accounts as files."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from services.cli import day_rows
from services.cli.client import Backends, Connection, connected
from services.cli.export_files import LineWriter, Output, ParquetFolder, Position
from services.cli.export_rows import row_of
from services.cli.line_file import LineFile
from services.cli.output import written
from services.cli.usage_errors import Day, Mistake

_DAY_SECONDS = 86_400
_Advance = Callable[[float, int], None]
"""Shows how much of the period is done, in seconds, and how many rows are written."""


@click.command("export")
@click.option("--from", "first", type=Day(), required=True, help="First UTC day.")
@click.option("--to", "last", type=Day(), help="Last UTC day. [default: yesterday]")
@click.option(
    "--format", "format_name", type=click.Choice(["csv", "jsonl", "parquet"]), default="jsonl", show_default=True
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="File to write to, or for parquet a folder with a file for each day. [default: standard output]",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted export.")
@click.pass_obj
def export(
    backends: Backends,
    /,
    *,
    first: date,
    last: date | None,
    format_name: str,
    output: Path | None,
    resume: bool,
) -> None:
    """Export the requests of all accounts, one row for each.

    Rows of a day can still be added shortly after its end, and all day if it is today. In CSV, text that begins like a
    formula gets an apostrophe in front; the other formats have the text as it is.
    """
    today = datetime.now(UTC).date()
    last = last or today - timedelta(days=1)
    if first > last:
        raise Mistake(f"--from {first} is after --to {last}.")
    if last >= today:
        click.echo("stackctl: today is not over, so its rows are not complete", err=True)
    with _opened(format_name, output, first, last, resume=resume) as file:
        if isinstance(file, LineFile) and file.is_complete:
            click.echo(f"stackctl: {output} is complete", err=True)
            return
        with connected(backends.inference()) as connection, _progress(first, last) as advance:
            _export(connection, file, first, last, advance)


@contextmanager
def _opened(format_name: str, path: Path | None, first: date, last: date, *, resume: bool) -> Iterator[Output]:
    if path is None and (resume or format_name == "parquet"):
        raise Mistake(f"{'--resume' if resume else '--format parquet'} needs --output.")
    file: Output
    if path is None:
        file = LineWriter(sys.stdout.buffer, format_name)
    elif format_name == "parquet":
        file = ParquetFolder(path, resume=resume)
    else:
        file = LineFile(path, format_name, first=first, last=last, resume=resume)
    is_done = False
    try:
        with written():
            yield file
        is_done = True
    finally:
        file.close(is_complete=is_done)


def _export(connection: Connection, file: Output, first: date, last: date, advance: _Advance) -> None:
    position = file.position
    for day in day_rows.days(first, last):
        text = day.isoformat()
        if (position and text < position.day) or not file.begin_day(day):
            continue
        after = position.after if position and text == position.day else ""
        begun = (day - first).days * _DAY_SECONDS
        for records in day_rows.pages(connection, day, after=after):
            file.write([row_of(record) for record in records], Position(text, records[-1].request_id))
            advance(begun + records[-1].reserved_at.seconds % _DAY_SECONDS, len(records))
        file.end_day()
        advance(begun + _DAY_SECONDS, 0)


@contextmanager
def _progress(first: date, last: date) -> Iterator[_Advance]:
    """Show a bar on standard error, if it is a terminal. The ids of a day's rows are in the order of time."""
    if not sys.stderr.isatty():
        yield lambda seconds, rows: None
        return
    length, count = ((last - first).days + 1) * _DAY_SECONDS, 0
    bar: Any = click.progressbar(
        length=length, file=sys.stderr, label="Exporting", item_show_func=lambda rows: f"{rows or 0:,} rows"
    )
    with bar:

        def advance(seconds: float, rows: int) -> None:
            nonlocal count
            count += rows
            bar.update(max(0, int(seconds) - bar.pos), count)

        yield advance
