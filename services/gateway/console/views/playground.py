"""Playground page: a chat in the browser, processed and counted like API requests."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
from starlette.responses import HTMLResponse, Response

from services.common.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    ServiceError,
    Unauthenticated,
)
from services.common.ids import Kind, is_id
from services.common.web.bodies import content_length
from services.common.wildcards import permits
from services.gateway.apis.routes import API
from services.gateway.console.facts import Facts
from services.gateway.console.markdown import CHARACTERS_MAX, to_html
from services.gateway.console.page import Pages
from services.gateway.console.ports import Key, Model, OwnerClient
from services.gateway.console.request_context import RequestContext
from services.gateway.console.security.concurrency import release_slot
from services.gateway.keys.revocation import IdentityState

_log = logging.getLogger(__name__)
_KEY_HEADER = "stack-key-id"
_MARKDOWN_BYTES_MAX = 4 * CHARACTERS_MAX
_BODY_SECONDS_MAX = 10.0
"""The request holds one of the console's slots meanwhile."""


@dataclass(frozen=True, slots=True)
class KeyChoice:
    """A key that the playground offers, with the models that it may use."""

    key: Key
    models: Sequence[str]


class Playground:
    """Handlers of the playground."""

    def __init__(self, pages: Pages, api: API, facts: Facts) -> None:
        """Render with `pages`, send chats to `api`; `facts` have the models."""
        self._pages = pages
        self._api = api
        self._facts = facts

    async def index(self, context: RequestContext) -> Response:
        """`GET /playground`, with the id of a key and the name of a model in the query, if they are to be selected."""
        now = self._pages.now()
        await self._facts.refresh()
        listed = self._facts.models
        models = [model for model in listed.models if model.chats] if listed else []
        keys = [key for key in (await context.scope.owner.keys()).keys if key.state(now) in ("active", "rotated")]
        return self._pages.show(
            context,
            "playground",
            keys=[KeyChoice(key, _permitted(key, models)) for key in keys],
            models=models,
            chosen_key=context.query("key"),
            chosen_model=context.query("model") or (listed.default if listed else ""),
        )

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

    async def markdown(self, context: RequestContext) -> Response:
        """`POST /playground/markdown`: the HTML of an answer, which is sent as a JSON string."""
        if (content_length(context.request.scope) or _MARKDOWN_BYTES_MAX + 1) > _MARKDOWN_BYTES_MAX:
            raise InvalidRequest("The answer is too long to be formatted.")
        try:
            async with asyncio.timeout(_BODY_SECONDS_MAX):
                text = msgspec.json.decode(await context.request.body(), type=str)
        except TimeoutError as exc:
            raise DeadlineExceeded("The answer did not arrive in time.") from exc
        except msgspec.MsgspecError as exc:
            raise InvalidRequest("The answer must be a JSON string.") from exc
        html = to_html(text) if len(text) <= CHARACTERS_MAX else None
        if html is None:
            raise InvalidRequest("The answer is too long or nested too deeply to be formatted.")
        return HTMLResponse(html)


def _permitted(key: Key, models: Sequence[Model]) -> list[str]:
    """Return the models that a key may use. An alias counts by its own name or by its model's."""
    return [model.name for model in models if permits(key.models, model.name, model.served_by or model.name)]


async def _identity_state(owner: OwnerClient, key_id: str) -> IdentityState:
    """Ask auth for the state of the session and its key. Streams started before the key expired may finish."""
    try:
        await owner.principal(key_id)
    except Unauthenticated:
        return IdentityState.SESSION_ENDED
    except (FailedPrecondition, NotFound) as exc:
        return IdentityState.VALID if exc.reason in ("key_expired", "key_paused") else IdentityState.REVOKED
    except ServiceError as exc:
        _log.info("cannot confirm a session with live streams", extra={"reason": exc.reason})
        return IdentityState.UNKNOWN
    return IdentityState.VALID
