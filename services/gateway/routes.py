"""The HTTP API: requests in, the pipeline in the middle, JSON and events out."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from services.common.errors import InvalidRequest, NotFound, ServiceError, TooLarge
from services.common.wildcards import permits
from services.gateway.credentials import client_address, shown_key
from services.gateway.errors import HTTPError, http_error, rate_limit_headers
from services.gateway.lifelines import Ask, Lifeline, Lifelines
from services.gateway.metrics import ADMISSION_SECONDS
from services.gateway.middleware import REQUEST_ID, STARTED
from services.gateway.openai import parse_chat
from services.gateway.openapi import document
from services.gateway.pipeline import Chat, Members, Pipeline, Principal
from services.gateway.presence import Leavers, Presence
from services.gateway.streams import begin_stream

_encode = msgspec.json.Encoder().encode
_BODY_SECONDS_MAX = 60.0
_CLIENT_LEFT = 499
"""Status of an answer that nobody reads, for the log line; nginx' and Groq's word for it."""


class Models(Protocol):
    """The models that can be asked for."""

    async def list_models(self) -> list[Members]:
        """Return them as JSON objects."""


class API:
    """The handlers of the HTTP API."""

    def __init__(
        self,
        pipeline: Pipeline,
        models: Models,
        leavers: Leavers,
        lifelines: Lifelines,
        *,
        body_bytes_max: int,
        heartbeat_seconds: float,
    ) -> None:
        """Answer chats through `pipeline` and model lists from `models`; streams hang on `lifelines`."""
        self._heartbeat_seconds = heartbeat_seconds
        self._pipeline = pipeline
        self._models = models
        self._leavers = leavers
        self._lifelines = lifelines
        self._body_bytes_max = body_bytes_max

    async def chat(self, request: Request) -> Response:
        """`POST /api/v1/chat` and `/api/v1/chat/completions`."""
        principal = await self._principal(request)
        return await self.answer(
            request, principal, partial(self._lifelines.of_key, principal.key_id, shown_key(request))
        )

    async def answer_owner(self, request: Request, principal: Principal, session_id: str, ask: Ask) -> Response:
        """Answer a chat of a key's owner, who showed a session and no key; `ask` asks auth about both.

        Raises:
            ServiceError: As `answer`.
        """
        take_lifeline = partial(self._lifelines.of_session, session_id, principal.key_id, ask)
        return await self.answer(request, principal, take_lifeline)

    async def answer(
        self, request: Request, principal: Principal, take_lifeline: Callable[[], Awaitable[Lifeline]]
    ) -> Response:
        """Answer a chat for whoever was found to call; a stream hangs on the lifeline that it takes.

        Raises:
            ServiceError: The request is refused before anything is held.
        """
        chat = parse_chat(await self._body(request))
        client = Presence(self._leavers)
        with client.watching(request.receive):
            return await self._answer(request, chat, client, principal, take_lifeline)
        return Response(status_code=_CLIENT_LEFT)

    async def _answer(
        self,
        request: Request,
        chat: Chat,
        client: Presence,
        principal: Principal,
        take_lifeline: Callable[[], Awaitable[Lifeline]],
    ) -> Response:
        hold = await self._pipeline.reserve(principal, request.scope[REQUEST_ID])
        request.scope[REQUEST_ID] = hold.request_id
        if client.has_left:
            self._pipeline.release(hold)
            return Response(status_code=_CLIENT_LEFT)
        headers = rate_limit_headers(hold.rate_limit, now=time.time())
        ADMISSION_SECONDS.observe(time.perf_counter() - request.scope[STARTED])
        try:
            if chat.stream:
                events = self._pipeline.stream(hold, chat, client)
                return await begin_stream(
                    events, headers, client, await take_lifeline(), heartbeat_seconds=self._heartbeat_seconds
                )
            return json_response(await self._pipeline.complete(hold, chat, client), headers=headers)
        except ServiceError as exc:
            return error_response(http_error(exc, now=time.time()), headers=headers)

    async def models(self, request: Request) -> Response:
        """`GET /api/v1/models`: those that the key may ask for."""
        return json_response(_encode({"object": "list", "data": await self._models_of(request)}))

    async def model(self, request: Request) -> Response:
        """`GET /api/v1/models/{id}`; ids may contain slashes."""
        name = request.path_params["id"]
        for model in await self._models_of(request):
            if model.get("id") == name:
                return json_response(_encode(model))
        message = f"The model `{name}` does not exist or you do not have access to it."
        raise NotFound(message, metadata={"param": "model", "code": "model_not_found"})

    async def _models_of(self, request: Request) -> list[Members]:
        principal = await self._principal(request)
        return [model for model in await self._models.list_models() if permits(principal.models, str(model.get("id")))]

    async def _principal(self, request: Request) -> Principal:
        return await self._pipeline.authorise(shown_key(request), address=client_address(request))

    async def _body(self, request: Request) -> bytes:
        """Read the body, no further than its bound."""
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._body_bytes_max:
            raise self._too_large()
        try:
            async with asyncio.timeout(_BODY_SECONDS_MAX):
                return await self._body_to_its_end(request.receive)
        except TimeoutError as exc:
            raise InvalidRequest(f"The request body did not arrive within {_BODY_SECONDS_MAX:.0f} s.") from exc

    async def _body_to_its_end(self, receive: Receive) -> bytes:
        parts, size = [], 0
        while (message := await receive())["type"] != "http.disconnect":
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._body_bytes_max:
                raise self._too_large()
            if not message.get("more_body", False):
                return b"".join(parts)
        raise ClientDisconnect

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The request body is larger than {self._body_bytes_max:,} bytes; shorten the messages.",
            reason="request_too_large",
        )


async def openapi(request: Request) -> Response:
    """`GET /api/v1/openapi.json`: the document of this API; it needs no key."""
    return json_response(document())


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
    """Answer an unknown path or a wrong method as OpenAI does."""
    assert isinstance(exc, HTTPException)
    method, path = request.method, request.url.path
    if exc.status_code == 405:
        message = f"Method {method} is not allowed for {path}; use {(exc.headers or {}).get('Allow', 'another')}."
        error = HTTPError(405, message, "invalid_request_error", code="method_not_allowed", headers=exc.headers or {})
    else:
        message = f"Unknown request URL: {method} {path}. Please check the URL for typos, or see the docs at /docs."
        error = HTTPError(404, message, "invalid_request_error", code="unknown_url")
    return error_response(error)


async def on_disconnect(request: Request, exc: Exception) -> Response:
    """The client left while it sent its body: nobody reads this answer, and nothing was counted."""
    return error_response(HTTPError(400, "The request body broke off.", "invalid_request_error"))


HANDLERS = {ServiceError: on_service_error, HTTPException: on_http_exception, ClientDisconnect: on_disconnect}
"""Exception handlers of the application."""
