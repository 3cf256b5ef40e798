"""`GET /api/v1/usage/export`: all receipts of an account in a range of days, newest first, streamed page by page."""

import csv
import io
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from services.common.csv_cells import escaped
from services.common.receipts import Receipt
from services.common.runtime.clock import Clock
from services.gateway.apis.receipts import Ledger, ReceiptsPage, invalid_parameter, requested_days, requested_key
from services.gateway.http.bearer import bearer_token, client_address
from services.gateway.http.downloads import Download, Downloads
from services.gateway.requests.ports import Authenticator

_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens", "source")
_SLOT = ("number", "limit", "scope")
_COLUMNS = (
    *("id", "key_id", "day", "created_at", "model", "upstream_model", "surface", "stream", "outcome", "charged"),
    *("refund_reason", "cost_microdollars", "cost_usd", "attempts", "time_to_first_token_ms", "duration_ms"),
    "queue_ms",
)
"""Columns that have the values of members of the same name."""
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_encode = msgspec.json.Encoder().encode


class UsageExport:
    """The endpoint of exports. Concurrent exports are limited per account and address."""

    def __init__(self, authenticator: Authenticator, ledger: Ledger, clock: Clock) -> None:
        self._authenticator = authenticator
        self._ledger = ledger
        self._clock = clock
        self._downloads = Downloads()

    async def export(self, request: Request) -> Response:
        """Return the receipts as JSON Lines or CSV. A stream that ends early can be continued with `before`."""
        address = client_address(request)
        principal = await self._authenticator.authenticate(bearer_token(request), address=address)
        format_name, before = _format(request), _before(request)
        from_day, to_day = requested_days(request, now=self._clock.now())
        key_id = requested_key(request)

        async def page(before: str) -> ReceiptsPage:
            return await self._ledger.page(
                principal.account_id, key_id=key_id, from_day=from_day, to_day=to_day, before=before
            )

        lease = await self._downloads.begin(principal.account_id, address)
        try:
            # Before the response starts, so that a failure is an error response.
            first = await page(before)
        except BaseException:
            lease.release()
            raise
        content = _pages(first, page, _csv if format_name == "csv" else _json_lines)
        if format_name == "csv":
            content = _with_heading(content)
        media_type = "text/csv; charset=utf-8" if format_name == "csv" else "application/jsonl"
        return Download(lease, content, name=f"usage.{format_name}", media_type=media_type)


async def _pages(
    page: ReceiptsPage, read: Callable[[str], Any], encode: Callable[[Sequence[Receipt]], str]
) -> AsyncIterator[str]:
    """Yield pages as text. Only one that is not sent yet is in memory."""
    while True:
        if page.receipts:
            yield encode(page.receipts)
        if not page.next_before:
            return
        page = await read(page.next_before)


async def _with_heading(content: AsyncIterator[str]) -> AsyncIterator[str]:
    yield _lines([(*_COLUMNS, *_USAGE[:-1], "usage_source", *(f"slot_{name}" for name in _SLOT))])
    async for text in content:
        yield text


def _json_lines(receipts: Sequence[Receipt]) -> str:
    return "".join(f"{_encode(receipt).decode()}\n" for receipt in receipts)


def _csv(receipts: Sequence[Receipt]) -> str:
    return _lines([_row(receipt) for receipt in receipts])


def _row(receipt: Receipt) -> list[object]:
    usage = [getattr(receipt.usage, name) for name in _USAGE]
    slot = [receipt.slot and getattr(receipt.slot, name) for name in _SLOT]
    return [_cell(value) for value in (*(getattr(receipt, name) for name in _COLUMNS), *usage, *slot)]


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return escaped(value) if isinstance(value, str) else value


def _lines(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _format(request: Request) -> str:
    name = request.query_params.get("format", "jsonl")
    if name not in ("csv", "jsonl"):
        raise invalid_parameter("format", "expected `csv` or `jsonl`")
    return name


def _before(request: Request) -> str:
    before = request.query_params.get("before", "")
    if before and not _ID.fullmatch(before):
        raise invalid_parameter("before", "expected the id of a request, `req_…`")
    return before
