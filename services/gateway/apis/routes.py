"""The HTTP API: its endpoints."""

import time
from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.common.errors import ErrorDetails, NotFound, ServiceError
from services.common.runtime.clock import SystemClock
from services.common.telemetry import tracing
from services.common.web.request_id import REQUEST_ID
from services.gateway.apis.chat_completions.limits import ChatLimits
from services.gateway.apis.error_handlers import CountRefusal
from services.gateway.apis.messages import count_tokens
from services.gateway.apis.messages.count_limiter import CountLimiter
from services.gateway.apis.messages.model_list import model_info, model_list
from services.gateway.apis.surfaces import Surfaces, is_anthropics
from services.gateway.http.bearer import bearer_token, client_address
from services.gateway.http.errors import http_error
from services.gateway.http.openapi import document
from services.gateway.http.redaction import redacted
from services.gateway.http.responses import json_response
from services.gateway.keys.revocation import IdentityCheck, RevocationRegistry
from services.gateway.requests.callers import KeyCaller, SessionCaller
from services.gateway.requests.handler import RequestHandler
from services.gateway.requests.ports import Authenticator, Models
from services.gateway.requests.surface import Parse
from services.gateway.requests.types import JSONObject, Principal

_encode = msgspec.json.Encoder().encode
NOT_OFFERED = ("/api/v1/embeddings", "/api/v1/moderations", "/api/v1/images/{operation:path}")
_CLIENT_CLOSED_REQUEST = 499


class Endpoint:
    """An ASGI application for one endpoint.

    Starlette wraps an endpoint that is a plain function in another exception handler, which costs time for each
    event of a stream. The middleware around the router handles the same exceptions.
    """

    def __init__(self, handle: Callable[[Request], Awaitable[Response]]) -> None:
        """Respond with what `handle` returns."""
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        response = await self._handle(Request(scope, receive, send))
        await response(scope, receive, send)


class API:
    """The endpoints of the HTTP API."""

    def __init__(
        self,
        handler: RequestHandler,
        authenticator: Authenticator,
        models: Models,
        revocations: RevocationRegistry,
        surfaces: Surfaces,
        limits: ChatLimits,
        count_refusal: CountRefusal,
    ) -> None:
        """Create the endpoints.

        Args:
            handler: Handles chat requests.
            authenticator: Authenticates API keys.
            models: Lists models.
            revocations: Ends streams of revoked keys.
            surfaces: The surfaces of chat requests.
            limits: Limits of a chat request.
            count_refusal: Counts refused requests of the playground.
        """
        self._handler = handler
        self._authenticator = authenticator
        self._models = models
        self._revocations = revocations
        self._limits = limits
        self._surfaces = surfaces
        self._count_refusal = count_refusal
        self._counts = CountLimiter(SystemClock())

    async def chat(self, request: Request) -> Response:
        """`POST /api/v1/chat` and `/api/v1/chat/completions`: answer a chat request."""
        return await self._answer(request, self._surfaces.chat)

    async def completions(self, request: Request) -> Response:
        """`POST /api/v1/completions`: answer a request of OpenAI's legacy completions."""
        return await self._answer(request, self._surfaces.completions)

    async def messages(self, request: Request) -> Response:
        """`POST /api/v1/messages`: answer a request of Anthropic's Messages API."""
        return await self._answer(request, self._surfaces.messages)

    async def responses(self, request: Request) -> Response:
        """`POST /api/v1/responses`: answer a request of OpenAI's Responses API."""
        return await self._answer(request, self._surfaces.responses)

    async def count_tokens(self, request: Request) -> Response:
        """`POST /api/v1/messages/count_tokens`: count the tokens of a request. Does not count against the limit."""
        principal = await self._principal(request)
        self._counts.admit(principal.key_id)

        async def count(body: bytes, principal: Principal) -> bytes | None:
            context = self._surfaces.context()
            return await self._counts.run(request, principal.key_id, body, lambda text: count_tokens(text, context))

        # Counted while it is read, so that an invalid body counts as an invalid request.
        counted = await self._handler.read(request, principal, count)
        if counted is None:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        return json_response(counted, headers={"request-id": request.scope[REQUEST_ID]})

    async def not_offered(self, request: Request) -> Response:
        """Answer 404 for an endpoint of OpenAI's API that Groq's chat models cannot serve."""
        await self._principal(request)
        message = (
            f"{redacted(request.scope['path'])} is not available, because this service only serves chat models. Use "
            "/v1/chat/completions, /v1/responses, /v1/messages or /v1/completions."
        )
        raise NotFound(message, details=ErrorDetails(code="unsupported_endpoint"))

    async def chat_of_session(
        self, request: Request, principal: Principal, session_id: str, check: IdentityCheck
    ) -> Response:
        """Handle a chat request of the console's playground: a session that uses a key of its account.

        Args:
            request: The request, with the same body as for `chat`.
            principal: Principal of the key.
            session_id: Id of the session.
            check: Asks auth whether the session and the key are still valid.

        Raises:
            ServiceError: The request is rejected before a slot is reserved.
        """
        caller = SessionCaller(principal, session_id, check, self._revocations)
        try:
            return await self._handler.handle(request, caller, self._surfaces.chat)
        except ServiceError as exc:
            self._count_refusal(principal.counted_key, http_error(exc, now=time.time()))
            raise

    async def openapi(self, request: Request) -> Response:
        """`GET /api/v1/openapi.json`: return the OpenAPI document. Requires no key."""
        return json_response(document(self._limits))

    async def models(self, request: Request) -> Response:
        """`GET /api/v1/models`: list the models that the key may use, with Anthropic's members if it asks for them."""
        models = await self._models_of(request)
        if is_anthropics(request.scope):
            return json_response(model_list(models), headers={"request-id": request.scope[REQUEST_ID]})
        return json_response(_encode({"object": "list", "data": models}))

    async def model(self, request: Request) -> Response:
        """`GET /api/v1/models/{id}`: return one model. Ids may contain slashes."""
        name = request.path_params["id"]
        for model in await self._models_of(request):
            if model.get("id") == name:
                if is_anthropics(request.scope):
                    headers = {"request-id": request.scope[REQUEST_ID]}
                    return json_response(_encode(model_info(model)), headers=headers)
                return json_response(_encode(model))
        message = f"The model `{redacted(name)}` does not exist or you do not have access to it."
        raise NotFound(message, details=ErrorDetails(param="model", code="model_not_found"))

    async def _answer(self, request: Request, parse: Parse) -> Response:
        caller = KeyCaller(request, self._authenticator, self._revocations)
        return await self._handler.handle(request, caller, parse)

    async def _models_of(self, request: Request) -> list[JSONObject]:
        principal = await self._principal(request)
        return await self._models.list_models(principal.models)

    async def _principal(self, request: Request) -> Principal:
        with tracing.span("authenticate"):
            return await self._authenticator.authenticate(bearer_token(request), address=client_address(request))


async def healthz(request: Request) -> Response:
    """`GET /healthz`: return 200 while the process runs."""
    return json_response(b'{"status":"ok"}')
