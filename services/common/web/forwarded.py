"""Forwarded headers of trusted proxies.

`X-Forwarded-For` and `X-Forwarded-Proto` set the request's client and scheme. `X-Forwarded-Host`, and whether the
request came through a trusted proxy, are stored in the ASGI scope. Headers of other proxies are ignored.
"""

from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

_FORWARDED = "stack.forwarded"
_PROTO, _HOST = b"x-forwarded-proto", b"x-forwarded-host"


@dataclass(frozen=True, slots=True)
class Forwarded:
    """Values forwarded by the nearest trusted proxy."""

    host: str = ""
    """Host of the client's request, with its port if it has one; empty if the proxy did not send it."""
    has_scheme: bool = False
    """Whether the proxy sent the scheme of the client's request."""


class ForwardedHeaders:
    """Middleware that applies the forwarded headers of trusted proxies."""

    def __init__(self, app: ASGIApp, *, trusted_hosts: list[str]) -> None:
        """Wrap `app`. Trust forwarded headers from the addresses and networks in `trusted_hosts`."""
        self._app = app
        self._proxies = ProxyHeadersMiddleware(app, trusted_hosts=trusted_hosts)  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request with the client's address and scheme."""
        client = scope.get("client")
        if scope["type"] != "http" or not client or client[0] not in self._proxies.trusted_hosts:
            await self._app(scope, receive, send)
            return
        scheme = _first(scope, _PROTO)
        scope[_FORWARDED] = Forwarded(_first(scope, _HOST), scheme in ("http", "https"))
        # Several proxies produce a list such as `https, http`. The first item is the client's scheme.
        headers = [pair for pair in scope["headers"] if pair[0] != _PROTO]
        scope["headers"] = [*headers, (_PROTO, scheme.encode())] if scheme else headers
        await self._proxies(scope, receive, send)  # type: ignore[arg-type]


def forwarded(scope: Scope) -> Forwarded | None:
    """Return the values forwarded by a trusted proxy, or None if the request did not come through one."""
    value: Forwarded | None = scope.get(_FORWARDED)
    return value


def _first(scope: Scope, header: bytes) -> str:
    values = b",".join(value for name, value in scope["headers"] if name == header)
    return values.decode("latin-1").partition(",")[0].strip().lower()
