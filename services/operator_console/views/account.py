"""The page of one account: plan, state, usage, keys and sessions; and the forms that change them."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime
from itertools import groupby
from typing import Any

from starlette.responses import Response

from services.common.errors import NotFound, PermissionDenied, ServiceError
from services.common.ids import Kind, is_id
from services.common.web.unknown import or_none
from services.operator_console.clients.usage import UsageClient
from services.operator_console.model import Account, ModelUsage, add_up
from services.operator_console.page import Pages
from services.operator_console.request import OperatorRequest


class AccountViews:
    """Handlers of the page and its forms."""

    def __init__(self, pages: Pages, usage: UsageClient) -> None:
        self._pages = pages
        self._usage = usage

    async def index(self, request: OperatorRequest) -> Response:
        """`GET /accounts/{id}`."""
        return await self._show(request)

    async def move(self, request: OperatorRequest) -> Response:
        """`POST /accounts/{id}/plan`."""
        account_id = _account_id(request)
        try:
            account = await request.operator.move(account_id, request.text("plan"))
        except ServiceError as exc:
            return await self._show(request, exc)
        return self._done(request, account, f"{_name(account)} has the plan {account.plan} now.")

    async def suspend(self, request: OperatorRequest) -> Response:
        """`POST /accounts/{id}/suspend`."""
        account_id = _account_id(request)
        try:
            account = await request.operator.suspend(account_id, request.text("reason"))
        except ServiceError as exc:
            return await self._show(request, exc)
        return self._done(request, account, f"{_name(account)} is suspended. Its keys stop within a second.")

    async def resume(self, request: OperatorRequest) -> Response:
        """`POST /accounts/{id}/resume`."""
        account = await request.operator.resume(_account_id(request))
        return self._done(request, account, f"{_name(account)} is active again. Its keys work within a second.")

    async def end_sessions(self, request: OperatorRequest) -> Response:
        """`POST /accounts/{id}/sessions/end`: one session, or all."""
        account_id = _account_id(request)
        ended = await request.operator.end_sessions(account_id, request.text("session"))
        message = f"{ended} session{'s' if ended != 1 else ''} ended."
        return self._pages.confirm(request, message, f"/accounts/{account_id}")

    def _done(self, request: OperatorRequest, account: Account, message: str) -> Response:
        return self._pages.confirm(request, message, f"/accounts/{account.id}")

    async def _show(self, request: OperatorRequest, error: ServiceError | None = None) -> Response:
        account_id, today = _account_id(request), datetime.fromtimestamp(self._pages.now(), UTC).date()
        details, plans, month = await asyncio.gather(
            request.operator.account(account_id),
            request.operator.plans(),
            or_none(self._usage.of_account(account_id, today.replace(day=1), today), PermissionDenied),
        )
        variables: dict[str, Any] = {
            "details": details,
            "account": details.account,
            "plans": [plan.name for plan in plans],
            "now": self._pages.now(),
            "usage": None if month is None else _usage(month, today),
        }
        if error is not None:
            return self._pages.show_error(request, "account", error, **variables)
        return self._pages.show(request, "account", error="", **variables)


def _usage(month: Sequence[ModelUsage], today: date) -> dict[str, object]:
    """Return the sums of today, of the month, and of the month by model, the one with the most requests first."""
    by_model = sorted(month, key=lambda part: part.model)
    models = [(model, add_up(list(parts))) for model, parts in groupby(by_model, key=lambda part: part.model)]
    return {
        "today": add_up([part for part in month if part.day == today.isoformat()]),
        "month": add_up(month),
        "models": sorted(models, key=lambda one: -one[1].requests),
    }


def _account_id(request: OperatorRequest) -> str:
    """Return the id in the path.

    Raises:
        NotFound: It is not an account id.
    """
    account_id: str = request.request.path_params["id"]
    if not is_id(account_id, Kind.ACCOUNT):
        raise NotFound("This is not the id of an account. Search for it under Accounts.")
    return account_id


def _name(account: Account) -> str:
    return account.email or account.id
