"""API keys page: list, create, rotate and revoke."""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from starlette.responses import Response

from services.common.errors import InvalidRequest, ServiceError
from services.common.limits import Scope
from services.gateway.console.labels import describe_limit
from services.gateway.console.page import Pages, redirect
from services.gateway.console.ports import Key, NewKey, TodayUsage
from services.gateway.console.request_context import RequestContext

T = TypeVar("T")
_log = logging.getLogger(__name__)
_GRACE_SECONDS = {"0": 0, "3600": 3_600, "86400": 86_400, "604800": 604_800}


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A row of the list of keys."""

    key: Key
    state: str
    today: TodayUsage | None
    """Usage today; None if unknown."""
    last_used_at: float | None
    is_use_known: bool
    limits: Sequence[str]
    """Descriptions of the key's limits other than requests per day."""


class KeyViews:
    """Handlers of the API keys page."""

    def __init__(self, pages: Pages) -> None:
        """Render with `pages`."""
        self._pages = pages

    async def index(self, context: RequestContext) -> Response:
        """`GET /keys`."""
        return await self._list(context)

    async def create(self, context: RequestContext) -> Response:
        """`POST /keys`. The secret is shown in this response only."""
        try:
            models = tuple(context.text("models").replace(",", " ").split())
            expires_at = _end_of(context.text("expires"), now=self._pages.now())
            new_key = await context.scope.owner.create_key(context.text("name"), expires_at=expires_at, models=models)
        except ServiceError as exc:
            return await self._list(context, error=exc)
        return await self._list(context, new_key=new_key)

    async def rotate(self, context: RequestContext) -> Response:
        """`POST /keys/{id}/rotate`."""
        grace_seconds = _GRACE_SECONDS.get(context.text("grace"), 86_400)
        try:
            new_key = await context.scope.owner.rotate_key(
                context.request.path_params["id"], grace_seconds=grace_seconds
            )
        except ServiceError as exc:
            return await self._list(context, error=exc)
        return await self._list(context, new_key=new_key)

    async def revoke(self, context: RequestContext) -> Response:
        """`POST /keys/{id}/revoke`."""
        try:
            await context.scope.owner.revoke_key(context.request.path_params["id"])
        except ServiceError as exc:
            return await self._list(context, error=exc)
        return redirect("/keys")

    async def _list(
        self, context: RequestContext, *, new_key: NewKey | None = None, error: ServiceError | None = None
    ) -> Response:
        keys = await context.scope.owner.keys()
        rows = await self._rows(context, list(reversed(keys.keys)))
        variables: dict[str, Any] = {
            "rows": [row for row in rows if row.state in ("active", "rotated")],
            "ended": [row for row in rows if row.state not in ("active", "rotated")],
            "keys": keys,
            "new_key": new_key,
            "form": {
                name: context.text(name) if error else context.query(name) for name in ("name", "expires", "models")
            },
        }
        if error is not None:
            return self._pages.show_error(context, "keys", error, **variables)
        return self._pages.show(context, "keys", error="", **variables)

    async def _rows(self, context: RequestContext, keys: Sequence[Key]) -> list[KeyRow]:
        usage, ids = context.scope.usage, [key.id for key in keys]
        days, uses = await asyncio.gather(or_empty(usage.today(ids)), or_empty(usage.last_uses(ids)))
        return [
            KeyRow(
                key,
                key.state(self._pages.now()),
                days[number] if days else None,
                uses[number] if uses else None,
                bool(uses),
                [describe_limit(limit) for limit in key.limits if limit.scope is Scope.KEY],
            )
            for number, key in enumerate(keys)
        ]


async def or_empty(usage: Awaitable[Sequence[T]]) -> Sequence[T]:
    """Return the result, or an empty list on an error, so that keys are shown even if their usage cannot be read."""
    try:
        return await usage
    except ServiceError as exc:
        _log.info("keys shown without usage", extra={"reason": exc.reason})
        return []


def _end_of(day: str, *, now: float) -> float | None:
    """Return the end of a UTC day, when a key expires; None if `day` is empty."""
    if not day:
        return None
    try:
        ends = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=1)
    except (ValueError, OverflowError) as exc:
        raise InvalidRequest("The expiry date is not valid. Enter it as YYYY-MM-DD.") from exc
    if ends.timestamp() <= now:
        raise InvalidRequest("The expiry date is in the past. Choose a later one, or leave it empty.")
    return ends.timestamp()
