"""Output of commands: a JSON object for programs, aligned text for people."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def show_json(value: Mapping[str, Any]) -> None:
    """Print a JSON object on one line."""
    click.echo(json.dumps(value))


def show_fields(fields: Mapping[str, Any]) -> None:
    """Print names and values, one pair per line, with aligned values."""
    width = max(len(name) for name in fields)
    for name, value in fields.items():
        click.echo(f"{name:<{width}}  {value}")


def show_table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows below headings. Columns of integers are right-aligned, others left-aligned."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(headings, *rows, strict=True)]
    is_number = [bool(rows) and all(isinstance(row[place], int) for row in rows) for place in range(len(headings))]
    for cells in (headings, *rows):
        line = (
            f"{cell!s:>{width}}" if to_right else f"{cell!s:<{width}}"
            for cell, width, to_right in zip(cells, widths, is_number, strict=True)
        )
        click.echo("  ".join(line).rstrip())


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
