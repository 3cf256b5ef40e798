"""API keys page: list, create, rotate and revoke."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.responses import Response

from services.common.errors import ServiceError
from services.common.limits import Scope, Window
from services.common.web.unknown import or_none
from services.gateway.console.facts import Facts
from services.gateway.console.labels import describe_limit, limit_label
from services.gateway.console.page import Pages, redirect
from services.gateway.console.ports import Key, NewKey, TodayUsage
from services.gateway.console.request_context import RequestContext
from services.gateway.console.views.key import WORKING
from services.gateway.console.views.key_settings import chosen_models, end_of, model_picker
from services.gateway.requests.types import RateLimit

_LONG_WINDOWS = (Window.DAY, Window.MONTH)
_USED_UP_KEYS_MAX = 10
"""Keys whose limits are read for the list, each with a call to quota."""
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

    used_up: RateLimit | None
    """A limit per day or month, of the key or its account, that is used up; None if none is."""

    @property
    def label(self) -> str:
        """The state that the list shows."""
        return "used_up" if self.state == "active" and self.used_up else self.state

    @property
    def used_up_label(self) -> str:
        """What is used up, such as `Tokens per day, account`."""
        limit = self.used_up
        return "" if limit is None else limit_label(limit.scope, limit.unit, limit.window)


class KeyViews:
    """Handlers of the API keys page."""

    def __init__(self, pages: Pages, facts: Facts) -> None:
        """Render with `pages`; `facts` have the models."""
        self._pages = pages
        self._facts = facts

    async def index(self, context: RequestContext) -> Response:
        """`GET /keys`."""
        return await self._list(context)

    async def create(self, context: RequestContext) -> Response:
        """`POST /keys`. The next page shows the secret, once."""
        try:
            models = chosen_models(context.form)
            expires_at = end_of(context.text("expires"), now=self._pages.now())
            new_key = await context.scope.owner.create_key(context.text("name"), expires_at=expires_at, models=models)
        except ServiceError as exc:
            return await self._list(context, error=exc)
        return self._show_secret(context, new_key)

    async def rotate(self, context: RequestContext) -> Response:
        """`POST /keys/{id}/rotate`."""
        grace_seconds = _GRACE_SECONDS.get(context.text("grace"), 86_400)
        try:
            new_key = await context.scope.owner.rotate_key(
                context.request.path_params["id"], grace_seconds=grace_seconds
            )
        except ServiceError as exc:
            return await self._list(context, error=exc)
        return self._show_secret(context, new_key)

    async def revoke(self, context: RequestContext) -> Response:
        """`POST /keys/{id}/revoke`."""
        try:
            key = await context.scope.owner.revoke_key(context.request.path_params["id"])
        except ServiceError as exc:
            return await self._list(context, error=exc)
        message = f"“{key.name}” is revoked. Programs that use it are rejected within a second."
        return self._pages.confirm(context, message, "/keys")

    async def revoke_leaked(self, context: RequestContext) -> Response:
        """`POST /keys/leaked`: revoke the key with a secret, which is not stored."""
        try:
            key = await context.scope.owner.revoke_secret(context.text("secret"))
        except ServiceError as exc:
            return await self._list(context, error=exc, at="leaked")
        message = f"“{key.name}” is revoked. Create a new key for the programs that used it."
        return self._pages.confirm(context, message, "/keys")

    def _show_secret(self, context: RequestContext, new_key: NewKey) -> Response:
        context.notify(now=self._pages.now(), key_name=new_key.key.name, secret=new_key.secret)
        return redirect("/keys")

    async def _list(self, context: RequestContext, *, error: ServiceError | None = None, at: str = "") -> Response:
        keys = await context.scope.owner.keys()
        rows = await self._rows(context, list(reversed(keys.keys)))
        await self._facts.refresh()
        form = context.form if error else context.request.query_params
        variables: dict[str, Any] = {
            "rows": (active := [row for row in rows if row.state in WORKING]),
            "is_use_unknown": any(row.today is None or not row.is_use_known for row in active),
            "ended": [row for row in rows if row.state not in WORKING],
            "keys": keys,
            "at": at,
            "secret": context.take_notice("secret", now=self._pages.now()),
            "secret_name": context.notice(now=self._pages.now()).get("key_name", ""),
            "form": {name: form.get(name, "") for name in ("name", "expires")},
            "picker": model_picker(chosen_models(form), self._facts.models),
        }
        if error is not None:
            return self._pages.show_error(context, "keys", error, **variables)
        return self._pages.show(context, "keys", error="", **variables)

    async def _rows(self, context: RequestContext, keys: Sequence[Key]) -> list[KeyRow]:
        usage, ids = context.scope.usage, [key.id for key in keys]
        days, uses, used_up = await asyncio.gather(
            or_none(usage.today(ids)), or_none(usage.last_uses(ids)), self._used_up(context, keys)
        )
        return [
            KeyRow(
                key,
                key.state(self._pages.now()),
                days[number] if days is not None else None,
                uses[number] if uses is not None else None,
                uses is not None,
                [describe_limit(limit) for limit in key.limits if limit.scope is Scope.KEY],
                used_up.get(key.id),
            )
            for number, key in enumerate(keys)
        ]

    async def _used_up(self, context: RequestContext, keys: Sequence[Key]) -> dict[str, RateLimit]:
        """Return a used-up limit of each of the newest active keys that has one."""
        active = [key for key in keys if key.state(self._pages.now()) == "active"][:_USED_UP_KEYS_MAX]
        principal = await or_none(context.scope.owner.principal(active[0].id)) if active else None
        if principal is None:
            return {}
        # Only the account's limit of requests per day is not in the list of keys, and it is the same for all.
        of_keys = [replace(principal, key_id=key.id, daily_limit=key.daily_limit, limits=key.limits) for key in active]
        read = await asyncio.gather(*(or_none(context.scope.usage.limits(one)) for one in of_keys))
        used_up = {one.key_id: _used_up_limit(limits or ()) for one, limits in zip(of_keys, read, strict=True)}
        return {key_id: limit for key_id, limit in used_up.items() if limit is not None}


def _used_up_limit(limits: Sequence[RateLimit]) -> RateLimit | None:
    """Return the used-up limit that lasts longest; None if no limit per day or month is used up."""
    used_up = [limit for limit in limits if limit.window in _LONG_WINDOWS and not limit.remaining]
    return max(used_up, key=lambda limit: limit.reset_at, default=None)
