"""What a trusted proxy says of the request that it passes on: its client, and the address under which it came.

`X-Forwarded-For` and `X-Forwarded-Proto` change the request's client and scheme; `X-Forwarded-Host` and the fact that a
trusted proxy passed it on are noted in the ASGI scope. Of proxies that are not trusted nothing is believed.
"""

from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

_FORWARDED = "stack.forwarded"
_PROTO, _HOST = b"x-forwarded-proto", b"x-forwarded-host"


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What the trusted proxy next to us said."""

    host: str = ""
    """Host that the client named, with its port where it named one; empty when the proxy did not say."""
    has_scheme: bool = False
    """Whether the proxy said by which scheme the client came."""


class ForwardedHeaders:
    """Reads the headers of trusted proxies."""

    def __init__(self, app: ASGIApp, *, trusted_hosts: list[str]) -> None:
        """Stand in front of `app`; trust forwarded headers from the addresses and networks of `trusted_hosts`."""
        self._proxies = ProxyHeadersMiddleware(app, trusted_hosts=trusted_hosts)  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on as its client made it."""
        client = scope.get("client")
        if scope["type"] == "http" and client and client[0] in self._proxies.trusted_hosts:
            scheme = _first(scope, _PROTO)
            scope[_FORWARDED] = Forwarded(_first(scope, _HOST), scheme in ("http", "https"))
            # Several proxies make a list of it, `https, http`: the first is the client's own.
            headers = [pair for pair in scope["headers"] if pair[0] != _PROTO]
            scope["headers"] = [*headers, (_PROTO, scheme.encode())] if scheme else headers
        await self._proxies(scope, receive, send)  # type: ignore[arg-type]


def forwarded(scope: Scope) -> Forwarded | None:
    """Return what a trusted proxy said of a request; None when none passed it on."""
    said: Forwarded | None = scope.get(_FORWARDED)
    return said


def _first(scope: Scope, wanted: bytes) -> str:
    values = b",".join(value for name, value in scope["headers"] if name == wanted)
    return values.decode("latin-1").partition(",")[0].strip().lower()
