"""CORS policy for the application and for the server's own error responses."""

from collections.abc import Sequence

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

_PREFLIGHT_SECONDS = 600
_EXPOSED_HEADERS = (
    "x-request-id",
    "stack-processing-ms",
    "retry-after",
    "x-should-retry",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
)
"""Headers that scripts of other origins may read. Browsers hide all others."""


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
            CORSMiddleware,
            allow_origins=self._origins,
            allow_methods=["GET", "POST"],
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
