"""Usage page: daily counts, charts, requests and receipts."""

import asyncio
import csv
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial

from starlette.responses import Response
from starlette.types import Scope

from services.common import csv_cells
from services.common.ids import Kind, is_id
from services.common.receipts import Receipt
from services.common.surface import Surface
from services.gateway.console.facts import Facts
from services.gateway.console.failures import failure_of
from services.gateway.console.labels import OUTCOMES, countdown, explain_outcome, explain_refund
from services.gateway.console.page import Pages, redirect
from services.gateway.console.ports import Key, RequestFilter, TodayUsage, UsageClient
from services.gateway.console.receipt_texts import bug_report, timeline_of
from services.gateway.console.request_context import RequestContext
from services.gateway.console.security.concurrency import slot_within_response
from services.gateway.console.unknown import or_none
from services.gateway.console.usage_charts import charts_of, days_of, totals_of
from services.gateway.console.views.key import WORKING
from services.gateway.console.views.refused_requests import RefusedRequests
from services.gateway.http.downloads import Download, Downloads

_PAGE = 50
_CSV_PAGE = 1_000
_CSV_COLUMNS = (
    *("request_id", "key_id", "created_at", "model", "stream", "outcome", "charged", "refund_reason"),
    *("prompt_tokens", "completion_tokens", "total_tokens", "time_to_first_token_ms", "duration_ms"),
    *("surface", "cost_usd"),
)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_ReadPage = Callable[[RequestFilter], Awaitable[tuple[str, RequestFilter | None]]]


class UsageViews:
    """Handlers of the usage page."""

    def __init__(self, pages: Pages, facts: Facts, refused: RefusedRequests) -> None:
        """Render with `pages`. `facts` have the models, and `refused` the refused requests."""
        self._refused = refused
        self._pages = pages
        self._facts = facts
        self._downloads = Downloads()

    async def index(self, context: RequestContext) -> Response:
        """`GET /usage`: today, totals, charts, and the requests. Filters apply to all but today."""
        filters = _filter(context.request.query_params)
        usage, days = context.scope.usage, days_of(filters.from_day, filters.to_day, now=self._pages.now())
        shown = replace(filters, from_day=days[0], to_day=days[-1])
        keys = (await context.scope.owner.keys()).keys
        sums, everything, receipts, today, refused = await asyncio.gather(
            or_none(usage.days(shown)),
            or_none(usage.days(RequestFilter(from_day=days[0], to_day=days[-1]))),
            # One more than is shown, to know whether there is another page.
            or_none(usage.requests(filters, count=_PAGE + 1)),
            self._today(context, keys),
            self._refused.read(context, [key for key in keys if filters.key_id in ("", key.id)]),
        )
        requests = None if receipts is None else receipts[:_PAGE]
        reset_at = _next_midnight(self._pages.now())
        return self._pages.show(
            context,
            "usage",
            today=today,
            refused=refused,
            reset_at=reset_at,
            until_reset=countdown(reset_at - self._pages.now()),
            days=days,
            totals=None if sums is None else totals_of(sums),
            charts=charts_of(days, sums or [], everything or sums or []),
            sums=sums,
            requests=requests,
            keys=keys,
            names={key.id: key.name for key in keys},
            filters=filters,
            outcomes=OUTCOMES,
            surfaces=tuple(Surface),
            more=receipts[_PAGE - 1].id if receipts and len(receipts) > _PAGE else "",
        )

    async def download(self, context: RequestContext) -> Response:
        """`GET /usage.csv`: all requests that match the filter, newest first, streamed page by page."""
        read_page = partial(_read_page, context.scope.usage)
        lease = await self._downloads.begin(context.scope.session.account_id, context.client)
        try:
            # Before the response starts, so that an error is shown as a page.
            text, older = await read_page(_filter(context.request.query_params))
        except BaseException:
            lease.release()
            raise
        content = _csv(context.request.scope, text, older, read_page)
        return Download(lease, content, name="usage.csv", media_type="text/csv; charset=utf-8")

    async def find(self, context: RequestContext) -> Response:
        """`GET /usage/requests?id=req_…`: redirect to the receipt of a request."""
        request_id = context.request.query_params.get("id", "").strip()
        if not is_id(request_id, Kind.REQUEST):
            return self._pages.show(context, "request", status=404, receipt=None, request_id=request_id[:64])
        return redirect(f"/usage/requests/{request_id}")

    async def request(self, context: RequestContext) -> Response:
        """`GET /usage/requests/{id}`: the receipt of a request; with `panel` in the query, as part of the list."""
        request_id = context.request.path_params["id"]
        receipt = await context.scope.usage.request(request_id) if is_id(request_id, Kind.REQUEST) else None
        if receipt is None:
            return self._pages.show(context, "request", status=404, receipt=None, request_id=request_id[:64])
        await self._facts.refresh()
        model = self._facts.models and self._facts.models.named(receipt.model)
        names = {key.id: key.name for key in (await context.scope.owner.keys()).keys}
        failure = failure_of(receipt, model.facts.context_window if model else None)
        return self._pages.show(
            context,
            "request_panel" if context.query("panel") else "request",
            receipt=receipt,
            request_id=receipt.id,
            key_name=names.get(receipt.key_id, receipt.key_id),
            why=explain_outcome(receipt.outcome),
            refund=explain_refund(receipt.refund_reason) if receipt.refund_reason else "",
            failure=failure,
            timeline=timeline_of(receipt),
            report=bug_report(receipt, failure),
        )

    async def _today(self, context: RequestContext, keys: Sequence[Key]) -> list[tuple[Key, TodayUsage]] | None:
        """Return the active keys with their usage today; None if it is not known."""
        working = [key for key in keys if key.state(self._pages.now()) in WORKING]
        days = await or_none(context.scope.usage.today([key.id for key in working]))
        if days is None or None in days:
            return None
        return [(key, day) for key, day in zip(working, days, strict=True) if day is not None]


