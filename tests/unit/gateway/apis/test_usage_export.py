"""`GET /api/v1/usage/export` in front of a scripted ledger: formats, limits, and streams that end early."""

import asyncio
import csv
import io
import json
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Message, Scope

from services.common.errors import Unavailable
from services.common.limits import Scope as LimitScope
from services.common.limits import Slot
from services.common.receipts import Receipt, ReceiptUsage
from services.common.surface import Surface
from services.gateway.apis.error_handlers import UNCOUNTED
from services.gateway.apis.receipts import DayUsage, OwnedReceipt, ReceiptsPage
from services.gateway.apis.usage_export import UsageExport
from services.gateway.requests.types import Principal

_NOON = 1_795_348_800.0
"""2026-11-22T12:00:00Z."""
_KEY_ID = "key_01KAKAKAKAKAKAKAKAKAKAKAKA"
_RECEIPT = Receipt(
    id="req_9",
    key_id=_KEY_ID,
    day="2026-11-22",
    created_at="2026-11-22T12:00:00Z",
    model='=1+1,"x"',
    upstream_model="openai/gpt-oss-20b",
    surface=Surface.MESSAGES,
    stream=True,
    outcome="answered",
    charged=True,
    refund_reason=None,
    slot=Slot(4, 10, LimitScope.ACCOUNT),
    usage=ReceiptUsage(10, 20, 30, 4, 5, "reported"),
    cost_microdollars=1_234,
    cost_usd="0.001234",
    attempts=1,
    time_to_first_token_ms=None,
    duration_ms=900,
    queue_ms=0,
)
_WITHOUT = replace(_RECEIPT, id="req_8", slot=None, surface=None, cost_microdollars=None, charged=False)


class OneAccount:
    """Maps every key to an account of the same name."""

    async def authenticate(self, api_key: str, *, address: str = "") -> Principal:
        return Principal("key_1", api_key, 10, None)


class Noon:
    """A clock that stands still."""

    def now(self) -> float:
        return _NOON

    def monotonic(self) -> float:
        return 0.0


@dataclass
class Ledger:
    """Returns pages in turn, by the id before which they are; an exception is raised."""

    pages: dict[str, ReceiptsPage | Exception] = field(default_factory=dict)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    async def page(self, account_id: str, *, key_id: str, from_day: str, to_day: str, before: str) -> ReceiptsPage:
        self.asked.append((account_id, key_id, from_day, to_day, before))
        await asyncio.sleep(0)
        page = self.pages.get(before, ReceiptsPage([], ""))
        if isinstance(page, Exception):
            raise page
        return page

    async def find(self, request_id: str) -> OwnedReceipt | None:
        raise AssertionError

    async def summarize(self, account_id: str, *, key_id: str, from_day: str, to_day: str) -> list[DayUsage]:
        raise AssertionError


_THREE_PAGES: dict[str, ReceiptsPage | Exception] = {
    "": ReceiptsPage([_RECEIPT], "req_9"),
    "req_9": ReceiptsPage([], "req_8x"),
    "req_8x": ReceiptsPage([_WITHOUT], ""),
}


def _app(ledger: Ledger) -> Starlette:
    export = UsageExport(OneAccount(), ledger, Noon())
    return Starlette(routes=[Route("/export", export.export)], exception_handlers=UNCOUNTED)


async def _get(ledger: Ledger, **params: str) -> httpx.Response:
    transport = httpx.ASGITransport(_app(ledger))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        return await http.get("/export", params=params, headers={"Authorization": "Bearer acc_1"})


async def test_all_pages_are_sent_as_json_lines() -> None:
    ledger = Ledger(_THREE_PAGES)
    response = await _get(ledger, **{"from": "2026-11-01", "to": "2026-11-22", "key_id": _KEY_ID})

    assert response.headers["content-type"] == "application/jsonl"
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [line["id"] for line in lines] == ["req_9", "req_8"]
    assert lines[0]["model"] == '=1+1,"x"'
    assert lines[0]["slot"] == {"number": 4, "limit": 10, "scope": "account"}
    period = ("acc_1", _KEY_ID, "2026-11-01", "2026-11-22")
    assert ledger.asked == [(*period, before) for before in ("", "req_9", "req_8x")]


async def test_csv_has_a_heading_and_no_formulas() -> None:
    response = await _get(Ledger(_THREE_PAGES), format="csv")

    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == 'attachment; filename="usage.csv"'
    first, second = csv.DictReader(io.StringIO(response.text, newline=""))
    assert (first["id"], first["model"], first["charged"]) == ("req_9", '\'=1+1,"x"', "true")
    assert (first["slot_number"], first["slot_limit"], first["slot_scope"]) == ("4", "10", "account")
    assert (first["total_tokens"], first["usage_source"], first["queue_ms"]) == ("30", "reported", "0")
    assert (second["slot_number"], second["surface"], second["cost_microdollars"]) == ("", "", "")
    assert second["charged"] == "false"


