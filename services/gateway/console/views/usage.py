"""Usage page: totals, charts, requests and receipts."""

import asyncio
from collections.abc import Sequence

from starlette.responses import Response

from services.common.ids import Kind, is_id
from services.common.surface import Surface
from services.common.web.unknown import or_none
from services.gateway.console.facts import Facts
from services.gateway.console.failures import failure_of
from services.gateway.console.labels import OUTCOMES, countdown, explain_outcome, explain_refund
from services.gateway.console.page import Pages, redirect
from services.gateway.console.ports import Key, TodayUsage
from services.gateway.console.receipt_texts import bug_report, timeline_of
from services.gateway.console.request_context import RequestContext
from services.gateway.console.usage.csv_rows import RequestsCSV
from services.gateway.console.usage.overview import models_of, overview_of, read_reports
from services.gateway.console.usage.query import UsageQuery, usage_query
from services.gateway.console.usage.ranges import RANGES
from services.gateway.console.usage.reports import Breakdown
from services.gateway.console.views.key import WORKING
from services.gateway.console.views.refused_requests import RefusedRequests
from services.gateway.http.downloads import Download, Downloads

_PAGE = 50
_BREAKDOWNS = {
    Breakdown.MODEL: "Model",
    Breakdown.KEY: "Key",
    Breakdown.SURFACE: "API",
    Breakdown.OUTCOME: "Outcome",
}


class UsageViews:
    """Handlers of the usage page."""

    def __init__(self, pages: Pages, facts: Facts, refused: RefusedRequests) -> None:
        """Render with `pages`. `facts` have the models, and `refused` the refused requests."""
        self._refused = refused
        self._pages = pages
        self._facts = facts
        self._downloads = Downloads()

    async def index(self, context: RequestContext) -> Response:
        """`GET /usage`: totals, charts, breakdown and requests, to all of which the filters apply, and today."""
        now = self._pages.now()
        query, usage = usage_query(context.request.query_params, now=now), context.scope.usage
        keys = (await context.scope.owner.keys()).keys
        names = {key.id: key.name for key in keys}
        reports, page, today, refused = await asyncio.gather(
            read_reports(usage, query, now=now),
            or_none(usage.requests(query.filters, count=_PAGE)),
            self._today(context, keys),
            self._refused.read(context, [key for key in keys if query.filters.key_id in ("", key.id)]),
        )
        reset_at = _next_midnight(now)
        return self._pages.show(
            context,
            "usage",
            query=query,
            overview=overview_of(query, reports, names),
            page=page,
            is_live=_is_live(query),
            today=today,
            refused=refused,
            now=now,
            reset_at=reset_at,
            until_reset=countdown(reset_at - now),
            keys=keys,
            names=names,
            models=models_of(reports, query.filters.model),
            outcomes=OUTCOMES,
            surfaces=tuple(Surface),
            ranges=RANGES,
            breakdowns=_BREAKDOWNS,
        )

    async def download(self, context: RequestContext) -> Response:
        """`GET /usage.csv`: all requests of the page's range that match its filters."""
        query = usage_query(context.request.query_params, now=self._pages.now())
        rows = RequestsCSV(context.scope.usage, query.filters)
        lease = await self._downloads.begin(context.scope.session.account_id, context.client)
        try:
            # Before the response starts, so that an error is shown as a page.
            text, before = await rows.first_page()
        except BaseException:
            lease.release()
            raise
        content = rows.pages(context.request.scope, text, before)
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


def _is_live(query: UsageQuery) -> bool:
    """Return whether the list can show requests as they end: if it is the newest page of a range that ends now."""
    return bool(query.range.name) and not query.filters.before


def _next_midnight(now: float) -> float:
    return (now // 86_400 + 1) * 86_400
