"""CORS policy for the application and for the server's own error responses."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.http.errors import HTTPError
from services.gateway.requests.surface import ErrorRenderer

_PREFLIGHT_SECONDS = 600
_EXPOSED_HEADERS = (
    "x-request-id",
    "request-id",
    "stack-processing-ms",
    "retry-after",
    "x-should-retry",
    "idempotent-replayed",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
)
"""Headers that scripts of other origins may read. Browsers hide all others."""
_METHODS = ("GET", "POST", "DELETE")
"""The methods of the API."""
_REFUSED = HTTPError(
    400,
    "Scripts of this origin may not make this request (CORS). Use GET, POST or DELETE, or ask the operator to add the "
    "origin to GATEWAY_CORS_ORIGINS.",
    "invalid_request_error",
    code="cors_not_allowed",
)


class _CORSMiddleware(CORSMiddleware):
    """Starlette's CORS middleware, with refused preflights in the envelope of the request's surface.

    Requests without an `Origin` header are passed through if all origins are allowed, which is most of the traffic.
    """

    def __init__(self, app: ASGIApp, /, *, render_error: ErrorRenderer, **options: Any) -> None:
        super().__init__(app, **options)
        self._render_error = render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if self.allow_all_origins and not any(name == b"origin" for name, _ in scope.get("headers", ())):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Return the response to a preflight."""
        response = super().preflight_response(request_headers)
        if response.status_code == _REFUSED.status:
            headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
            return _RefusedPreflight(headers, self._render_error)
        return response


class _RefusedPreflight(Response):
    """The response to a refused preflight, which is rendered when the request is known."""

    def __init__(self, headers: Mapping[str, str], render_error: ErrorRenderer) -> None:
        super().__init__()
        self._cors_headers = headers
        self._render_error = render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        rendered = self._render_error(scope, _REFUSED)
        headers = {**rendered.headers, **self._cors_headers}
        response = Response(rendered.body, rendered.status, headers, media_type="application/json")
        await response(scope, receive, send)


class CORSPolicy:
    """The origins that may call the API."""

    def __init__(self, origins: Sequence[str]) -> None:
        """Allow `origins`. `*` allows all."""
        self._origins = origins

    def middleware(self, render_error: ErrorRenderer) -> Middleware:
        """Return middleware that answers preflight requests and adds CORS headers to responses.

        Public websites may also call a gateway in a private network, for which Chrome sends
        `Access-Control-Request-Private-Network` (https://wicg.github.io/private-network-access/).
        """
        return Middleware(
            _CORSMiddleware,
            render_error=render_error,
            allow_origins=self._origins,
            allow_methods=_METHODS,
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=_EXPOSED_HEADERS,
            max_age=_PREFLIGHT_SECONDS,
        )

    def headers(self, origin: str) -> dict[str, str]:
        """Return the CORS headers of a response to `origin`; empty if it is empty or not allowed."""
        if not origin or not ("*" in self._origins or origin in self._origins):
            return {}
        exposed = {"access-control-expose-headers": ", ".join(_EXPOSED_HEADERS)}
        if "*" in self._origins:
            return {"access-control-allow-origin": "*", **exposed}
        return {"access-control-allow-origin": origin, "vary": "Origin", **exposed}
