"""Page of one API key: usage, settings, pause, rotation and revocation."""

import asyncio
from typing import Any

from starlette.responses import Response

from services.common.errors import NotFound, ServiceError
from services.common.web.unknown import or_none
from services.gateway.console.facts import Facts
from services.gateway.console.labels import describe_limit
from services.gateway.console.page import Pages
from services.gateway.console.ports import Key, KeySettings, RequestFilter
from services.gateway.console.request_context import RequestContext
from services.gateway.console.usage_charts import charts_of, days_of, totals_of
from services.gateway.console.views.key_settings import (
    chosen_models,
    day_of,
    end_of,
    limit_fields,
    model_picker,
    owner_limits,
    whole_number,
    with_other_limits,
)
from services.gateway.console.views.refused_requests import RefusedRequests

WORKING = ("active", "paused", "rotated")
"""States of keys that are not over."""


class KeyPage:
    """Handlers of the page of one key."""

    def __init__(self, pages: Pages, facts: Facts, refused: RefusedRequests) -> None:
        """Render with `pages`; `facts` have the models, and `refused` the refused requests."""
        self._pages = pages
        self._facts = facts
        self._refused = refused

    async def index(self, context: RequestContext) -> Response:
        """`GET /keys/{id}`."""
        return await self._show(context, await _own_key(context))

    async def update(self, context: RequestContext) -> Response:
        """`POST /keys/{id}/settings`."""
        key = await _own_key(context)
        try:
            day = context.text("expires")
            settings = KeySettings(
                context.text("name"),
                end_of(day, now=self._pages.now()),
                chosen_models(context.form),
                whole_number(context.text("requests_day")),
                with_other_limits(key, owner_limits(context.form)),
            )
            sets_expiry = day != day_of(key.expires_at)
            changed = await context.scope.owner.update_key(key.id, settings, sets_expiry=sets_expiry)
        except ServiceError as exc:
            return await self._show(context, key, error=exc)
        return self._pages.confirm(context, f"The settings of “{changed.name}” are saved.", f"/keys/{key.id}")

    async def pause(self, context: RequestContext) -> Response:
        """`POST /keys/{id}/pause`."""
        return await self._set_paused(context, is_paused=True)

    async def resume(self, context: RequestContext) -> Response:
        """`POST /keys/{id}/resume`."""
        return await self._set_paused(context, is_paused=False)

    async def _set_paused(self, context: RequestContext, *, is_paused: bool) -> Response:
        key = await context.scope.owner.pause_key(context.request.path_params["id"], is_paused=is_paused)
        paused = "is paused. Requests with it are rejected within a second."
        message = f"“{key.name}” {paused if is_paused else 'is active again.'}"
        return self._pages.confirm(context, message, f"/keys/{key.id}")

    async def _show(self, context: RequestContext, key: Key, *, error: ServiceError | None = None) -> Response:
        usage, now = context.scope.usage, self._pages.now()
        days = days_of("", "", now=now)
        await self._facts.refresh()
        shown = RequestFilter(key_id=key.id, from_day=days[0], to_day=days[-1])
        sums, everything, today, last_uses, refused = await asyncio.gather(
            or_none(usage.days(shown)),
            or_none(usage.days(RequestFilter(from_day=days[0], to_day=days[-1]))),
            or_none(usage.today([key.id])),
            or_none(usage.last_uses([key.id])),
            self._refused.read(context, [key]),
        )
        models = chosen_models(context.form) if error else key.models
        variables: dict[str, Any] = {
            "key": key,
            "state": key.state(now),
            "is_over": key.state(now) not in WORKING,
            "today": today[0] if today else None,
            "last_used_at": last_uses[0] if last_uses else None,
            "is_use_known": last_uses is not None,
            "days": days,
            "totals": None if sums is None else totals_of(sums),
            "charts": charts_of(days, sums or [], everything or sums or []),
            "refused": refused,
            "limits": [describe_limit(limit) for limit in key.limits],
            "form": context.form if error else _form(key),
            "picker": model_picker(models, self._facts.models),
        }
        if error is not None:
            return self._pages.show_error(context, "key", error, **variables)
        return self._pages.show(context, "key", error="", **variables)


def _form(key: Key) -> dict[str, str]:
    daily = "" if key.owner_daily_limit is None else str(key.owner_daily_limit)
    return {"name": key.name, "expires": day_of(key.expires_at), "requests_day": daily, **limit_fields(key)}


async def _own_key(context: RequestContext) -> Key:
    """Return the key of the path.

    Raises:
        NotFound: The account has no such key.
    """
    keys = (await context.scope.owner.keys()).keys
    key = next((key for key in keys if key.id == context.request.path_params["id"]), None)
    if key is None:
        raise NotFound("Your account has no such API key. Go to API keys and choose one.")
    return key
