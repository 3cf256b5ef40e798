"""Exception handlers of the HTTP API. They count the refused requests of known keys."""

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from services.common.errors import ServiceError, Unauthenticated
from services.gateway.apis.surfaces import error_response
from services.gateway.http.bearer import bearer_token
from services.gateway.http.errors import HTTPError, http_error
from services.gateway.http.redaction import redacted
from services.gateway.requests.types import CountedKey

KnownKey = Callable[[str], CountedKey | None]
"""Returns which key a secret is; None if it is not known."""
CountRefusal = Callable[[CountedKey, HTTPError], None]
"""Counts a refused request of a key."""
ExceptionHandlers = Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]]
_AUTHENTICATED = {408: "request_timeout", 415: "unsupported_content_encoding"}
"""Codes of errors in reading a body, which come after the authentication."""


class ErrorHandlers:
    """Renders the errors of requests that were refused before a slot was reserved, and counts them."""

    def __init__(self, known_key: KnownKey, count_refusal: CountRefusal) -> None:
        """Count by `count_refusal` the requests with a key that `known_key` knows."""
        self._known_key = known_key
        self._count_refusal = count_refusal

    @property
    def handlers(self) -> ExceptionHandlers:
        """The exception handlers of an application."""
        return {
            ServiceError: self.on_service_error,
            HTTPException: self.on_http_exception,
            ClientDisconnect: on_disconnect,
        }

    async def on_service_error(self, request: Request, exc: Exception) -> Response:
        """Return the response to an error that occurred before a slot was reserved."""
        assert isinstance(exc, ServiceError)
        error = http_error(exc, now=time.time())
        self._count(request, error)
        return error_response(request, error)

    async def on_http_exception(self, request: Request, exc: Exception) -> Response:
        """Return OpenAI's response to an unknown path, a wrong method or an unreadable body."""
        assert isinstance(exc, HTTPException)
        error = _error_of(request, exc)
        if exc.status_code in _AUTHENTICATED:
            self._count(request, error)
        return error_response(request, error)

    def _count(self, request: Request, error: HTTPError) -> None:
        with suppress(Unauthenticated):  # There is no key.
            key = self._known_key(bearer_token(request))
            if key is not None:
                self._count_refusal(key, error)


async def on_http_exception(request: Request, exc: Exception) -> Response:
    """Return OpenAI's response to a request outside the API."""
    assert isinstance(exc, HTTPException)
    return error_response(request, _error_of(request, exc))


async def on_disconnect(request: Request, exc: Exception) -> Response:
    """Return the response to a client that disconnected while sending its body. It is never read or charged."""
    return error_response(
        request,
        HTTPError(
            400,
            "The request body is incomplete, because the connection was closed. Send the request again.",
            "invalid_request_error",
        ),
    )


def _error_of(request: Request, exc: HTTPException) -> HTTPError:
    method, path, headers = request.method, redacted(request.scope["path"]), exc.headers or {}
    if exc.status_code == 405:
        message = f"Method {method} is not allowed for {path}; use {headers.get('Allow', 'another')}."
        return HTTPError(405, message, "invalid_request_error", code="method_not_allowed", headers=headers)
    if exc.status_code in _AUTHENTICATED:
        code = _AUTHENTICATED[exc.status_code]
        return HTTPError(exc.status_code, exc.detail, "invalid_request_error", code=code, headers=headers)
    message = f"Unknown request URL: {method} {path}. Please check the URL for typos, or see the docs at /docs."
    return HTTPError(404, message, "invalid_request_error", code="unknown_url")


UNCOUNTED = ErrorHandlers(lambda _: None, lambda _, __: None).handlers
"""Exception handlers that count nothing."""
