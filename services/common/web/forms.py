"""Form parsing and CSRF protection."""

import asyncio
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.errors import InvalidRequest, PermissionDenied, TooLarge
from services.common.web.bodies import content_length, refuse_encoded
from services.common.web.origins import ConsoleOrigins, parse_origin

CSRF_FIELD = "csrf_token"
CSRF_HEADER = "x-csrf-token"
_BYTES_MAX = 64 * 1024
_SECONDS_MAX = 10.0
_FIELDS_MAX = 100
_TYPE = "application/x-www-form-urlencoded"
_INVALID_FORM = "The form is not valid. Go back, reload the page and try again."


class BufferedForms:
    """Middleware that reads the whole form of a request before the request takes a concurrency slot.

    A slow client could otherwise hold a slot with its form. Other requests pass through unchanged, and so do forms
    whose `content-length` is too large: their handler rejects them unread.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request with a buffered body."""
        if not _is_short_form(scope):
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(_SECONDS_MAX):
                body = await _body(receive)
        except TimeoutError:
            body = None
        if body is not None:
            await self._app(scope, _replay(body, receive), send)
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 408, "headers": headers})
        await send({"type": "http.response.body", "body": b"The form did not arrive in time. Try again.\n"})


async def read_fields(request: Request) -> Mapping[str, str]:
    """Return the fields of a form. Of a repeated field, the last value is returned.

    Raises:
        InvalidRequest: The body is not a URL-encoded form, or a field is not UTF-8. Files are not accepted.
        HTTPException: 415: the body is compressed.
        TooLarge: The form is too long.
    """
    if _media_type(request.scope) != _TYPE or content_length(request.scope) is None:
        raise InvalidRequest(_INVALID_FORM)
    if (content_length(request.scope) or 0) > _BYTES_MAX:
        raise TooLarge("The form is too long. Shorten your input and try again.")
    refuse_encoded(request)
    body = await request.body()
    try:
        # Otherwise all invalid UTF-8 would become the same replacement character.
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_FIELDS_MAX)
    except ValueError as exc:
        raise InvalidRequest(_INVALID_FORM) from exc
    return dict(pairs)


def check_site(request: Request, own: ConsoleOrigins, *, setting: str) -> None:
    """Check the browser's `Sec-Fetch-Site` and `Origin` headers, if present.

    Args:
        request: The request.
        own: The origins of the console.
        setting: The setting of the console's public address, for the message.

    Raises:
        PermissionDenied: The form was sent from another site. The message contains both origins.
    """
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none"):
        raise _csrf_error(f"This form was sent from another site (Sec-Fetch-Site: {site[:20]}).")
    value = request.headers.get("origin")
    if value is None:
        return
    origin = parse_origin(value)
    if origin is None or not own.has(origin):
        raise _csrf_error(
            f"This form was sent from {origin or 'a page without an origin'}, but the address of this console is {own}."
            f" If the console is behind a proxy, its operator must set {setting} to the public address."
        )


def form_token(secret: str) -> str:
    """Return the CSRF token for a cookie's value, which other sites cannot read."""
    return hmac.new(secret.encode(), b"stack console form", hashlib.sha256).hexdigest()


def check_token(token: str, *secrets: str) -> None:
    """Check that a CSRF token matches one of the browser's cookies.

    Raises:
        PermissionDenied: The token is missing, or belongs to another browser or session.
    """
    matches = [hmac.compare_digest(token.encode(), form_token(secret).encode()) for secret in secrets if secret]
    if not any(matches):
        raise _csrf_error("This page does not belong to your current session, because you have logged in or out since.")


def _csrf_error(reason: str) -> PermissionDenied:
    return PermissionDenied(f"{reason} Go back, reload the page and try again.", reason="csrf")


def _is_short_form(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST" or _media_type(scope) != _TYPE:
        return False
    length = content_length(scope)
    return length is not None and length <= _BYTES_MAX


def _media_type(scope: Scope) -> str:
    return _header(scope, b"content-type").partition(";")[0].strip().lower()


def _header(scope: Scope, header: bytes) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == header), "")


async def _body(receive: Receive) -> bytes | None:
    """Return the whole body; None if the client disconnected."""
    parts = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
    return None


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
