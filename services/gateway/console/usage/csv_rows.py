"""All requests that match a filter as CSV, newest first, streamed page by page."""

import csv
import io
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace

from starlette.types import Scope

from services.common import csv_cells
from services.common.receipts import Receipt
from services.gateway.console.ports import RequestFilter, UsageClient
from services.gateway.console.security.concurrency import slot_within_response

_PAGE = 1_000
_COLUMNS = (
    *("request_id", "key_id", "created_at", "model", "stream", "outcome", "charged", "refund_reason"),
    *("prompt_tokens", "completion_tokens", "total_tokens", "time_to_first_token_ms", "duration_ms"),
    *("surface", "cost_usd", "cached_tokens", "reasoning_tokens"),
)


class RequestsCSV:
    """Reads the rows of a download. Only one unsent page is in memory."""

    def __init__(self, usage: UsageClient, filters: RequestFilter) -> None:
        """Read the requests that match `filters`."""
        self._usage = usage
        self._filters = filters

    async def first_page(self) -> tuple[str, str]:
        """Return the header and the first page, and the `before` of the next one; empty after the last."""
        text, before = await self._page("")
        return _lines([_COLUMNS]) + text, before

    async def pages(self, scope: Scope, text: str, before: str) -> AsyncIterator[str]:
        """Yield the first page and all others. Each is read in a slot of the console."""
        yield text
        while before:
            async with slot_within_response(scope):
                text, before = await self._page(before)
            yield text

    async def _page(self, before: str) -> tuple[str, str]:
        page = await self._usage.requests(replace(self._filters, before=before), count=_PAGE)
        return _lines(map(_row, page.requests)), page.before


def _row(row: Receipt) -> Sequence[object]:
    tokens = (row.usage.prompt_tokens, row.usage.completion_tokens, row.usage.total_tokens)
    result = (row.outcome, row.charged, row.refund_reason or "")
    times = (row.time_to_first_token_ms or "", row.duration_ms)
    request = (row.id, row.key_id, row.created_at, csv_cells.escaped(row.model), row.stream)
    details = (row.usage.cached_tokens, row.usage.reasoning_tokens)
    return [*request, *result, *tokens, *times, row.surface or "", row.cost_usd or "", *details]


def _lines(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
