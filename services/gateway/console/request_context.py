"""One request to the console: who makes it, its form, and the cookies that go back.

The session's token is in an `HttpOnly` cookie and nowhere else. A form carries a token that is derived from that
cookie, so replicas of the gateway need no shared secret to check it. Whoever has no session has a cookie of random
bytes for the same purpose.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from services.common.address_prefix import address_prefix
from services.gateway.console.cookies import Cookie, read_cookie, set_cookie
from services.gateway.console.forms import check_site, check_token, form_token, read_fields
from services.gateway.console.origins import Origin, OwnOrigins, own_origins
from services.gateway.console.ports import OpenSession, OwnerClient, Session, Usage
from services.gateway.http.bearer import client_address

_VISITOR_SECONDS = 30 * 86_400
_DEVICE_SECONDS = 365 * 86_400
_PATH_CHARACTERS_MAX = 2_000


class NotLoggedIn(Exception):
    """The page is for owners, and nobody is logged in."""


@dataclass(frozen=True, slots=True)
class SessionScope:
    """What the holder of the session can do and see."""

    session: Session
    owner: OwnerClient
    usage: Usage


@dataclass(slots=True)
class RequestContext:
    """One request and who makes it."""

    request: Request
    origins: OwnOrigins
    token: str = field(repr=False)
    """The session's token as shown; empty without one."""
    visitor: str = field(repr=False)
    """Random bytes of the browser, for forms before a log-in."""
    session_scope: SessionScope | None = None
    """None while nobody is logged in."""
    has_lapsed: bool = False
    """Whether the browser showed a session that has ended."""
    form: Mapping[str, str] = field(default_factory=dict)
    _cookies: dict[Cookie, tuple[str, int]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """The client's network address, as far as it is known."""
        return client_address(self.request)

    @property
    def client(self) -> str:
        """What is taken for one client when tries are counted; empty when it is not known."""
        return address_prefix(self.address)

    @property
    def device_token(self) -> str:
        """What an earlier log-in gave this browser; empty for none."""
        return read_cookie(self.request, Cookie.DEVICE, self.origins.current)

    @property
    def scope(self) -> SessionScope:
        """What the holder of the session can do.

        Raises:
            NotLoggedIn: There is no session.
        """
        if self.session_scope is None:
            raise NotLoggedIn
        return self.session_scope

    @property
    def csrf_token(self) -> str:
        """What the forms of this browser carry."""
        return form_token(self.token if self.session_scope else self.visitor)

    @property
    def base_url(self) -> str:
        """The API's address as readers can use it, `https://host`."""
        return str(self.origins.for_readers or str(self.request.base_url).rstrip("/"))

    def text(self, name: str) -> str:
        """Return a field of the form, without the blanks around it; empty when it is absent."""
        return self.form.get(name, "").strip()

    def secret(self, name: str) -> str:
        """Return a field as it was typed, such as a password."""
        return self.form.get(name, "")

    def query(self, name: str) -> str:
        """Return a parameter of the address, without the blanks around it; empty when it is absent."""
        return self.request.query_params.get(name, "").strip()

    async def read_form(self) -> None:
        """Read the form of a POST; raises as `read_fields`."""
        self.form = await read_fields(self.request)

    def check_site(self) -> None:
        """Return when the request comes from a page of ours; raises as `forms.check_site`."""
        check_site(self.request, self.origins)

    def could_be_ours(self, shown: str) -> None:
        """Return when a form's token belongs to a cookie of this browser, before auth is asked whose session it is.

        Raises:
            PermissionDenied: It belongs to neither.
        """
        check_token(shown, self.token, self.visitor)

    def check_token(self, shown: str) -> None:
        """Return when a form's token belongs to the session, or without one to any cookie of this browser.

        A page that was opened in a session that has ended since is still a page of ours.

        Raises:
            PermissionDenied: It does not.
        """
        check_token(shown, self.token) if self.session_scope else check_token(shown, self.token, self.visitor)

    def set_session(self, opened: OpenSession, *, now: float) -> None:
        """Give the browser a new session; the token that it came with is worth nothing any more."""
        self._cookies[Cookie.SESSION] = (opened.token, max(0, int(opened.session.expires_at - now)))
        self.know_device(opened.device_token)

    def know_device(self, token: str) -> None:
        """Let the browser be known when it logs in again; it stays when the session ends."""
        if token:
            self._cookies[Cookie.DEVICE] = (token, _DEVICE_SECONDS)

    def clear_session(self) -> None:
        """Take the session's cookie back."""
        self._cookies[Cookie.SESSION] = ("", 0)

    def finish(self, response: Response) -> Response:
        """Put the cookies on the answer; the visitor's is renewed with each, so that no open form outlives it."""
        cookies = {Cookie.VISITOR: (self.visitor, _VISITOR_SECONDS), **self._cookies}
        for cookie, (value, seconds) in cookies.items():
            set_cookie(response, cookie, value, seconds=seconds, origin=self.origins.current)
        return response


def context_of(request: Request, public: Origin | None) -> RequestContext:
    """Return a visit before auth was asked whose it is; `public` is the address that the operator set."""
    origins = own_origins(request, public)
    visitor = read_cookie(request, Cookie.VISITOR, origins.current) or secrets.token_urlsafe(24)
    return RequestContext(request, origins, read_cookie(request, Cookie.SESSION, origins.current), visitor)


def own_path(text: str, *, otherwise: str = "/keys") -> str:
    """Return a path of this site to go on to; anything that a browser could read as another site is not followed."""
    is_own = text.startswith("/") and not text.startswith(("//", "/\\")) and len(text) <= _PATH_CHARACTERS_MAX
    return text if is_own and text.isascii() and text.isprintable() and "\\" not in text else otherwise
