"""gRPC servicer that lists and sums the rows of all accounts."""

from collections.abc import Sequence
from typing import Protocol

from services.common.errors import InvalidRequest
from services.common.rpc.types import Context
from services.inference import translate
from services.inference.ledger.checks import ITEMS_MAX, check_day, check_id, check_span
from services.inference.ledger.writer import LedgerRow, UsageSummary
from stack.inference.v1 import export_pb2, export_pb2_grpc


class DayRows(Protocol):
    """Port to the ledger."""

    async def list_day_requests(self, day: str, *, after: str, rows_max: int) -> Sequence[LedgerRow]:
        """Return a page of a day's rows in the order of their request ids.

        Raises:
            Unavailable: The ledger cannot be read.
        """


class Sums(Protocol):
    """Port to the ledger's sums."""

    async def summarize(
        self, key_id: str, *, account_id: str, from_day: str, to_day: str, by_surface: bool = False
    ) -> Sequence[UsageSummary]:
        """Return sums by day, model and surface; empty ids do not filter.

        Raises:
            Unavailable: The ledger cannot be read.
        """


class AllRows(DayRows, Sums, Protocol):
    """Port to the ledger of all accounts."""


class UsageExportService(export_pb2_grpc.UsageExportServiceServicer):
    """Lists and sums the rows of all accounts."""

    def __init__(self, rows: AllRows) -> None:
        self._rows = rows

    async def ListDayRequests(
        self, request: export_pb2.ListDayRequestsRequest, context: Context
    ) -> export_pb2.ListDayRequestsResponse:
        """Return a page of a day's rows."""
        check_day("day", request.day)
        check_id("after", request.after)
        if not 0 <= request.page_size <= ITEMS_MAX:
            raise InvalidRequest(f"page_size: expected 1 to {ITEMS_MAX:,}, or 0, got {request.page_size}")
        rows_max = request.page_size or ITEMS_MAX
        rows = await self._rows.list_day_requests(request.day, after=request.after, rows_max=rows_max)
        return export_pb2.ListDayRequestsResponse(records=[translate.usage_record(row) for row in rows])

    async def SummarizeAllUsage(
        self, request: export_pb2.SummarizeAllUsageRequest, context: Context
    ) -> export_pb2.SummarizeAllUsageResponse:
        """Sum the rows of all accounts by day, model and surface."""
        check_day("from_day", request.from_day)
        check_day("to_day", request.to_day)
        check_span(request.from_day, request.to_day)
        summaries = await self._rows.summarize(
            "", account_id="", from_day=request.from_day, to_day=request.to_day, by_surface=True
        )
        return export_pb2.SummarizeAllUsageResponse(summaries=map(translate.usage_summary, summaries))
