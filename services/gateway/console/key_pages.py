"""API keys: made, shown once, rotated, revoked."""

import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from starlette.responses import Response

from services.common.errors import InvalidRequest, ServiceError
from services.gateway.console.owner import Key, KeyDay, NewKey
from services.gateway.console.page import Pages, go
from services.gateway.console.visit import Visit

T = TypeVar("T")
_log = logging.getLogger(__name__)
_GRACE_SECONDS = {"0": 0, "3600": 3_600, "86400": 86_400, "604800": 604_800}


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key in the list."""

    key: Key
    state: str
    today: KeyDay | None
    """None where it does not matter any more, or nobody knows just now."""
    last_used_at: float | None
    is_use_known: bool


class KeyPages:
    """The handlers."""

    def __init__(self, pages: Pages) -> None:
        """Answer with `pages`."""
        self._pages = pages

    async def index(self, visit: Visit) -> Response:
        """`GET /keys`."""
        return await self._list(visit)

    async def create(self, visit: Visit) -> Response:
        """`POST /keys`: the secret is in this answer and nowhere else."""
        try:
            models = tuple(visit.text("models").replace(",", " ").split())
            expires_at = _end_of(visit.text("expires"), now=self._pages.now())
            made = await visit.own.owner.create_key(visit.text("name"), expires_at=expires_at, models=models)
        except ServiceError as exc:
            return await self._list(visit, error=exc)
        return await self._list(visit, made=made)

    async def rotate(self, visit: Visit) -> Response:
        """`POST /keys/{id}/rotate`."""
        grace_seconds = _GRACE_SECONDS.get(visit.text("grace"), 86_400)
        try:
            made = await visit.own.owner.rotate_key(visit.request.path_params["id"], grace_seconds=grace_seconds)
        except ServiceError as exc:
            return await self._list(visit, error=exc)
        return await self._list(visit, made=made)

    async def revoke(self, visit: Visit) -> Response:
        """`POST /keys/{id}/revoke`."""
        try:
            await visit.own.owner.revoke_key(visit.request.path_params["id"])
        except ServiceError as exc:
            return await self._list(visit, error=exc)
        return go("/keys")

    async def _list(self, visit: Visit, *, made: NewKey | None = None, error: ServiceError | None = None) -> Response:
        keys = await visit.own.owner.keys()
        rows = await self._rows(visit, list(reversed(keys.keys)))
        facts: dict[str, Any] = {
            "rows": [row for row in rows if row.state in ("active", "rotated")],
            "ended": [row for row in rows if row.state not in ("active", "rotated")],
            "keys": keys,
            "made": made,
            "form": {name: visit.text(name) if error else visit.query(name) for name in ("name", "expires", "models")},
        }
        if error is not None:
            return self._pages.refuse(visit, "keys", error, **facts)
        return self._pages.show(visit, "keys", error="", **facts)

    async def _rows(self, visit: Visit, keys: Sequence[Key]) -> list[KeyRow]:
        usage, ids = visit.own.usage, [key.id for key in keys]
        days = await or_nothing(usage.today(ids))
        uses = await or_nothing(usage.last_uses(ids))
        return [
            KeyRow(
                key,
                key.state(self._pages.now()),
                days[number] if days else None,
                uses[number] if uses else None,
                bool(uses),
            )
            for number, key in enumerate(keys)
        ]


async def or_nothing(asked: Awaitable[Sequence[T]]) -> Sequence[T]:
    """Return what was asked for, or nothing: a list of keys must not vanish because a count cannot be read."""
    try:
        return await asked
    except ServiceError as exc:
        _log.info("shown without use", extra={"reason": exc.reason})
        return []


def _end_of(day: str, *, now: float) -> float | None:
    """Return the end of a UTC day, on which a key is to stop working; None for no day."""
    if not day:
        return None
    try:
        ends = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=1)
    except (ValueError, OverflowError) as exc:
        raise InvalidRequest("Write the day on which the key ends as YYYY-MM-DD.") from exc
    if ends.timestamp() <= now:
        raise InvalidRequest("The day on which the key ends is over. Choose a later one, or none.")
    return ends.timestamp()
