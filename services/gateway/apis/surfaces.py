"""The surfaces of the API, and errors in the envelope of the surface to which a path belongs."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from services.common.web.request_id import REQUEST_ID
from services.gateway.apis import completions, messages, responses
from services.gateway.apis.chat_completions import surface as chat_completions
from services.gateway.apis.chat_completions.limits import ChatLimits
from services.gateway.apis.model_aliases import ModelAliases
from services.gateway.apis.model_facts import ModelFactsCache
from services.gateway.apis.responses.stateful import StatefulParser
from services.gateway.apis.surface import Context
from services.gateway.http.errors import HTTPError
from services.gateway.http.responses import json_response
from services.gateway.requests.ports import ResponseStore
from services.gateway.requests.surface import Envelope, ErrorResponse, Parse, SurfaceRequest
from services.gateway.requests.types import Principal

_ENVELOPES: dict[str, Envelope] = {
    "/api/v1/responses": responses.error,
    "/api/v1/messages": messages.error,
}
"""Functions that render errors, by the beginning of a canonical path. All other paths have OpenAI's envelope."""
_MODELS = "/api/v1/models"
"""Models have the envelope of the client's API."""


class Surfaces:
    """The surfaces of chat requests. Each attribute parses the requests of one.

    Attributes:
        chat: Chat completions.
        completions: OpenAI's legacy completions.
        messages: Anthropic's messages.
        responses: OpenAI's responses.
    """

    def __init__(
        self,
        limits: ChatLimits,
        models: ModelFactsCache,
        aliases: ModelAliases,
        response_store: ResponseStore,
        *,
        body_bytes_max: int,
    ) -> None:
        """Create the surfaces.

        Args:
            limits: Limits of a request.
            models: Facts about models.
            aliases: Models that answer under other names. They do not apply to chat completions.
            response_store: Stores responses.
            body_bytes_max: Maximum size of a body and the stored responses that it refers to.
        """
        self._limits = limits
        self._models = models
        self._aliases = aliases
        self.chat = chat_completions.parser(limits)
        self.completions = self._parser(completions.parse)
        self.messages = self._parser(messages.parse)
        self.responses: Parse = StatefulParser(response_store, self.context, bytes_max=body_bytes_max)

    def context(self) -> Context:
        """Return what a parser may know besides the body."""
        return Context(limits=self._limits, models=self._models.facts, aliases=self._aliases)

    def _parser(self, parse: Callable[[bytes, Context], SurfaceRequest]) -> Parse:
        async def parse_with_context(body: bytes, principal: Principal) -> SurfaceRequest:
            return parse(body, self.context())

        return parse_with_context


def is_anthropics(scope: Scope) -> bool:
    """Return whether a request was made by a client of Anthropic's API, which may also ask for models."""
    return any(name == b"anthropic-version" for name, _ in scope.get("headers", ()))


def render_error(scope: Scope, error: HTTPError) -> ErrorResponse:
    """Return an error in the envelope of the request's surface."""
    root = "/".join(scope["path"].split("/", 4)[:4])
    render = _ENVELOPES.get(root, chat_completions.error)
    if root == _MODELS and is_anthropics(scope):
        render = messages.error
    return render(error, request_id=scope.get(REQUEST_ID, ""))


def error_response(request: Request, error: HTTPError) -> Response:
    """Return the HTTP response to an error."""
    rendered = render_error(request.scope, error)
    return json_response(rendered.body, status=rendered.status, headers=rendered.headers)
