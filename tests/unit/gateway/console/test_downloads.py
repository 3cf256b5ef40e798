"""Slow downloads do not block the console for others, and are limited per account and address."""

import asyncio
import csv
import io
from collections.abc import Sequence
from typing import Any, cast

import pytest
from starlette.types import ASGIApp, Message, Scope

from services.common.prices import Prices
from services.common.receipts import Receipt, ReceiptUsage
from services.common.runtime.clock import SystemClock
from services.common.web.assets import Assets
from services.gateway.console.app import Console, build_console
from services.gateway.console.docs.values import ValueSource
from services.gateway.console.docs.views import DocsViews
from services.gateway.console.facts import Facts
from services.gateway.console.page import STATIC, Pages
from services.gateway.console.ports import (
    ModelList,
    ModelsClient,
    OwnerClient,
    RequestFilter,
    RequestPage,
    Session,
    SessionClient,
    SignUp,
    UsageClient,
)
from services.gateway.console.request_context import SessionScope
from services.gateway.console.site import Site
from services.gateway.console.usage.live import LiveRequests
from services.gateway.http.cors import CORSPolicy
from services.gateway.settings import GatewaySettings

_ROWS = 2_500
_FORMULAS = ("=1+1", "+1", "-1", "@a", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff20a")


class Auth:
    """Accepts every token as the session of an account of the same name."""

    async def session(self, token: str) -> Session:
        return Session("sess_1", token, "a@example.com", "default", 0.0, 9e9, 0.0, "", True, token)

    async def describe_sign_up(self, invite: str) -> SignUp:
        return SignUp("open", has_mail=False, daily_limit=100)

    async def list_models(self, permitted: Sequence[str] = ()) -> ModelList:
        return ModelList([], "")


class Ledger:
    """Returns the same requests for each account, newest first."""

    async def requests(self, wanted: RequestFilter, *, count: int, scan_max: int = 0) -> RequestPage:
        await asyncio.sleep(0)
        newest = int(wanted.before) if wanted.before else _ROWS
        found = [_receipt(number) for number in range(newest - 1, max(-1, newest - 1 - count), -1)]
        return RequestPage(found, found[-1].id if len(found) == count else "")


def _receipt(number: int) -> Receipt:
    usage = ReceiptUsage(1, 1, 2, 0, 0, "reported")
    model = _FORMULAS[number % len(_FORMULAS)]
    return Receipt(
        id=str(number), key_id="key_1", day="2026-11-29", created_at="2026-11-29T00:00:00Z",
        model=model, upstream_model=model, surface=None, stream=False, outcome="completed",
        charged=True, refund_reason=None, usage=usage,
        cost_microdollars=1_234, cost_usd="0.001234", attempts=1,
        time_to_first_token_ms=None, duration_ms=1,
    )  # fmt: skip


class Reader:
    """A client that reads no more of a response than the test lets it."""

    def __init__(self, app: ASGIApp, path: str, *, account: str, address: str, method: str = "GET") -> None:
        self._parts = asyncio.Semaphore(0)
        self._answered = asyncio.Event()
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        cookie = f"stack_session={account}".encode()
        scope: Scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(b"cookie", cookie), (b"accept", b"text/html")], "client": (address, 1), "scheme": "http",
            "server": ("test", 80), "http_version": "1.1", "asgi": {"version": "3.0", "spec_version": "2.4"},
        }  # fmt: skip
        self.task = asyncio.ensure_future(cast(Any, app(scope, self._receive, self._send)))

    async def _receive(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = dict(message["headers"])
            self._answered.set()
            return
        self.body += message["body"]
        await self._parts.acquire()

    async def answered(self) -> int:
        """Return the status once the response has begun."""
        await asyncio.wait_for(self._answered.wait(), 5)
        await asyncio.sleep(0.01)
        return self.status

    async def read(self) -> bytes:
        """Read all of it."""
        for _ in range(100):
            self._parts.release()
        await asyncio.wait_for(self.task, 5)
        return self.body

    async def leave(self) -> None:
        """Disconnect."""
        self.task.cancel()
        await asyncio.wait([self.task])


@pytest.fixture(name="app")
def _app() -> ASGIApp:
    clock, assets = SystemClock(), Assets(STATIC)
    facts = Facts(cast(SessionClient, Auth()), cast(ModelsClient, Auth()), clock)
    pages = Pages(clock, assets, Site(), facts)
    return build_console(
        Console(
            pages=pages,
            assets=assets,
            clock=clock,
            session_client=cast(SessionClient, Auth()),
            facts=facts,
            prices=Prices({}),
            identity_client=cast(Any, object()),
            totp_client=cast(Any, object()),
            docs=DocsViews(pages, ValueSource(GatewaySettings(), Site(), facts), None),
            open_scope=lambda _, session, __: SessionScope(
                session, cast(OwnerClient, object()), cast(UsageClient, Ledger()), cast(Any, object())
            ),
            api=cast(Any, object()),
            responses=cast(Any, object()),
            live=LiveRequests(clock, is_draining=lambda: False),
            cors=CORSPolicy(()),
            hsts_seconds=0,
            upgrade="",
            public=None,
        )
    )


def _download(app: ASGIApp, account: str, address: str) -> Reader:
    return Reader(app, "/usage.csv", account=account, address=address)


async def test_during_slow_downloads_the_console_answers_others_and_each_download_is_complete(app: ASGIApp) -> None:
    """Earlier, 16 of them from four addresses held all of the console's slots."""
    slow = [_download(app, f"acc_{number // 2}", f"192.0.2.{number // 4}") for number in range(20)]
    assert [await one.answered() for one in slow] == [200] * 20
    for address in ("192.0.2.0", "198.51.100.1"):
        page = Reader(app, "/docs", account="acc_other", address=address)
        assert await page.answered() == 200
        await page.read()
    for one in slow:
        rows = list(csv.DictReader(io.StringIO((await one.read()).decode())))
        assert [row["request_id"] for row in rows] == [str(number) for number in reversed(range(_ROWS))]


async def test_a_page_that_is_read_slowly_holds_no_slot_either(app: ASGIApp) -> None:
    slow = [Reader(app, "/docs", account="acc_1", address=f"192.0.2.{number // 4}") for number in range(16)]
    assert [await one.answered() for one in slow] == [200] * 16
    page = Reader(app, "/docs", account="acc_2", address="198.51.100.1")
    assert await page.answered() == 200
    for one in (page, *slow):
        await one.leave()


async def test_concurrent_downloads_are_limited_per_account_and_per_address(app: ASGIApp) -> None:
    mine = [_download(app, "acc_1", f"192.0.2.{number}") for number in range(2)]
    assert [await one.answered() for one in mine] == [200, 200]
    refused = _download(app, "acc_1", "192.0.2.9")
    assert await refused.answered() == 429
    assert b"Too many downloads are in progress." in await refused.read()

    await mine[0].leave()
    assert await _download(app, "acc_1", "192.0.2.9").answered() == 200

    same_address = [_download(app, f"acc_{number}", "198.51.100.1") for number in range(2, 7)]
    assert [await one.answered() for one in same_address] == [200] * 4 + [429]
    await same_address[0].read()
    assert await _download(app, "acc_7", "198.51.100.1").answered() == 200


async def test_no_csv_cell_begins_like_a_formula(app: ASGIApp) -> None:
    text = (await _download(app, "acc_1", "192.0.2.1").read()).decode()
    models = {row["model"] for row in csv.DictReader(io.StringIO(text, newline=""))}
    assert models == {f"'{formula}" for formula in _FORMULAS}


async def test_a_page_without_forms_answers_405_with_allow(app: ASGIApp) -> None:
    page = Reader(app, "/usage", account="acc_1", address="192.0.2.1", method="POST")
    assert await page.answered() == 405
    assert set(page.headers[b"allow"].split(b", ")) == {b"GET", b"HEAD"}
    assert b"<html" in await page.read()
