"""gRPC servicer that lists the rows of all accounts."""

from collections.abc import Sequence
from typing import Protocol

from services.common.errors import InvalidRequest
from services.common.rpc.types import Context
from services.inference import translate
from services.inference.ledger.checks import ITEMS_MAX, check_day, check_id
from services.inference.ledger.writer import LedgerRow
from stack.inference.v1 import export_pb2, export_pb2_grpc


class DayRows(Protocol):
    """Port to the ledger."""

    async def list_day_requests(self, day: str, *, after: str, rows_max: int) -> Sequence[LedgerRow]:
        """Return a page of a day's rows in the order of their request ids.

        Raises:
            Unavailable: The ledger cannot be read.
        """


class UsageExportService(export_pb2_grpc.UsageExportServiceServicer):
    """Lists the rows of all accounts."""

    def __init__(self, rows: DayRows) -> None:
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
