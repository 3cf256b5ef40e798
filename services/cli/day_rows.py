"""Reads the ledger rows of all accounts, page by page."""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

from services.cli.client import Connection
from stack.inference.v1 import export_pb2, usage_pb2
from stack.inference.v1.export_pb2_grpc import UsageExportServiceStub

_PAGE = 1_000
_PAGE_SECONDS_MAX = 30.0


def days(first: date, last: date) -> Iterator[date]:
    """Yield each day from the first to the last one."""
    for number in range((last - first).days + 1):
        yield first + timedelta(days=number)


def pages(connection: Connection, day: date, *, after: str = "") -> Iterator[Sequence[usage_pb2.UsageRecord]]:
    """Yield the rows of a day in the order of their request ids, in pages that are not empty.

    Args:
        connection: A connection to inference.
        day: A UTC day.
        after: Yield only rows with a greater request id.

    Raises:
        Failure: Inference does not respond, or refuses the call.
    """
    while True:
        request = export_pb2.ListDayRequestsRequest(day=day.isoformat(), after=after, page_size=_PAGE)
        records = connection.call(
            lambda channel: UsageExportServiceStub(channel).ListDayRequests, request, timeout_seconds=_PAGE_SECONDS_MAX
        ).records
        if records:
            yield records
        if len(records) < _PAGE:
            return
        after = records[-1].request_id
