"""The console's cookies."""

from enum import StrEnum

from starlette.requests import Request
from starlette.responses import Response

from services.common.web.origins import Origin

_CHARACTERS_MAX = 2_000


class Cookie(StrEnum):
    """The kinds of cookies."""

    SESSION = "session"
    """Token of the session."""
    VISITOR = "visitor"
    """Random bytes, for the CSRF tokens of forms without a session."""
    DEVICE = "device"
    """Identifies a browser at its next log-in."""
    NOTICE = "notice"
    """What the next page shows once; see `notices`."""
    STATE = "log_in_state"
    """Binds a log-in at an identity provider to this browser."""
    PENDING = "pending_log_in"
    """Token of a log-in that needs a code."""
    RETURN = "log_in_return"
    """What to show after a log-in at an identity provider, or after a code."""


def cookie_name(cookie: Cookie, origin: Origin | None) -> str:
    """Return the name of a cookie at an origin.

    Browsers send cookies to all ports of a host. The name contains a port other than the default one, so that two
    stacks on one host do not share cookies. Over HTTPS it has the prefix `__Host-`: browsers then accept the cookie
    from this host only, and only over HTTPS (RFC 6265bis, 4.1.3.2).
    """
    if origin is None:
        return f"stack_{cookie}"
    port = "" if origin.has_default_port else f"_{origin.port}"
    return f"{'__Host-' if origin.scheme == 'https' else ''}stack_{cookie}{port}"


def read_cookie(request: Request, cookie: Cookie, origin: Origin | None) -> str:
    """Return the value of a cookie; empty if it is missing or malformed."""
    value = request.cookies.get(cookie_name(cookie, origin), "")
    return value if value.isascii() and value.isprintable() and len(value) <= _CHARACTERS_MAX else ""


def set_cookie(response: Response, cookie: Cookie, value: str, *, seconds: int, origin: Origin | None) -> None:
    """Set a cookie that expires after `seconds`. 0 deletes it."""
    response.set_cookie(
        cookie_name(cookie, origin),
        value,
        max_age=seconds,
        path="/",
        httponly=True,
        samesite="lax",
        secure=origin is not None and origin.scheme == "https",
    )
