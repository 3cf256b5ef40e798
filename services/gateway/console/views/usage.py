"""Usage: what was asked for, what it cost, and what became of each request."""

import csv
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial

from starlette.responses import Response
from starlette.types import Scope

from services.common.ids import Kind, is_id
from services.gateway.apis.receipts import DayUsage, Receipt
from services.gateway.console.charts import columns
from services.gateway.console.concurrency import slot_within_response
from services.gateway.console.downloads import Download, Downloads
from services.gateway.console.labels import OUTCOMES, countdown, explained, refund_explained
from services.gateway.console.page import Pages, go
from services.gateway.console.ports import Key, RequestFilter, Usage
from services.gateway.console.request_context import RequestContext
from services.gateway.console.views.keys import or_nothing

_DAYS = 30
_PAGE = 50
_CSV_PAGE = 1_000
_CSV_COLUMNS = (
    *("request_id", "key_id", "created_at", "model", "stream", "outcome", "charged", "refund_reason"),
    *("prompt_tokens", "completion_tokens", "total_tokens", "time_to_first_token_ms", "duration_ms"),
)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_FORMULA_STARTS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
"""Also the full-width forms of the first four, which spreadsheets read as them."""
_ReadPage = Callable[[RequestFilter], Awaitable[tuple[str, RequestFilter | None]]]


class UsageViews:
    """The handlers."""

    def __init__(self, pages: Pages) -> None:
        """Answer with `pages`."""
        self._pages = pages
        self._downloads = Downloads()

    async def index(self, context: RequestContext) -> Response:
        """`GET /usage`: today, thirty days as charts, and the latest requests."""
        wanted = _filter(context.request.query_params)
        scope = context.scope
        days = self._days()
        keys = (await scope.owner.keys()).keys
        sums = await scope.usage.days(from_day=days[0], key_id=wanted.key_id)
        # One more than are shown, to know whether there is an older page.
        found = await scope.usage.requests(wanted, count=_PAGE + 1)
        requests = found[:_PAGE]
        reset_at = _next_midnight(self._pages.now())
        return self._pages.show(
            context,
            "usage",
            today=await self._today(context, keys),
            reset_at=reset_at,
            until_reset=countdown(reset_at - self._pages.now()),
            requests_chart=columns("Requests", days, _by_model(sums, lambda one: one.requests)),
            tokens_chart=columns(
                "Tokens", days, _by_model(sums, lambda one: one.prompt_tokens + one.completion_tokens)
            ),
            sums=sums,
            requests=requests,
            keys=keys,
            names={key.id: key.name for key in keys},
            wanted=wanted,
            outcomes=OUTCOMES,
            more=requests[-1].id if len(found) > _PAGE else "",
        )

    async def download(self, context: RequestContext) -> Response:
        """`GET /usage.csv`: all requests of the filter, newest first, sent page by page."""
        read_page = partial(_read_page, context.scope.usage)
        lease = await self._downloads.begin(context.scope.session.account_id, context.client)
        try:
            # A failure before the first line is still a page.
            text, older = await read_page(_filter(context.request.query_params))
        except BaseException:
            lease.release()
            raise
        content = _csv(context.request.scope, text, older, read_page)
        return Download(lease, content, name="usage.csv", media_type="text/csv; charset=utf-8")

    async def find(self, context: RequestContext) -> Response:
        """`GET /usage/requests?id=req_…`: the form that looks a request up."""
        request_id = context.request.query_params.get("id", "").strip()
        if not is_id(request_id, Kind.REQUEST):
            return self._pages.show(context, "request", status=404, receipt=None, request_id=request_id[:64])
        return go(f"/usage/requests/{request_id}")

    async def request(self, context: RequestContext) -> Response:
        """`GET /usage/requests/{id}`: one request's receipt, in words."""
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
            why=explained(receipt.outcome),
            refund=refund_explained(receipt.refund_reason) if receipt.refund_reason else "",
        )

    async def _today(self, context: RequestContext, keys: Sequence[Key]) -> list[tuple[Key, int, int]]:
        """Return the keys that work, what each has used and what is left."""
        working = [key for key in keys if key.state(self._pages.now()) in ("active", "rotated")]
        days = await or_nothing(context.scope.usage.today([key.id for key in working]))
        return [
            (key, day.used, max(0, key.daily_limit - day.used - day.held))
            for key, day in zip(working, days, strict=False)
            if day is not None
        ]

    def _days(self) -> list[str]:
        last = datetime.fromtimestamp(self._pages.now(), UTC).date()
        return [(last - timedelta(days=back)).isoformat() for back in reversed(range(_DAYS))]


def _filter(query: Mapping[str, str]) -> RequestFilter:
    """Return what is asked for; what cannot be is no filter."""
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
    for one in sums:
        series.setdefault(one.model, {})[one.day] = count(one)
    return series


def _next_midnight(now: float) -> float:
    return (now // 86_400 + 1) * 86_400


async def _read_page(usage: Usage, wanted: RequestFilter) -> tuple[str, RequestFilter | None]:
    """Return a page as text, and the filter of the next one; None after the last."""
    page = await usage.requests(wanted, count=_CSV_PAGE)
    is_last = len(page) < _CSV_PAGE
    return _lines(map(_row, page)), None if is_last else replace(wanted, before=page[-1].id)


async def _csv(scope: Scope, text: str, older: RequestFilter | None, read_page: _ReadPage) -> AsyncIterator[str]:
    """Yield the header and the pages; of what is not sent yet, only one page is in memory."""
    yield _lines([_CSV_COLUMNS]) + text
    while older is not None:
        async with slot_within_response(scope):
            text, older = await read_page(older)
        yield text


def _row(row: Receipt) -> Sequence[object]:
    tokens = (row.usage.prompt_tokens, row.usage.completion_tokens, row.usage.total_tokens)
    told = (row.outcome, row.charged, row.refund_reason or "")
    times = (row.time_to_first_token_ms or "", row.duration_ms)
    return [row.id, row.key_id, row.created_at, _cell(row.model), row.stream, *told, *tokens, *times]


def _lines(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _cell(text: str) -> str:
    """Return text that no spreadsheet takes for a formula: a model's name is whatever somebody asked for."""
    return f"'{text}" if text[:1] in _FORMULA_STARTS and text else text
