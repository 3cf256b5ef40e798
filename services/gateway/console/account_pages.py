"""The account: password, sessions, audit log, and its end."""

from typing import Any

from starlette.responses import Response

from services.common.errors import ServiceError
from services.common.ids import Kind, is_id
from services.gateway.console.page import Pages, go
from services.gateway.console.visit import Visit

_EVENTS = 50


class AccountPages:
    """The handlers."""

    def __init__(self, pages: Pages) -> None:
        """Answer with `pages`."""
        self._pages = pages

    async def index(self, visit: Visit) -> Response:
        """`GET /account`."""
        return await self._show(visit)

    async def change_password(self, visit: Visit) -> Response:
        """`POST /account/password`."""
        try:
            await visit.own.owner.change_password(visit.secret("current"), visit.secret("new"))
        except ServiceError as exc:
            return await self._show(visit, error=exc, at="password")
        return await self._show(visit, done="Your password is changed, and all other sessions are ended.")

    async def end_stay(self, visit: Visit) -> Response:
        """`POST /account/sessions/{id}/end`."""
        await visit.own.owner.end_stay(visit.request.path_params["id"])
        return go("/account")

    async def delete(self, visit: Visit) -> Response:
        """`POST /account/delete`."""
        try:
            await visit.own.owner.delete_account(visit.secret("password"))
        except ServiceError as exc:
            return await self._show(visit, error=exc, at="delete")
        visit.go_out()
        return self._pages.show(visit, "goodbye", status=200)

    async def _show(self, visit: Visit, *, error: ServiceError | None = None, at: str = "", done: str = "") -> Response:
        owner = visit.own.owner
        before = visit.query("before")
        # One more than are shown, to know whether there is an older page.
        events = await owner.events(before=before if is_id(before, Kind.AUDIT_EVENT) else "", count=_EVENTS + 1)
        facts: dict[str, Any] = {
            "stays": await owner.stays(),
            "events": events[:_EVENTS],
            "older": events[_EVENTS - 1].id if len(events) > _EVENTS else "",
            "at": at,
            "done": done,
        }
        if error is not None:
            return self._pages.refuse(visit, "account", error, **facts)
        return self._pages.show(visit, "account", error="", **facts)
