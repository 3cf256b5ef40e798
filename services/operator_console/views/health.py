"""The page of the services' health."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from services.common.errors import ServiceError
from services.operator_console.clients.health import HealthClient
from services.operator_console.clients.usage import UsageClient
from services.operator_console.model import AccountSearch, Check
from services.operator_console.page import Pages
from services.operator_console.request import OperatorRequest


class HealthPage:
    """Handler of the page."""

    def __init__(self, pages: Pages, usage: UsageClient, health: HealthClient) -> None:
        self._pages = pages
        self._usage = usage
        self._health = health

    async def index(self, request: OperatorRequest) -> Response:
        """`GET /health`. The databases are checked by reading from them."""
        today = datetime.fromtimestamp(self._pages.now(), UTC).date()
        services, accounts, ledger = await asyncio.gather(
            self._health.checks(),
            _check("accounts", request.operator.accounts(AccountSearch(), limit=1)),
            _check("ledger", self._usage.top_accounts(today, today, "requests", limit=1)),
        )
        checks = [*services, accounts, ledger]
        return self._pages.show(
            request, "health", checks=checks, failed=sum(one.state == "failed" for one in checks), now=self._pages.now()
        )


async def _check(name: str, read: Awaitable[Any]) -> Check:
    try:
        await read
    except ServiceError as exc:
        return Check(name, "failed", exc.message)
    return Check(name, "ok")
