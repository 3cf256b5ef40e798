"""The page of invitations."""

from typing import Any

from starlette.responses import Response

from services.common.errors import ServiceError
from services.operator_console.model import FREE_PLAN
from services.operator_console.page import Pages, redirect
from services.operator_console.request import OperatorRequest


class InviteViews:
    """Handlers of the page and its forms."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    async def index(self, request: OperatorRequest) -> Response:
        """`GET /invites`. After a creation, the page shows the link, once."""
        link = request.take_notice("link", now=self._pages.now())
        return await self._show(request, link=link)

    async def create(self, request: OperatorRequest) -> Response:
        """`POST /invites`."""
        try:
            link = await request.operator.invite(request.text("plan"))
        except ServiceError as exc:
            return await self._show(request, error=exc)
        request.notify(now=self._pages.now(), link=link)
        return redirect("/invites")

    async def revoke(self, request: OperatorRequest) -> Response:
        """`POST /invites/{id}/revoke`."""
        try:
            await request.operator.revoke_invite(request.request.path_params["id"])
        except ServiceError as exc:
            return await self._show(request, error=exc)
        return self._pages.confirm(request, "The invitation is revoked.", "/invites")

    async def _show(self, request: OperatorRequest, *, link: str = "", error: ServiceError | None = None) -> Response:
        variables: dict[str, Any] = {
            "invites": await request.operator.invites(),
            "plans": [plan.name for plan in await request.operator.plans()],
            "chosen": request.text("plan") or FREE_PLAN,
            "link": link,
        }
        if error is not None:
            return self._pages.show_error(request, "invites", error, **variables)
        return self._pages.show(request, "invites", error="", **variables)
