"""The playground: a chat in the browser, through the same pipeline and counted like any call."""

import logging
from functools import partial
from typing import Any

from starlette.responses import Response

from services.common.errors import FailedPrecondition, InvalidRequest, NotFound, ServiceError, Unauthenticated
from services.common.ids import Kind, is_id
from services.gateway.apis.routes import API
from services.gateway.console.concurrency import release_slot
from services.gateway.console.page import Pages
from services.gateway.console.ports import OwnerClient
from services.gateway.console.request_context import RequestContext
from services.gateway.keys.revocation import IdentityState
from services.gateway.requests.ports import Models

_log = logging.getLogger(__name__)
_KEY_HEADER = "stack-key-id"


class Playground:
    """The handlers."""

    def __init__(self, pages: Pages, api: API, models: Models) -> None:
        """Answer through `api`, offering `models`."""
        self._pages = pages
        self._api = api
        self._models = models

    async def index(self, context: RequestContext) -> Response:
        """`GET /playground`."""
        now = self._pages.now()
        keys = [key for key in (await context.scope.owner.keys()).keys if key.state(now) in ("active", "rotated")]
        names = sorted(str(model.get("id")) for model in await self._listed())
        chosen = context.request.query_params.get("key", "")
        return self._pages.show(context, "playground", keys=keys, models=names, chosen=chosen)

    async def chat(self, context: RequestContext) -> Response:
        """`POST /playground/chat`: a chat request in OpenAI's JSON, for a key named by its id.

        Raises:
            InvalidRequest: No key is named.
            ServiceError: As the API; the key may have ended.
        """
        key_id = context.request.headers.get(_KEY_HEADER, "")
        if not is_id(key_id, Kind.KEY):
            raise InvalidRequest("Choose an API key to chat with.")
        scope = context.scope
        principal = await scope.owner.principal(key_id)
        ask = partial(_identity_state, scope.owner, key_id)
        release_slot(context.request.scope)
        return await self._api.chat_of_session(context.request, principal, scope.session.id, ask)

    async def _listed(self) -> list[dict[str, Any]]:
        try:
            return list(await self._models.list_models())
        except ServiceError:
            return []  # The page explains itself, and the default model needs no list.


async def _identity_state(owner: OwnerClient, key_id: str) -> IdentityState:
    """Ask auth about the owner's session and the key that it uses; what a key began before it expired may end."""
    try:
        await owner.principal(key_id)
    except Unauthenticated:
        return IdentityState.SESSION_ENDED
    except (FailedPrecondition, NotFound) as exc:
        return IdentityState.VALID if exc.reason == "key_expired" else IdentityState.REVOKED
    except ServiceError as exc:
        _log.info("a session with live streams was not confirmed", extra={"reason": exc.reason})
        return IdentityState.UNKNOWN
    return IdentityState.VALID