def _filter(query: Mapping[str, str]) -> RequestFilter:
    """Return the filter from a query. Invalid values are ignored."""
    key_id, outcome = query.get("key", ""), query.get("outcome", "")
    before, surface = query.get("before", ""), query.get("surface", "")
    first, last = _day(query.get("from", "")), _day(query.get("to", ""))
    if first and last:
        first, last = sorted((first, last))
    return RequestFilter(
        key_id if is_id(key_id, Kind.KEY) else "",
        outcome if outcome in OUTCOMES else "",
        first,
        last,
        before if is_id(before, Kind.REQUEST) else "",
        Surface(surface) if surface in tuple(Surface) else None,
    )


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat() if _DAY.fullmatch(text) else ""
    except ValueError:
        return ""


def _next_midnight(now: float) -> float:
    return (now // 86_400 + 1) * 86_400


async def _read_page(usage: UsageClient, filters: RequestFilter) -> tuple[str, RequestFilter | None]:
    """Return a page as text, and the filter of the next one; None after the last one."""
    page = await usage.requests(filters, count=_CSV_PAGE)
    is_last = len(page) < _CSV_PAGE
    return _lines(map(_row, page)), None if is_last else replace(filters, before=page[-1].id)


async def _csv(scope: Scope, text: str, older: RequestFilter | None, read_page: _ReadPage) -> AsyncIterator[str]:
    """Yield the header and the pages. Only one unsent page is in memory."""
    yield _lines([_CSV_COLUMNS]) + text
    while older is not None:
        async with slot_within_response(scope):
            text, older = await read_page(older)
        yield text


def _row(row: Receipt) -> Sequence[object]:
    tokens = (row.usage.prompt_tokens, row.usage.completion_tokens, row.usage.total_tokens)
    result = (row.outcome, row.charged, row.refund_reason or "")
    times = (row.time_to_first_token_ms or "", row.duration_ms)
    request = (row.id, row.key_id, row.created_at, csv_cells.escaped(row.model), row.stream)
    return [*request, *result, *tokens, *times, row.surface or "", row.cost_usd or ""]


def _lines(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
