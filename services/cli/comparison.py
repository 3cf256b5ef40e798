"""Compares ledger rows with the requests that Groq counted."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.cli.groq_file import GroqFile, GroqRequest
from stack.inference.v1 import usage_pb2

_MARGIN_SECONDS = 60.0
"""Requests so close to an end of the period may be on one side only: they begin before it and end after it, or the
clocks differ. They are matched, and not reported."""


class Kind(StrEnum):
    """What a difference is."""

    NOT_IN_LEDGER = "not_in_ledger"
    NOT_IN_FILE = "not_in_file"
    TOKENS_DIFFER = "tokens_differ"


@dataclass(frozen=True, slots=True)
class Difference:
    """A request on which the file and the ledger do not agree."""

    kind: Kind
    upstream_id: str
    time: float
    """Unix seconds, by the ledger if it has the request."""
    request_id: str | None = None
    """None if the ledger does not have it."""
    file_tokens: int | None = None
    ledger_tokens: int | None = None
    attempts: int | None = None
    """Calls of the request. The ledger has the id of the last one, and the tokens of all."""
    usage_source: str | None = None
    """Whether Groq reported the ledger's tokens, or they are an estimate."""


@dataclass(slots=True)
class Totals:
    """What was compared."""

    agreeing: int = 0
    differing: int = 0
    without_id: int = 0
    """Rows of requests that were sent to Groq, of which no id is known."""


def compare(
    pages: Iterable[Sequence[usage_pb2.UsageRecord]], file: GroqFile, *, first: float, end: float, totals: Totals
) -> Iterator[Difference]:
    """Yield the differences, and count in `totals`.

    Args:
        pages: Ledger rows of the period, and of at least the day before and after it.
        file: The requests of the file.
        first: Beginning of the period, in Unix seconds.
        end: Its end.
        totals: The counts, complete once all differences are yielded.
    """
    inner = (first + _MARGIN_SECONDS, end - _MARGIN_SECONDS)
    for page in pages:
        requests = file.match([row.upstream_id for row in page if row.upstream_id])
        for row in page:
            yield from _counted(_of_row(row, requests.get(row.upstream_id), inner, totals), totals)
    for request in file.unmatched(*inner):
        missing = Difference(Kind.NOT_IN_LEDGER, request.id, request.time, file_tokens=request.tokens)
        yield from _counted(missing, totals)


def _counted(difference: Difference | None, totals: Totals) -> Iterator[Difference]:
    if difference is not None:
        totals.differing += 1
        yield difference


def _of_row(
    row: usage_pb2.UsageRecord, request: GroqRequest | None, inner: tuple[float, float], totals: Totals
) -> Difference | None:
    began = row.reserved_at.ToNanoseconds() / 1e9
    if request is None:
        is_within = inner[0] <= began and began + row.duration_ms / 1000 < inner[1]
        totals.without_id += is_within and row.attempts > 0 and not row.upstream_id
        # Groq does not count requests that it refused.
        is_expected = is_within and row.upstream_id and row.total_tokens
        return _difference(Kind.NOT_IN_FILE, row, began, None) if is_expected else None
    if request.tokens is not None and request.tokens != row.total_tokens:
        return _difference(Kind.TOKENS_DIFFER, row, began, request.tokens)
    totals.agreeing += 1
    return None


def _difference(kind: Kind, row: usage_pb2.UsageRecord, time: float, file_tokens: int | None) -> Difference:
    return Difference(
        kind,
        row.upstream_id,
        time,
        row.request_id,
        file_tokens,
        row.total_tokens,
        row.attempts,
        row.usage_source,
    )
