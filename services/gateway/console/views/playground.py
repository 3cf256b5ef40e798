"""Playground page: a chat in the browser, processed and counted like API requests."""

import logging
from functools import partial
from typing import Any

from starlette.responses import Response

from services.common.errors import FailedPrecondition, InvalidRequest, NotFound, ServiceError, Unauthenticated
from services.common.ids import Kind, is_id
from services.gateway.apis.routes import API
from services.gateway.console.page import Pages
from services.gateway.console.ports import OwnerClient
from services.gateway.console.request_context import RequestContext
from services.gateway.console.security.concurrency import release_slot
from services.gateway.keys.revocation import IdentityState
from services.gateway.requests.ports import Models

_log = logging.getLogger(__name__)
_KEY_HEADER = "stack-key-id"


class Playground:
    """Handlers of the playground."""

    def __init__(self, pages: Pages, api: API, models: Models) -> None:
        """Render with `pages`, send chats to `api` and list `models`."""
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
        """`POST /playground/chat`: a chat request in OpenAI's JSON. The header `stack-key-id` contains the key's id.

        Raises:
            InvalidRequest: The key's id is missing or malformed.
            ServiceError: As in the API; the key may be revoked or expired.
        """
        key_id = context.request.headers.get(_KEY_HEADER, "")
        if not is_id(key_id, Kind.KEY):
            raise InvalidRequest("No API key is selected. Select one and try again.")
        scope = context.scope
        principal = await scope.owner.principal(key_id)
        ask = partial(_identity_state, scope.owner, key_id)
        release_slot(context.request.scope)
        return await self._api.chat_of_session(context.request, principal, scope.session.id, ask)

    async def _listed(self) -> list[dict[str, Any]]:
        try:
            return list(await self._models.list_models())
        except ServiceError:
            return []  # The page then offers the default model only.


async def _identity_state(owner: OwnerClient, key_id: str) -> IdentityState:
    """Ask auth for the state of the session and its key. Streams started before the key expired may finish."""
    try:
        await owner.principal(key_id)
    except Unauthenticated:
        return IdentityState.SESSION_ENDED
    except (FailedPrecondition, NotFound) as exc:
        return IdentityState.VALID if exc.reason == "key_expired" else IdentityState.REVOKED
    except ServiceError as exc:
        _log.info("cannot confirm a session with live streams", extra={"reason": exc.reason})
        return IdentityState.UNKNOWN
    return IdentityState.VALID
