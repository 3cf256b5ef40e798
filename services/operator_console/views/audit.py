"""The page of the audit log of all accounts."""

from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from services.common.errors import ServiceError
from services.operator_console.labels import ACTIONS
from services.operator_console.model import AuditSearch
from services.operator_console.page import Pages
from services.operator_console.request import OperatorRequest

_PAGE_SIZE = 100


class AuditPage:
    """Handler of the page."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    async def index(self, request: OperatorRequest) -> Response:
        """`GET /audit`."""
        wanted = AuditSearch(
            **{name: request.query(name) for name in ("account", "actor", "action", "before")},
        )
        variables: dict[str, Any] = {"wanted": wanted, "actions": ACTIONS}
        try:
            page = await request.operator.events(wanted, limit=_PAGE_SIZE + 1)
        except ServiceError as exc:
            return self._pages.show_error(
                request, "audit", exc, events=[], operators={}, emails={}, older="", **variables
            )
        events = page.events[:_PAGE_SIZE]
        emails = await request.operator.emails({event.account_id for event in events if event.account_id})
        older = _older(wanted, events[-1].id) if len(page.events) > _PAGE_SIZE else ""
        return self._pages.show(
            request,
            "audit",
            events=events,
            operators=page.operators,
            emails=emails,
            older=older,
            error="",
            **variables,
        )


def _older(wanted: AuditSearch, before: str) -> str:
    fields = {"account": wanted.account, "actor": wanted.actor, "action": wanted.action, "before": before}
    return urlencode({name: value for name, value in fields.items() if value})
