"""The page of the accounts with the most usage."""

from datetime import UTC, datetime, timedelta

from starlette.responses import Response

from services.common.errors import PermissionDenied
from services.common.web.unknown import or_none
from services.operator_console.clients.usage import ORDERS, UsageClient
from services.operator_console.model import Usage
from services.operator_console.page import Pages
from services.operator_console.request import OperatorRequest

_ACCOUNTS = 25
_PERIODS = {"1": "Today", "7": "7 days", "30": "30 days"}


class TopPage:
    """Handler of the page."""

    def __init__(self, pages: Pages, usage: UsageClient) -> None:
        self._pages = pages
        self._usage = usage

    async def index(self, request: OperatorRequest) -> Response:
        """`GET /top`."""
        days = request.query("days") if request.query("days") in _PERIODS else "1"
        order = request.query("by") if request.query("by") in ORDERS else "requests"
        today = datetime.fromtimestamp(self._pages.now(), UTC).date()
        first = today - timedelta(days=int(days) - 1)
        found = await or_none(self._usage.top_accounts(first, today, order, limit=_ACCOUNTS), PermissionDenied)
        emails = await request.operator.emails({one.account_id for one in found}) if found else {}
        most = max((_amount(one.usage, order) for one in found or ()), default=0)
        return self._pages.show(
            request,
            "top",
            rows=None if found is None else [(one, _amount(one.usage, order)) for one in found],
            most=most,
            emails=emails,
            periods=_PERIODS,
            orders=tuple(ORDERS),
            days=days,
            order=order,
            first=first.isoformat(),
            last=today.isoformat(),
        )


def _amount(usage: Usage, order: str) -> int:
    """Return what the accounts are ordered by."""
    return {"requests": usage.requests, "tokens": usage.tokens, "cost": usage.cost or 0}[order]
