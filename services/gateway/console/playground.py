"""The playground: a chat in the browser, through the same pipeline and counted like any call."""

import logging
from functools import partial
from typing import Any

from starlette.responses import Response

from services.common.errors import FailedPrecondition, InvalidRequest, NotFound, ServiceError, Unauthenticated
from services.common.ids import Kind, is_id
from services.gateway.console.lane import leave_lane
from services.gateway.console.owner import Owner
from services.gateway.console.page import Pages
from services.gateway.console.visit import Visit
from services.gateway.lifelines import Standing
from services.gateway.routes import API, Models

_log = logging.getLogger(__name__)
_KEY_HEADER = "stack-key-id"


class Playground:
    """The handlers."""

    def __init__(self, pages: Pages, api: API, models: Models) -> None:
        """Answer through `api`, offering `models`."""
        self._pages = pages
        self._api = api
        self._models = models

    async def index(self, visit: Visit) -> Response:
        """`GET /playground`."""
        now = self._pages.now()
        keys = [key for key in (await visit.own.owner.keys()).keys if key.state(now) in ("active", "rotated")]
        names = sorted(str(model.get("id")) for model in await self._listed())
        chosen = visit.request.query_params.get("key", "")
        return self._pages.show(visit, "playground", keys=keys, models=names, chosen=chosen)

    async def chat(self, visit: Visit) -> Response:
        """`POST /playground/chat`: a chat request in OpenAI's JSON, for a key named by its id.

        Raises:
            InvalidRequest: No key is named.
            ServiceError: As the API; the key may have ended.
        """
        key_id = visit.request.headers.get(_KEY_HEADER, "")
        if not is_id(key_id, Kind.KEY):
            raise InvalidRequest("Choose an API key to chat with.")
        own = visit.own
        principal = await own.owner.principal(key_id)
        ask = partial(_standing, own.owner, key_id)
        leave_lane(visit.request.scope)
        return await self._api.answer_owner(visit.request, principal, own.stay.id, ask)

    async def _listed(self) -> list[dict[str, Any]]:
        try:
            return list(await self._models.list_models())
        except ServiceError:
            return []  # The page explains itself, and the default model needs no list.


async def _standing(owner: Owner, key_id: str) -> Standing:
    """Ask auth about the owner's session and the key that it uses; what a key began before it expired may end."""
    try:
        await owner.principal(key_id)
    except Unauthenticated:
        return Standing.SESSION_ENDED
    except (FailedPrecondition, NotFound) as exc:
        return Standing.GOOD if exc.reason == "key_expired" else Standing.REVOKED
    except ServiceError as exc:
        _log.info("a session with live streams was not confirmed", extra={"reason": exc.reason})
        return Standing.UNKNOWN
    return Standing.GOOD