@pytest.mark.parametrize(("format_name", "lines"), [("csv", 1), ("jsonl", 0)])
async def test_an_export_without_requests_has_only_its_heading(format_name: str, lines: int) -> None:
    response = await _get(Ledger(), format=format_name)
    assert (response.status_code, len(response.text.splitlines())) == (200, lines)


async def test_the_last_thirty_days_are_the_default_and_before_continues() -> None:
    ledger = Ledger()
    await _get(ledger, before="req_01KAKAKAKAKAKAKAKAKAKAKAKA")
    assert ledger.asked == [("acc_1", "", "2026-10-24", "", "req_01KAKAKAKAKAKAKAKAKAKAKAKA")]


@pytest.mark.parametrize(
    "params",
    [
        {"format": "parquet"},
        {"before": "a\0"},
        {"before": "x" * 65},
        {"from": "yesterday"},
        {"from": "2026-11-02", "to": "2026-11-01"},
        {"key_id": "sk_stk_x"},
    ],
)
async def test_an_invalid_parameter_gets_400_with_its_name(params: dict[str, str]) -> None:
    ledger = Ledger()
    response = await _get(ledger, **params)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == next(iter(params))
    assert ledger.asked == []


async def test_a_failure_before_the_first_page_is_an_error_and_frees_the_export() -> None:
    ledger = Ledger({"": Unavailable("The ledger is away.", reason="ledger_unavailable")})
    transport = httpx.ASGITransport(_app(ledger))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        for _ in range(5):
            response = await http.get("/export", headers={"Authorization": "Bearer acc_1"})
            assert (response.status_code, response.json()["error"]["code"]) == (503, "ledger_unavailable")


async def test_a_failure_after_the_first_page_ends_the_stream_as_incomplete() -> None:
    ledger = Ledger({"": ReceiptsPage([_RECEIPT], "req_9"), "req_9": Unavailable("The ledger is away.")})
    reader = Reader(_app(ledger), "acc_1")
    reader.read()
    with pytest.raises(RuntimeError, match="response already started"):
        await asyncio.wait_for(reader.task, 5)
    assert (reader.status, json.loads(reader.body)["id"]) == (200, "req_9")
    assert not reader.is_complete


class Reader:
    """A client that reads no more of a response than the test lets it."""

    def __init__(self, app: Starlette, account_id: str, address: str = "192.0.2.1") -> None:
        self.status = 0
        self.body = b""
        self.is_complete = False
        self._parts = asyncio.Semaphore(0)
        self._answered = asyncio.Event()
        scope: Scope = {
            "type": "http", "method": "GET", "path": "/export", "raw_path": b"/export", "query_string": b"",
            "headers": [(b"authorization", f"Bearer {account_id}".encode())], "client": (address, 1),
            "server": ("test", 80), "scheme": "http", "http_version": "1.1",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
        }  # fmt: skip
        self.task: asyncio.Task[Any] = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._answered.set()
            return
        self.body += message["body"]
        self.is_complete = not message.get("more_body")
        await self._parts.acquire()

    async def answered(self) -> int:
        """Return the status once the response has begun."""
        await asyncio.wait_for(self._answered.wait(), 5)
        return self.status

    def read(self) -> None:
        """Read everything from now on."""
        for _ in range(100):
            self._parts.release()


async def test_exports_that_are_read_slowly_are_limited_per_account_and_read_one_page_ahead() -> None:
    ledger = Ledger(_THREE_PAGES)
    app = _app(ledger)
    slow = [Reader(app, "acc_1"), Reader(app, "acc_1")]
    assert [await one.answered() for one in slow] == [200, 200]
    refused = Reader(app, "acc_1")
    refused.read()
    assert await refused.answered() == 429
    assert await Reader(app, "acc_2", "192.0.2.2").answered() == 200
    assert len(ledger.asked) == 3, "each has read its first page only"

    slow[0].read()
    await asyncio.wait_for(slow[0].task, 5)
    assert slow[0].is_complete
    slow[1].task.cancel()
    await asyncio.wait([slow[1].task])
    assert [await Reader(app, "acc_1").answered() for _ in range(2)] == [200, 200]


async def test_all_addresses_of_an_ipv6_network_share_four_exports() -> None:
    """Their owner can use any of them, and would otherwise take the exports of everybody else."""
    app = _app(Ledger(_THREE_PAGES))
    slow = [Reader(app, f"acc_{number // 2}", f"2001:db8::{number}") for number in range(4)]
    assert [await one.answered() for one in slow] == [200] * 4

    refused = Reader(app, "acc_9", "2001:db8::9")
    refused.read()

    assert await refused.answered() == 429
    assert await Reader(app, "acc_9", "2001:db8:1::9").answered() == 200
