"""Usage page: daily counts, charts, requests and receipts."""

import csv
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial

from starlette.responses import Response, StreamingResponse

from services.common.ids import Kind, is_id
from services.gateway.apis.receipts import DayUsage, Receipt
from services.gateway.console.charts import columns
from services.gateway.console.labels import OUTCOMES, countdown, explain_outcome, explain_refund
from services.gateway.console.page import Pages, redirect
from services.gateway.console.ports import Key, RequestFilter, Usage
from services.gateway.console.request_context import RequestContext
from services.gateway.console.views.keys import or_empty

_DAYS = 30
_PAGE = 50
_CSV_PAGE = 1_000
_CSV_COLUMNS = (
    *("request_id", "key_id", "created_at", "model", "stream", "outcome", "charged", "refund_reason"),
    *("prompt_tokens", "completion_tokens", "total_tokens", "time_to_first_token_ms", "duration_ms"),
)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class UsageViews:
    """Handlers of the usage page."""

    def __init__(self, pages: Pages) -> None:
        """Render with `pages`."""
        self._pages = pages

    async def index(self, context: RequestContext) -> Response:
        """`GET /usage`: usage today, charts of the last 30 days, and recent requests."""
        filters = _filter(context.request.query_params)
        scope = context.scope
        days = self._days()
        keys = (await scope.owner.keys()).keys
        sums = await scope.usage.days(from_day=days[0], key_id=filters.key_id)
        # Fetch one more than is shown, to know whether there is another page.
        receipts = await scope.usage.requests(filters, count=_PAGE + 1)
        requests = receipts[:_PAGE]
        reset_at = _next_midnight(self._pages.now())
        return self._pages.show(
            context,
            "usage",
            today=await self._today(context, keys),
            reset_at=reset_at,
            until_reset=countdown(reset_at - self._pages.now()),
            requests_chart=columns("Requests", days, _by_model(sums, lambda day: day.requests)),
            tokens_chart=columns(
                "Tokens", days, _by_model(sums, lambda day: day.prompt_tokens + day.completion_tokens)
            ),
            sums=sums,
            requests=requests,
            keys=keys,
            names={key.id: key.name for key in keys},
            filters=filters,
            outcomes=OUTCOMES,
            more=requests[-1].id if len(receipts) > _PAGE else "",
        )

    async def download(self, context: RequestContext) -> Response:
        """`GET /usage.csv`: all requests that match the filter, newest first, streamed page by page."""
        filters, usage = _filter(context.request.query_params), context.scope.usage
        # Before the response starts, so that an error is shown as a page.
        first = await usage.requests(filters, count=_CSV_PAGE)
        headers = {"content-disposition": 'attachment; filename="usage.csv"'}
        return StreamingResponse(
            _csv(first, partial(_next_page, usage, filters)), media_type="text/csv; charset=utf-8", headers=headers
        )

    async def find(self, context: RequestContext) -> Response:
        """`GET /usage/requests?id=req_…`: redirect to the receipt of a request."""
        request_id = context.request.query_params.get("id", "").strip()
        if not is_id(request_id, Kind.REQUEST):
            return self._pages.show(context, "request", status=404, receipt=None, request_id=request_id[:64])
        return redirect(f"/usage/requests/{request_id}")

    async def request(self, context: RequestContext) -> Response:
        """`GET /usage/requests/{id}`: the receipt of a request."""
        request_id = context.request.path_params["id"]
        receipt = await context.scope.usage.request(request_id) if is_id(request_id, Kind.REQUEST) else None
        if receipt is None:
            return self._pages.show(context, "request", status=404, receipt=None, request_id=request_id[:64])
        names = {key.id: key.name for key in (await context.scope.owner.keys()).keys}
        return self._pages.show(
            context,
            "request",
            receipt=receipt,
            request_id=receipt.id,
            key_name=names.get(receipt.key_id, receipt.key_id),
            why=explain_outcome(receipt.outcome),
            refund=explain_refund(receipt.refund_reason) if receipt.refund_reason else "",
        )

    async def _today(self, context: RequestContext, keys: Sequence[Key]) -> list[tuple[Key, int, int]]:
        """Return the active keys with their used and remaining requests today."""
        working = [key for key in keys if key.state(self._pages.now()) in ("active", "rotated")]
        days = await or_empty(context.scope.usage.today([key.id for key in working]))
        return [
            (key, day.used, max(0, key.daily_limit - day.used - day.held))
            for key, day in zip(working, days, strict=False)
            if day is not None
        ]

    def _days(self) -> list[str]:
        last = datetime.fromtimestamp(self._pages.now(), UTC).date()
        return [(last - timedelta(days=back)).isoformat() for back in reversed(range(_DAYS))]


def _filter(query: Mapping[str, str]) -> RequestFilter:
    """Return the filter from a query. Invalid values are ignored."""
    key_id, outcome = query.get("key", ""), query.get("outcome", "")
    before = query.get("before", "")
    return RequestFilter(
        key_id if is_id(key_id, Kind.KEY) else "",
        outcome if outcome in OUTCOMES else "",
        _day(query.get("from", "")),
        _day(query.get("to", "")),
        before if is_id(before, Kind.REQUEST) else "",
    )


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat() if _DAY.fullmatch(text) else ""
    except ValueError:
        return ""


def _by_model(sums: Sequence[DayUsage], count: Callable[[DayUsage], int]) -> dict[str, dict[str, int]]:
    series: dict[str, dict[str, int]] = {}
    for row in sums:
        series.setdefault(row.model, {})[row.day] = count(row)
    return series


def _next_midnight(now: float) -> float:
    return (now // 86_400 + 1) * 86_400


async def _next_page(usage: Usage, filters: RequestFilter, page: Sequence[Receipt]) -> Sequence[Receipt]:
    """Return the page after `page`; empty after the last one."""
    if len(page) < _CSV_PAGE:
        return []
    following = RequestFilter(filters.key_id, filters.outcome, filters.from_day, filters.to_day, page[-1].id)
    return await usage.requests(following, count=_CSV_PAGE)


async def _csv(
    page: Sequence[Receipt], next_page: Callable[[Sequence[Receipt]], Awaitable[Sequence[Receipt]]]
) -> AsyncIterator[str]:
    yield _lines([_CSV_COLUMNS])
    while page:
        yield _lines(map(_row, page))
        page = await next_page(page)


def _row(row: Receipt) -> Sequence[object]:
    tokens = (row.usage.prompt_tokens, row.usage.completion_tokens, row.usage.total_tokens)
    result = (row.outcome, row.charged, row.refund_reason or "")
    times = (row.time_to_first_token_ms or "", row.duration_ms)
    return [row.id, row.key_id, row.created_at, _cell(row.model), row.stream, *result, *tokens, *times]


def _lines(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _cell(text: str) -> str:
    """Escape text that a spreadsheet could run as a formula. Model names come from users' requests."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
