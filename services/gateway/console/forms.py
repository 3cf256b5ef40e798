"""Forms: their fields, read strictly, and whether one comes from a page of ours."""

import asyncio
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.errors import InvalidRequest, PermissionDenied, TooLarge
from services.gateway.console.origins import OwnOrigins, parse_origin
from services.gateway.http.request_bodies import content_length, refuse_encoded

CSRF_FIELD = "csrf_token"
CSRF_HEADER = "x-csrf-token"
_BYTES_MAX = 64 * 1024
_SECONDS_MAX = 10.0
_FIELDS_MAX = 100
_TYPE = "application/x-www-form-urlencoded"
_NOT_OURS = "That is not a form of this site. Go back, reload the page and try again."


class BufferedForms:
    """Reads the whole form of a request before the request takes a place in the console.

    A form that arrives slowly would hold its place for as long as its client likes. Anything but a form is passed on as
    it is, and so is one that announces more than a form may have: its handler refuses it unread.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Stand in front of `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body at hand."""
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
        await send({"type": "http.response.body", "body": b"The form did not arrive. Try again.\n"})


async def read_fields(request: Request) -> Mapping[str, str]:
    """Return the fields of a form; of a name that comes twice, the last.

    Raises:
        InvalidRequest: It is no form of ours, or holds what is no text; files are not taken.
        HTTPException: 415: it is compressed.
        TooLarge: It is too long.
    """
    if _media_type(request.scope) != _TYPE or content_length(request.scope) is None:
        raise InvalidRequest(_NOT_OURS)
    if (content_length(request.scope) or 0) > _BYTES_MAX:
        raise TooLarge("The form is too long. Shorten what you typed and try again.")
    refuse_encoded(request)
    body = await request.body()
    try:
        # Strictly: bytes that are no UTF-8 would otherwise become one and the same replacement character.
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_FIELDS_MAX)
    except ValueError as exc:
        raise InvalidRequest(_NOT_OURS) from exc
    return dict(pairs)


def check_site(request: Request, own: OwnOrigins) -> None:
    """Return when a form was sent from a page of this site, as far as the browser says.

    Raises:
        PermissionDenied: It was sent from another one; the message says which two differ.
    """
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none"):
        raise _refused(f"Your browser says that this form was sent from another site (Sec-Fetch-Site: {site[:20]}).")
    shown = request.headers.get("origin")
    if shown is None:
        return
    origin = parse_origin(shown)
    if origin is None or not own.has(origin):
        raise _refused(
            f"This form was sent from {origin or 'a page without an address'}, and this console is {own}. If it is "
            "behind a proxy, its operator sets AUTH_CONSOLE_URL to the address that people open."
        )


def form_token(secret: str) -> str:
    """Return what the forms of a browser carry: derived from a cookie, so that no other site can know it."""
    return hmac.new(secret.encode(), b"stack console form", hashlib.sha256).hexdigest()


def check_token(shown: str, *secrets: str) -> None:
    """Return when a form carries the token that belongs to one of the browser's cookies.

    Raises:
        PermissionDenied: It carries none, or one of another browser or session.
    """
    good = [hmac.compare_digest(shown.encode(), form_token(secret).encode()) for secret in secrets if secret]
    if not any(good):
        raise _refused("This page is not of your present session: it was opened before you logged in or out.")


def _refused(why: str) -> PermissionDenied:
    return PermissionDenied(f"{why} Go back, reload the page and try again.", reason="csrf")


def _is_short_form(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST" or _media_type(scope) != _TYPE:
        return False
    length = content_length(scope)
    return length is not None and length <= _BYTES_MAX


def _media_type(scope: Scope) -> str:
    return _header(scope, b"content-type").partition(";")[0].strip().lower()


def _header(scope: Scope, wanted: bytes) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), "")


async def _body(receive: Receive) -> bytes | None:
    """Return the whole body; None when its client left."""
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
