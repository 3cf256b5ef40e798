"""The console's cookies: their names, which keep stacks of one host apart, and how they are read and set."""

from enum import StrEnum

from starlette.requests import Request
from starlette.responses import Response

from services.gateway.console.origins import Origin

_CHARACTERS_MAX = 200


class Cookie(StrEnum):
    """What the console keeps in a browser."""

    SESSION = "session"
    """The session's token."""
    VISITOR = "visitor"
    """Random bytes, for forms of those who have no session."""
    DEVICE = "device"
    """By which a browser is known when it logs in again."""


def cookie_name(cookie: Cookie, origin: Origin | None) -> str:
    """Return a cookie's name at an address.

    Browsers send cookies to every port of a host, so two stacks on one host would read each other's: the name has the
    port where it is not the default one. Over HTTPS it has the prefix `__Host-`, with which browsers take it only from
    this host itself, and only over HTTPS (RFC 6265bis, 4.1.3.2).
    """
    if origin is None:
        return f"stack_{cookie}"
    port = "" if origin.has_default_port else f"_{origin.port}"
    return f"{'__Host-' if origin.scheme == 'https' else ''}stack_{cookie}{port}"


def read_cookie(request: Request, cookie: Cookie, origin: Origin | None) -> str:
    """Return the value of a cookie that can be ours; empty otherwise."""
    value = request.cookies.get(cookie_name(cookie, origin), "")
    return value if value.isascii() and value.isprintable() and len(value) <= _CHARACTERS_MAX else ""


def set_cookie(response: Response, cookie: Cookie, value: str, *, seconds: int, origin: Origin | None) -> None:
    """Set a cookie for so long; 0 seconds take it back."""
    response.set_cookie(
        cookie_name(cookie, origin),
        value,
        max_age=seconds,
        path="/",
        httponly=True,
        samesite="lax",
        secure=origin is not None and origin.scheme == "https",
    )
