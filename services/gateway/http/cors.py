"""CORS policy for the application and for the server's own error responses."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.gateway.http.errors import HTTPError

_PREFLIGHT_SECONDS = 600
_EXPOSED_HEADERS = (
    "x-request-id",
    "request-id",
    "stack-processing-ms",
    "retry-after",
    "x-should-retry",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
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
    """Starlette's CORS middleware, with refused preflights in OpenAI's error envelope.

    Requests without an `Origin` header are passed through if all origins are allowed, which is most of the traffic.
    """

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
            return Response(_REFUSED.body, _REFUSED.status, headers, media_type="application/json")
        return response


class CORSPolicy:
    """The origins that may call the API."""

    def __init__(self, origins: Sequence[str]) -> None:
        """Allow `origins`. `*` allows all."""
        self._origins = origins

    def middleware(self) -> Middleware:
        """Return middleware that answers preflight requests and adds CORS headers to responses.

        Public websites may also call a gateway in a private network, for which Chrome sends
        `Access-Control-Request-Private-Network` (https://wicg.github.io/private-network-access/).
        """
        return Middleware(
            _CORSMiddleware,
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
