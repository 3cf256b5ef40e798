"""One request to the console: who makes it, its form, and the cookies that go back.

The session's token is in an `HttpOnly` cookie and nowhere else. A form carries a token that is derived from that cookie
(HMAC), so that no other site can know it, and replicas of the gateway need no shared secret to check it. Who has no
session has a cookie of random bytes for the same purpose.
"""

import asyncio
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from services.common.errors import InvalidRequest, PermissionDenied, TooLarge
from services.gateway.console.owner import OpenStay, Owner, Stay, Usage
from services.gateway.credentials import client_address
from services.gateway.request_bodies import SECONDS_MAX, refuse_encoded

SESSION_COOKIE = "stack_session"
VISITOR_COOKIE = "stack_visitor"
CSRF_FIELD = "csrf_token"
CSRF_HEADER = "x-csrf-token"
_FORM_BYTES_MAX = 64 * 1024
_FIELDS_MAX = 100
_COOKIE_CHARACTERS_MAX = 200


class NotLoggedIn(Exception):
    """The page is for owners, and nobody is logged in."""


@dataclass(frozen=True, slots=True)
class Belongings:
    """What the holder of the session can do and see."""

    stay: Stay
    owner: Owner
    usage: Usage


@dataclass(slots=True)
class Visit:
    """One request and who makes it."""

    request: Request
    token: str = field(repr=False)
    """The session's token as shown; empty without one."""
    visitor: str = field(repr=False)
    """Random bytes of the browser, for forms before a log-in."""
    belongings: Belongings | None
    """None while nobody is logged in."""
    form: FormData = field(default_factory=FormData)
    _cookies: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def address(self) -> str:
        """The client's network address, as far as it is known."""
        return client_address(self.request)

    @property
    def own(self) -> Belongings:
        """What the holder of the session can do.

        Raises:
            NotLoggedIn: There is no session.
        """
        if self.belongings is None:
            raise NotLoggedIn
        return self.belongings

    @property
    def csrf_token(self) -> str:
        """What the forms of this browser carry."""
        base = self.token if self.belongings else self.visitor
        return hmac.new(base.encode(), b"stack console form", hashlib.sha256).hexdigest()

    @property
    def base_url(self) -> str:
        """The reader's own address of the API's host, `https://host`."""
        return str(self.request.base_url).rstrip("/")

    def text(self, name: str) -> str:
        """Return a field of the form, without the blanks around it; empty when it is absent."""
        value = self.form.get(name, "")
        return value.strip() if isinstance(value, str) else ""

    def secret(self, name: str) -> str:
        """Return a field as it was typed, such as a password."""
        value = self.form.get(name, "")
        return value if isinstance(value, str) else ""

    async def read_form(self) -> None:
        """Read the form of a POST.

        Raises:
            InvalidRequest: It is no form of ours; files are not taken.
            TooLarge: It is too long.
        """
        media_type = self.request.headers.get("content-type", "").split(";")[0].strip()
        length = self.request.headers.get("content-length", "")
        if media_type != "application/x-www-form-urlencoded" or not length.isdecimal():
            raise InvalidRequest("That is not a form of this site. Go back, reload the page and try again.")
        if int(length) > _FORM_BYTES_MAX:
            raise TooLarge("The form is too long. Shorten what you typed and try again.")
        refuse_encoded(self.request)
        try:
            async with asyncio.timeout(SECONDS_MAX):
                self.form = await self.request.form(max_fields=_FIELDS_MAX)
        except TimeoutError as exc:
            raise InvalidRequest("The form did not arrive in time. Go back and try again.") from exc

    def demand_own_form(self, shown: str) -> None:
        """Return when the request comes from a page of ours.

        Raises:
            PermissionDenied: It may come from another site.
        """
        site = self.request.headers.get("sec-fetch-site", "same-origin")
        origin = self.request.headers.get("origin", "")
        is_ours = not origin or urlsplit(origin).netloc == self.request.url.netloc
        if (
            site not in ("same-origin", "none")
            or not is_ours
            or not hmac.compare_digest(shown.encode(), self.csrf_token.encode())
        ):
            message = (
                "The form was opened too long ago, or before you logged in. Go back, reload the page and try again."
            )
            raise PermissionDenied(message, reason="csrf")

    def come_in(self, opened: OpenStay, *, now: float) -> None:
        """Give the browser a new session; the token that it came with is worth nothing any more."""
        self._cookies.append((SESSION_COOKIE, opened.token, max(0, int(opened.stay.expires_at - now))))

    def go_out(self) -> None:
        """Take the session's cookie back."""
        self._cookies.append((SESSION_COOKIE, "", 0))

    def finish(self, response: Response) -> Response:
        """Put the cookies on the answer."""
        if self.request.cookies.get(VISITOR_COOKIE) != self.visitor:
            self._cookies.append((VISITOR_COOKIE, self.visitor, 86_400))
        for name, value, seconds in self._cookies:
            response.set_cookie(
                name,
                value,
                max_age=seconds,
                path="/",
                httponly=True,
                samesite="lax",
                secure=self.request.url.scheme == "https",
            )
        return response


def cookie(request: Request, name: str) -> str:
    """Return a cookie that can be ours; empty otherwise."""
    value = request.cookies.get(name, "")
    return value if value.isascii() and value.isprintable() and len(value) <= _COOKIE_CHARACTERS_MAX else ""


def visitor(request: Request) -> str:
    """Return the browser's random bytes, new ones where it has none."""
    return cookie(request, VISITOR_COOKIE) or secrets.token_urlsafe(24)


def own_path(text: str, *, otherwise: str = "/keys") -> str:
    """Return a path of this site to go on to; anything that a browser could read as another site is not followed."""
    is_own = text.startswith("/") and not text.startswith(("//", "/\\")) and len(text) <= 500
    return text if is_own and text.isascii() and text.isprintable() and "\\" not in text else otherwise
