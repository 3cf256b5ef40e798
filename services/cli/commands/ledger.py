"""`stackctl ledger`: compare the ledger with what Groq counted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any, TextIO

import click

from services.cli import day_rows, groq_file, output
from services.cli.client import Backends, Connection, connected
from services.cli.comparison import Difference, Kind, Totals, compare
from services.cli.failures import Failure
from services.cli.groq_file import Columns
from services.cli.usage_errors import Day, Mistake
from services.common.receipts import iso_time
from stack.inference.v1 import usage_pb2

_SHOWN_AS_JSON = 1_000
_DAY = timedelta(days=1)
_LONGEST = timedelta(days=3_660)
"""Longest period. A wrong time would make it much longer, and each day takes a call."""
_YEAR_MAX = 5_000
_TEXTS = {
    Kind.NOT_IN_LEDGER: "not in the ledger",
    Kind.NOT_IN_FILE: "not in the file",
    Kind.TOKENS_DIFFER: "tokens differ",
}


class _Columns(click.ParamType[Columns]):
    """Names of columns: `id=…,time=…,tokens=…`."""

    name = "columns"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Columns:
        """Return the names."""
        if isinstance(value, Columns):
            return value
        names = dict(part.partition("=")[::2] for part in str(value).split(","))
        unknown = names.keys() - {"id", "time", "tokens"}
        if unknown or not names.get("id") or not names.get("time") or names.get("tokens") == "":
            self.fail("expected id=COLUMN,time=COLUMN, and tokens=COLUMN or tokens=COLUMN+COLUMN.", param, ctx)
        tokens = names.get("tokens")
        return Columns(names["id"], names["time"], tuple(tokens.split("+")) if tokens else ())


@click.group()
def ledger() -> None:
    """Check the ledger of requests."""


@ledger.command("compare")
@click.argument("file", type=click.File(encoding="utf-8-sig"))
@click.option(
    "--columns",
    type=_Columns(),
    required=True,
    metavar="id=…,time=…,tokens=…",
    help="Names of the file's columns: Groq's request id, the time and, if there are any, the tokens. Columns of "
    "tokens that are joined with + are added.",
)
@click.option("--from", "first", type=Day(), help="First UTC day of the period. [default: the first one of the file]")
@click.option("--to", "last", type=Day(), help="Last UTC day of the period. [default: the last one of the file]")
@click.option("--delimiter", default=",", show_default=True, help="Character between two columns.")
@output.as_json_option
@click.pass_context
def compare_file(
    context: click.Context,
    /,
    *,
    file: TextIO,
    columns: Columns,
    first: date | None,
    last: date | None,
    delimiter: str,
    as_json: bool,
) -> None:
    """Compare the ledger with a CSV FILE of Groq's requests, and list what either side lacks.

    Requests are matched by Groq's request id. Times are in ISO 8601, or Unix times. All differences are listed, with
    --json the first 1,000. Within a minute of an end of the period, requests that only one side has are not reported.

    Exit code: 0 if there are no differences, otherwise 1.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise Mistake("--delimiter: expected one character, which is no quotation mark.")
    backends: Backends = context.obj
    with groq_file.read(file, columns, delimiter=delimiter) as requests, connected(backends.inference()) as connection:
        first, last = _period(requests.span(), first, last)
        totals = Totals()
        differences = compare(
            _pages(connection, first - _DAY, last + _DAY),
            requests,
            first=_midnight(first),
            end=_midnight(last + _DAY),
            totals=totals,
        )
        if as_json:
            _show_json(first, last, list(islice(differences, _SHOWN_AS_JSON)), differences, totals)
        else:
            _show(first, last, differences, totals)
    context.exit(1 if totals.differing else 0)


def _period(span: tuple[float, float] | None, first: date | None, last: date | None) -> tuple[date, date]:
    if span is None and (first is None or last is None):
        raise Failure("The file has no requests. Set --from and --to to compare it anyway.")
    first_day, last_day = (datetime.fromtimestamp(seconds, UTC).date() for seconds in span or (0, 0))
    first, last = first or first_day, last or last_day
    if first > last:
        raise Mistake(f"--from {first} is after --to {last}.")
    if last - first > _LONGEST or first.year < 1970 or last.year > _YEAR_MAX:
        longest = f"at most {_LONGEST.days:,} days from 1970 on"
        raise Mistake(f"The period is {first} to {last}; expected {longest}. Check the times, or set --from and --to.")
    return first, last


def _pages(connection: Connection, first: date, last: date) -> Iterator[Sequence[usage_pb2.UsageRecord]]:
    for day in day_rows.days(first, last):
        yield from day_rows.pages(connection, day)


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _show(first: date, last: date, differences: Iterator[Difference], totals: Totals) -> None:
    for difference in differences:
        output.say(_line(difference))
    output.say(
        f"{first} to {last}: {totals.agreeing:,} requests agree, {totals.differing:,} differ; {totals.without_id:,} "
        "requests were sent to Groq and have no id"
    )


def _line(difference: Difference) -> str:
    name = f"{difference.upstream_id} at {iso_time(difference.time)}"
    tokens = [
        f"{count:,} tokens in the {side}"
        for side, count in (("file", difference.file_tokens), ("ledger", difference.ledger_tokens))
        if count is not None
    ]
    notes = [difference.request_id or "", *tokens]
    if (difference.attempts or 0) > 1:
        notes.append(f"{difference.attempts} calls together")
    if difference.usage_source == "estimated":
        notes.append("estimated")
    return f"{_TEXTS[difference.kind]}: {name}: {', '.join(note for note in notes if note)}".rstrip(": ")


def _show_json(
    first: date, last: date, shown: Sequence[Difference], others: Iterator[Difference], totals: Totals
) -> None:
    for _ in others:
        pass
    output.show_json(
        {
            "ok": not totals.differing,
            "from": first.isoformat(),
            "to": last.isoformat(),
            "agreeing": totals.agreeing,
            "without_id": totals.without_id,
            "differences_count": totals.differing,
            "differences": [_members(one) for one in shown],
        }
    )


def _members(difference: Difference) -> Mapping[str, Any]:
    return asdict(difference) | {"time": iso_time(difference.time)}
