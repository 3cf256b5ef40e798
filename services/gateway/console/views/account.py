"""The account: password, sessions, audit log, and its end."""

from typing import Any

from starlette.responses import Response

from services.common.errors import ServiceError
from services.common.ids import Kind, is_id
from services.gateway.console.page import Pages, go
from services.gateway.console.request_context import RequestContext

_EVENTS = 50


class AccountViews:
    """The handlers."""

    def __init__(self, pages: Pages) -> None:
        """Answer with `pages`."""
        self._pages = pages

    async def index(self, context: RequestContext) -> Response:
        """`GET /account`."""
        return await self._show(context)

    async def change_password(self, context: RequestContext) -> Response:
        """`POST /account/password`."""
        try:
            await context.scope.owner.change_password(context.secret("current"), context.secret("new"))
        except ServiceError as exc:
            return await self._show(context, error=exc, at="password")
        return await self._show(context, done="Your password is changed, and all other sessions are ended.")

    async def end_session(self, context: RequestContext) -> Response:
        """`POST /account/sessions/{id}/end`."""
        await context.scope.owner.end_session(context.request.path_params["id"])
        return go("/account")

    async def delete(self, context: RequestContext) -> Response:
        """`POST /account/delete`."""
        try:
            await context.scope.owner.delete_account(context.secret("password"))
        except ServiceError as exc:
            return await self._show(context, error=exc, at="delete")
        context.clear_session()
        return self._pages.show(context, "goodbye", status=200)

    async def _show(
        self, context: RequestContext, *, error: ServiceError | None = None, at: str = "", done: str = ""
    ) -> Response:
        owner = context.scope.owner
        before = context.query("before")
        # One more than are shown, to know whether there is an older page.
        events = await owner.events(before=before if is_id(before, Kind.AUDIT_EVENT) else "", count=_EVENTS + 1)
        facts: dict[str, Any] = {
            "sessions": await owner.sessions(),
            "events": events[:_EVENTS],
            "older": events[_EVENTS - 1].id if len(events) > _EVENTS else "",
            "at": at,
            "done": done,
        }
        if error is not None:
            return self._pages.refuse(context, "account", error, **facts)
        return self._pages.show(context, "account", error="", **facts)
