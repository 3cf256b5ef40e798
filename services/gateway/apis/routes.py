"""The HTTP API: requests in, the pipeline in the middle, JSON and events out."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from services.common.errors import InvalidRequest, NotFound, PermissionDenied, ServiceError, TooLarge
from services.gateway.apis.chat_completions.limits import ChatLimits
from services.gateway.apis.chat_completions.request import parse_chat
from services.gateway.http.bearer import bearer_token, client_address
from services.gateway.http.errors import HTTPError, http_error, rate_limit_headers
from services.gateway.http.middleware import REQUEST_ID, STARTED
from services.gateway.http.openapi import document
from services.gateway.http.redaction import redacted
from services.gateway.http.request_bodies import RequestBodies
from services.gateway.keys.revocation import IdentityCheck, Revocation, RevocationRegistry
from services.gateway.metrics import ADMISSION_SECONDS
from services.gateway.requests.disconnect import DisconnectMonitor
from services.gateway.requests.invalid_requests import InvalidRequestLimiter
from services.gateway.requests.pipeline import Chat, JSONObject, Pipeline, Principal
from services.gateway.requests.streaming import begin_stream

_encode = msgspec.json.Encoder().encode
_CLIENT_LEFT = 499
"""Status of an answer that nobody reads, for the log line; nginx' and Groq's word for it."""
_INVALID = (InvalidRequest, NotFound, PermissionDenied, TooLarge)
"""What a request is at fault for itself."""
_CODES = {408: "request_timeout", 415: "unsupported_content_encoding"}


class Models(Protocol):
    """The models that can be asked for."""

    async def list_models(self, permitted: Sequence[str] = ()) -> list[JSONObject]:
        """Return those that match one of some patterns, as JSON objects; all of them where there is no pattern."""


class API:
    """The handlers of the HTTP API."""

    def __init__(
        self,
        pipeline: Pipeline,
        models: Models,
        revocations: RevocationRegistry,
        bodies: RequestBodies,
        invalid: InvalidRequestLimiter,
        limits: ChatLimits,
        *,
        heartbeat_seconds: float,
    ) -> None:
        """Answer chats through `pipeline` and model lists from `models`; streams hang on `revocations`."""
        self._heartbeat_seconds = heartbeat_seconds
        self._pipeline = pipeline
        self._models = models
        self._revocations = revocations
        self._bodies = bodies
        self._invalid = invalid
        self._limits = limits

    async def chat(self, request: Request) -> Response:
        """`POST /api/v1/chat` and `/api/v1/chat/completions`."""
        principal = await self._principal(request)
        return await self.answer(
            request, principal, partial(self._revocations.of_key, principal.key_id, bearer_token(request))
        )

    async def answer_owner(
        self, request: Request, principal: Principal, session_id: str, ask: IdentityCheck
    ) -> Response:
        """Answer a chat of a key's owner, who showed a session and no key; `ask` asks auth about both.

        Raises:
            ServiceError: As `answer`.
        """
        take_lifeline = partial(self._revocations.of_session, session_id, principal.key_id, ask)
        return await self.answer(request, principal, take_lifeline)

    async def answer(
        self, request: Request, principal: Principal, take_lifeline: Callable[[], Awaitable[Revocation]]
    ) -> Response:
        """Answer a chat for whoever was found to call; a stream hangs on the revocation that it takes.

        Raises:
            ServiceError: The request is refused before anything is held.
        """
        chat = await self._chat(request, principal)
        client = DisconnectMonitor()
        with client.watching(request.receive):
            return await self._answer(request, chat, client, principal, take_lifeline)
        return Response(status_code=_CLIENT_LEFT)

    async def _chat(self, request: Request, principal: Principal) -> Chat:
        """Read and check the request; too many that are refused stop the next one before its body is read."""
        key_id, address = principal.key_id, client_address(request)
        await self._invalid.admit(key_id, address)
        body = b""
        try:
            body = await self._bodies.read(request, key_id)
            return parse_chat(body, self._limits)
        except (*_INVALID, HTTPException):
            self._invalid.count(key_id, address, len(body))
            raise

    async def _answer(
        self,
        request: Request,
        chat: Chat,
        client: DisconnectMonitor,
        principal: Principal,
        take_lifeline: Callable[[], Awaitable[Revocation]],
    ) -> Response:
        # Before the hold: a handler that is cancelled between the hold and its stream would leave the hold open.
        revocation = await take_lifeline() if chat.stream else None
        hold = await self._pipeline.reserve(principal, request.scope[REQUEST_ID])
        request.scope[REQUEST_ID] = hold.request_id
        if client.has_left:
            self._pipeline.release(hold)
            return Response(status_code=_CLIENT_LEFT)
        client.cancel_on_departure()
        headers = rate_limit_headers(hold.rate_limit, now=time.time())
        ADMISSION_SECONDS.observe(time.perf_counter() - request.scope[STARTED])
        try:
            if revocation is not None:
                events = self._pipeline.stream(hold, chat, client)
                return await begin_stream(
                    events, headers, client, revocation, heartbeat_seconds=self._heartbeat_seconds
                )
            return json_response(await self._pipeline.complete(hold, chat, client), headers=headers)
        except ServiceError as exc:
            if isinstance(exc, _INVALID):  # Groq found it to be, which cost more than our own refusal.
                self._invalid.count(principal.key_id, client_address(request), chat.body_bytes)
            return error_response(http_error(exc, now=time.time()), headers=headers)

    async def openapi(self, request: Request) -> Response:
        """`GET /api/v1/openapi.json`: the document of this API; it needs no key."""
        return json_response(document(self._limits))

    async def models(self, request: Request) -> Response:
        """`GET /api/v1/models`: those that the key may ask for."""
        return json_response(_encode({"object": "list", "data": await self._models_of(request)}))

    async def model(self, request: Request) -> Response:
        """`GET /api/v1/models/{id}`; ids may contain slashes."""
        name = request.path_params["id"]
        for model in await self._models_of(request):
            if model.get("id") == name:
                return json_response(_encode(model))
        message = f"The model `{redacted(name)}` does not exist or you do not have access to it."
        raise NotFound(message, metadata={"param": "model", "code": "model_not_found"})

    async def _models_of(self, request: Request) -> list[JSONObject]:
        principal = await self._principal(request)
        return await self._models.list_models(principal.models)

    async def _principal(self, request: Request) -> Principal:
        return await self._pipeline.authorise(bearer_token(request), address=client_address(request))


async def healthz(request: Request) -> Response:
    """`GET /healthz`: the process runs."""
    return json_response(b'{"status":"ok"}')


def json_response(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON answer; clients of OpenAI's JavaScript package read it only with this exact media type."""
    return Response(body, status_code=status, media_type="application/json", headers=headers)


