"""A request of a browser to a console: form, CSRF token, notice and cookies.

The session's token is stored in an `HttpOnly` cookie only. Forms contain a CSRF token that is derived from this cookie,
so replicas need no shared secret to check it. Visitors without a session have a cookie with random bytes for the same
purpose.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from starlette.requests import Request
from starlette.responses import Response

from services.common.address_prefix import address_prefix
from services.common.web.cookies import Cookie, read_cookie, set_cookie
from services.common.web.forms import check_site, check_token, form_token, read_fields
from services.common.web.notices import open_notice, seal_notice
from services.common.web.origins import ConsoleOrigins

_VISITOR_SECONDS = 30 * 86_400
_DEVICE_SECONDS = 365 * 86_400
_PATH_CHARACTERS_MAX = 2_000
_NOTICE_SECONDS = 60
"""Time within which the browser must open the next page; longer than any redirect takes."""


class NotLoggedIn(Exception):
    """The page requires a session, and the request has none."""


@dataclass(slots=True)
class BrowserRequest:
    """A request with its form and cookies."""

    PUBLIC_URL_SETTING: ClassVar[str] = "AUTH_CONSOLE_URL"
    """The setting of the console's public address."""
    request: Request
    origins: ConsoleOrigins
    token: str = field(repr=False)
    """The session's token from the cookie; empty if there is none."""
    visitor: str = field(repr=False)
    """Value of the visitor cookie, for CSRF tokens without a session."""
    form: Mapping[str, str] = field(default_factory=dict)
    _cookies: dict[Cookie, tuple[str, int]] = field(default_factory=dict)
    _notice: Mapping[str, str] | None = None
    """The notice for this page; None before it was read."""

    @property
    def has_session(self) -> bool:
        """Whether the token is that of a session that is open."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """The client's address, with forwarded headers of trusted proxies already applied; empty if unknown."""
        return self.request.client.host if self.request.client else ""

    @property
    def client(self) -> str:
        """Network prefix that identifies the client for rate limits; empty if unknown."""
        return address_prefix(self.address)

    @property
    def device_token(self) -> str:
        """The browser's device token from an earlier log-in; empty if there is none."""
        return read_cookie(self.request, Cookie.DEVICE, self.origins.current)

    @property
    def csrf_token(self) -> str:
        """The CSRF token for forms."""
        return form_token(self.token if self.has_session else self.visitor)

    @property
    def base_url(self) -> str:
        """The base URL to show to users, `https://host`."""
        return str(self.origins.for_readers or str(self.request.base_url).rstrip("/"))

    def text(self, name: str) -> str:
        """Return a form field, stripped of whitespace; empty if it is missing."""
        return self.form.get(name, "").strip()

    def secret(self, name: str) -> str:
        """Return a form field unchanged, for passwords; empty if it is missing."""
        return self.form.get(name, "")

    def query(self, name: str) -> str:
        """Return a query parameter, stripped of whitespace; empty if it is missing."""
        return self.request.query_params.get(name, "").strip()

    async def read_form(self) -> None:
        """Read the form of a POST request. Raises the errors of `forms.read_fields`."""
        self.form = await read_fields(self.request)

    def check_site(self) -> None:
        """Check the request's origin. Raises the errors of `forms.check_site`."""
        check_site(self.request, self.origins, setting=self.PUBLIC_URL_SETTING)

    def check_any_token(self, token: str) -> None:
        """Check that a CSRF token matches any cookie of this browser. Does not need the session, hence no call to auth.

        Raises:
            PermissionDenied: The token matches no cookie.
        """
        check_token(token, self.token, self.visitor)

    def check_token(self, token: str) -> None:
        """Check that a CSRF token matches the session or, without a session, any cookie of this browser.

        The latter accepts pages that were opened in a session that has ended since.

        Raises:
            PermissionDenied: The token does not match.
        """
        check_token(token, self.token) if self.has_session else check_token(token, self.token, self.visitor)

    def open_session(self, token: str, device_token: str, *, seconds: float) -> None:
        """Set the cookies of a new session, which replaces the previous one."""
        self._cookies[Cookie.SESSION] = (token, max(0, int(seconds)))
        self.remember_device(device_token)

    def remember_device(self, token: str) -> None:
        """Set the device cookie, which is kept when the session ends. An empty token does nothing."""
        if token:
            self._cookies[Cookie.DEVICE] = (token, _DEVICE_SECONDS)

    def cookie(self, cookie: Cookie) -> str:
        """Return the value of a cookie that the browser sent; empty if there is none."""
        return read_cookie(self.request, cookie, self.origins.current)

    def set_cookie(self, cookie: Cookie, value: str, *, seconds: int) -> None:
        """Set a cookie; 0 seconds delete it."""
        self._cookies[cookie] = (value, seconds)

    def clear_session(self) -> None:
        """Delete the session cookie."""
        self._cookies[Cookie.SESSION] = ("", 0)

    def notify(self, *, now: float, seconds: int = _NOTICE_SECONDS, **values: str) -> None:
        """Set what the next page shows once. `message` is shown on any page; views read other values."""
        token = self._cookies.get(Cookie.SESSION, (self.token if self.has_session else "", 0))[0] or self.visitor
        self._cookies[Cookie.NOTICE] = (seal_notice(values, token, now=now), seconds)

    def notice(self, *, now: float) -> Mapping[str, str]:
        """Return the notice for this page; empty if there is none."""
        if self._notice is None:
            text = read_cookie(self.request, Cookie.NOTICE, self.origins.current)
            self._notice = open_notice(text, self.token, self.visitor, now=now) if text else {}
        return self._notice

    def take_notice(self, name: str, *, now: float) -> str:
        """Return one value of the notice, and delete the notice if it has the value, so that a reload lacks it."""
        value = self.notice(now=now).get(name, "")
        if value:
            self._cookies.setdefault(Cookie.NOTICE, ("", 0))
        return value

    def finish(self, response: Response) -> Response:
        """Add the cookies to a response. The visitor cookie is renewed each time, so that it outlives open forms."""
        cookies = {Cookie.VISITOR: (self.visitor, _VISITOR_SECONDS), **self._cookies}
        for cookie, (value, seconds) in cookies.items():
            set_cookie(response, cookie, value, seconds=seconds, origin=self.origins.current)
        return response


def session_and_visitor(request: Request, origins: ConsoleOrigins) -> tuple[str, str]:
    """Return the session's token and the visitor's value from the cookies; a visitor without one gets a new one."""
    visitor = read_cookie(request, Cookie.VISITOR, origins.current) or secrets.token_urlsafe(24)
    return read_cookie(request, Cookie.SESSION, origins.current), visitor


def local_path(text: str, *, otherwise: str) -> str:
    """Return `text` if it is a path on this site, or else `otherwise`, to prevent open redirects."""
    is_own = text.startswith("/") and not text.startswith(("//", "/\\")) and len(text) <= _PATH_CHARACTERS_MAX
    return text if is_own and text.isascii() and text.isprintable() and "\\" not in text else otherwise
