"""Account page: password, sessions, audit log and deletion."""

import logging
from typing import Any

from starlette.responses import Response

from services.common.errors import ServiceError
from services.common.ids import Kind, is_id
from services.common.web.unknown import or_none
from services.gateway.alerts.model import AlertKind
from services.gateway.console.page import Pages, redirect
from services.gateway.console.ports import AlertSettings
from services.gateway.console.request_context import RequestContext
from services.gateway.requests.ports import ResponseStore

_log = logging.getLogger(__name__)
_EVENTS = 50
_ALERT_KINDS = {
    AlertKind.LIMIT_80: "80 % of a limit is used",
    AlertKind.LIMIT_100: "A limit is used up",
    AlertKind.EXPIRY: "An API key expires in 7 days, and in 1 day",
    AlertKind.IDLE: "An API key is used after 30 idle days",
}


class AccountViews:
    """Handlers of the account page."""

    def __init__(self, pages: Pages, responses: ResponseStore) -> None:
        """Render with `pages`. Stored `responses` are deleted with their account."""
        self._pages = pages
        self._responses = responses

    async def index(self, context: RequestContext) -> Response:
        """`GET /account`."""
        return await self._show(context)

    async def change_password(self, context: RequestContext) -> Response:
        """`POST /account/password`."""
        try:
            await context.scope.owner.change_password(context.secret("current"), context.secret("new"))
        except ServiceError as exc:
            return await self._show(context, error=exc, at="password")
        message = "Your password has been changed and all other sessions have been ended."
        return self._pages.confirm(context, message, "/account")

    async def set_alerts(self, context: RequestContext) -> Response:
        """`POST /account/alerts`."""
        mail, webhook = (
            frozenset(kind for kind in AlertKind if context.text(f"{way}-{kind}")) for way in ("mail", "webhook")
        )
        await context.scope.owner.set_alert_settings(AlertSettings(mail, webhook))
        return self._pages.confirm(context, "Your alerts have been saved.", "/account#alerts")

    async def end_session(self, context: RequestContext) -> Response:
        """`POST /account/sessions/{id}/end`."""
        await context.scope.owner.end_session(context.request.path_params["id"])
        return self._pages.confirm(context, "The session has been ended.", "/account")

    async def delete(self, context: RequestContext) -> Response:
        """`POST /account/delete`. Refused while stored responses could not be deleted too."""
        try:
            has_stored = await self._responses.is_enabled()
            await context.scope.owner.delete_account(context.secret("password"))
        except ServiceError as exc:
            return await self._show(context, error=exc, at="delete")
        if has_stored:
            await self._delete_responses(context.scope.session.account_id)
        await self._delete_webhook(context)
        context.clear_session()
        return redirect("/goodbye")

    async def _delete_webhook(self, context: RequestContext) -> None:
        try:
            await context.scope.usage.delete_webhook()
        except ServiceError as exc:
            _log.error(
                "The usage webhook of a deleted account could not be deleted. Run `stackctl accounts delete` with its "
                "id.",
                extra={"account_id": context.scope.session.account_id, "reason": exc.reason},
            )

    async def _delete_responses(self, account_id: str) -> None:
        try:
            await self._responses.delete_account(account_id)
        except ServiceError as exc:
            _log.error(
                "The stored responses of a deleted account could not be deleted. Run `stackctl accounts delete` "
                "with its id.",
                extra={"account_id": account_id, "reason": exc.reason},
            )

    async def goodbye(self, context: RequestContext) -> Response:
        """`GET /goodbye`: the page after an account was deleted."""
        return self._pages.show(context, "goodbye")

    async def _show(self, context: RequestContext, *, error: ServiceError | None = None, at: str = "") -> Response:
        owner = context.scope.owner
        before = context.query("before")
        # Fetch one more than is shown, to know whether there is another page.
        events = await owner.events(before=before if is_id(before, Kind.AUDIT_EVENT) else "", count=_EVENTS + 1)
        variables: dict[str, Any] = {
            "sessions": await owner.sessions(),
            "key_names": {key.id: key.name for key in (await owner.keys()).keys},
            "events": events[:_EVENTS],
            "older": events[_EVENTS - 1].id if len(events) > _EVENTS else "",
            "at": at,
            "alerts": await or_none(owner.alert_settings()),
            "alert_kinds": _ALERT_KINDS,
            "webhook_url": await or_none(context.scope.usage.webhook_url()),
        }
        if error is not None:
            return self._pages.show_error(context, "account", error, **variables)
        return self._pages.show(context, "account", error="", **variables)