def error_response(error: HTTPError, *, headers: Mapping[str, str] | None = None) -> Response:
    """Return a failed answer in the envelope."""
    return json_response(error.body, status=error.status, headers={**(headers or {}), **error.headers})


async def on_service_error(request: Request, exc: Exception) -> Response:
    """Answer a refusal or failure that happened before anything was held."""
    assert isinstance(exc, ServiceError)
    return error_response(http_error(exc, now=time.time()))


async def on_http_exception(request: Request, exc: Exception) -> Response:
    """Answer an unknown path, a wrong method or a body that cannot be read as OpenAI does."""
    assert isinstance(exc, HTTPException)
    method, path = request.method, redacted(request.scope["path"])
    if exc.status_code == 405:
        message = f"Method {method} is not allowed for {path}; use {(exc.headers or {}).get('Allow', 'another')}."
        error = HTTPError(405, message, "invalid_request_error", code="method_not_allowed", headers=exc.headers or {})
    elif exc.status_code in _CODES:
        code = _CODES[exc.status_code]
        error = HTTPError(exc.status_code, exc.detail, "invalid_request_error", code=code, headers=exc.headers or {})
    else:
        message = f"Unknown request URL: {method} {path}. Please check the URL for typos, or see the docs at /docs."
        error = HTTPError(404, message, "invalid_request_error", code="unknown_url")
    return error_response(error)


async def on_disconnect(request: Request, exc: Exception) -> Response:
    """The client left while it sent its body: nobody reads this answer, and nothing was counted."""
    return error_response(HTTPError(400, "The request body broke off.", "invalid_request_error"))


HANDLERS = {ServiceError: on_service_error, HTTPException: on_http_exception, ClientDisconnect: on_disconnect}
"""Exception handlers of the application."""
