"""The console as an ASGI application: every page's path, and the one way in to all of them."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from services.common.clock import Clock
from services.common.errors import ServiceError
from services.gateway.console.account_pages import AccountPages
from services.gateway.console.assets import Assets
from services.gateway.console.entry import Entry
from services.gateway.console.forms import CSRF_FIELD, CSRF_HEADER, BufferedForms
from services.gateway.console.headers import SecurityHeaders
from services.gateway.console.key_pages import KeyPages
from services.gateway.console.lane import Lane
from services.gateway.console.origins import Origin
from services.gateway.console.owner import Door, Stay
from services.gateway.console.page import Pages
from services.gateway.console.playground import Playground
from services.gateway.console.usage_pages import UsagePages
from services.gateway.console.visit import Belongings, NotLoggedIn, Visit, visit_of
from services.gateway.cors import CORSPolicy
from services.gateway.errors import http_error
from services.gateway.routes import API, Models, error_response, on_http_exception

_NO_PAGE = "There is no page at this address. It may have moved, or the link has a slip in it."
_log = logging.getLogger(__name__)
Handler = Callable[[Visit], Awaitable[Response]]
LetIn = Callable[[str, Stay, str], Belongings]
"""Binds a session's token, the session and the client's address to what its holder can do."""


@dataclass(frozen=True, slots=True)
class Console:
    """What the pages need of the rest of the gateway."""

    pages: Pages
    assets: Assets
    clock: Clock
    door: Door
    let_in: LetIn
    api: API
    models: Models
    cors: CORSPolicy
    hsts_seconds: int
    public: Origin | None
    """Address of the console that the operator set; None for whatever address it is reached under."""


def build_console(console: Console) -> ASGIApp:
    """Return the console."""
    app = Starlette(
        routes=[*_routes(console), Route("/static/{name}", console.assets.serve)],
        exception_handlers={HTTPException: _Errors(console).on_http_exception},
    )
    app.router.redirect_slashes = False
    defect_page = console.assets.content("defect.html")
    return SecurityHeaders(BufferedForms(Lane(app)), hsts_seconds=console.hsts_seconds, defect_page=defect_page)


def _routes(console: Console) -> Sequence[BaseRoute]:
    pages = console.pages
    entry, keys, usage = Entry(pages, console.door, console.clock), KeyPages(pages), UsagePages(pages)
    account, playground = AccountPages(pages), Playground(pages, console.api, console.models)
    way_in = _WayIn(console, entry)
    return [
        way_in.open("/", entry.landing),
        way_in.open("/docs", entry.docs),
        way_in.open("/signup", entry.sign_up_form, on_form=entry.sign_up),
        way_in.open("/login", entry.log_in_form, on_form=entry.log_in),
        way_in.open("/verify", entry.verify_form, on_form=entry.verify),
        way_in.open("/verify/send", None, on_form=entry.send_verification),
        way_in.open("/forgot", entry.forgot_form, on_form=entry.forgot),
        way_in.open("/reset", entry.reset_form, on_form=entry.reset),
        way_in.open("/logout", None, on_form=entry.log_out),
        way_in.owned("/keys", keys.index, on_form=keys.create, kept=("name", "expires", "models")),
        way_in.owned("/keys/{id}/rotate", None, on_form=keys.rotate, page="/keys"),
        way_in.owned("/keys/{id}/revoke", None, on_form=keys.revoke, page="/keys"),
        way_in.owned("/usage", usage.index),
        way_in.owned("/usage.csv", usage.download),
        way_in.owned("/usage/requests", usage.find),
        way_in.owned("/usage/requests/{id}", usage.request),
        way_in.owned("/playground", playground.index),
        Route("/playground/chat", way_in.called(playground.chat), methods=["POST"]),
        way_in.owned("/account", account.index),
        way_in.owned("/account/password", None, on_form=account.change_password, page="/account"),
        way_in.owned("/account/sessions/{id}/end", None, on_form=account.end_stay, page="/account"),
        way_in.owned("/account/delete", None, on_form=account.delete, page="/account"),
    ]


class _WayIn:
    """Wraps handlers: knows who comes, reads forms and holds them to their token, and sets cookies."""

    def __init__(self, console: Console, entry: Entry) -> None:
        self._console = console
        self._entry = entry
        self._errors = _Errors(console)

    def open(self, path: str, on_get: Handler | None, *, on_form: Handler | None = None) -> Route:
        """Return the route of a page for everybody."""
        return self._route(path, on_get, on_form, None)

    def owned(
        self,
        path: str,
        on_get: Handler | None,
        *,
        on_form: Handler | None = None,
        page: str = "",
        kept: Sequence[str] = (),
    ) -> Route:
        """Return the route of a page for owners; others are sent to log in first, and back.

        Args:
            path: Where it is.
            on_get: Answers with the page.
            on_form: Answers a form that is sent there.
            page: The page that has the form; empty for `path` itself.
            kept: Fields of the form that this page takes from its address, so that a log-in in between loses none.
        """
        return self._route(path, on_get, on_form, _FormPage(page or path, kept))

    def called(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint that scripts of ours call; its token is in a header, and its errors are the API's."""

        async def endpoint(request: Request) -> Response:
            visit = visit_of(request, self._console.public)
            token = request.headers.get(CSRF_HEADER, "")
            try:
                visit.check_site()
                if not visit.token:
                    raise NotLoggedIn
                visit.could_be_ours(token)
                await _know(self._console, visit)
                visit.own  # noqa: B018
                visit.check_token(token)
                return await handler(visit)
            except NotLoggedIn:
                return Response(status_code=401)
            except ServiceError as exc:
                return error_response(http_error(exc, now=self._console.pages.now()))

        return endpoint

    def _route(
        self, path: str, on_get: Handler | None, on_form: Handler | None, form_page: "_FormPage | None"
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            visit = visit_of(request, self._console.public)
            is_form = request.method == "POST"
            handler = on_form if is_form else on_get
            assert handler is not None, "Starlette lets only named methods in"
            try:
                if is_form:
                    await _read_form(visit, must_be_logged_in=form_page is not None)
                await _know(self._console, visit)
                if form_page is not None:
                    visit.own  # noqa: B018
                if is_form:
                    visit.check_token(visit.text(CSRF_FIELD))
                return visit.finish(await handler(visit))
            except NotLoggedIn:
                assert form_page is not None, "pages for everybody ask for no session"
                return visit.finish(self._to_log_in(visit, form_page))
            except ServiceError as exc:
                return visit.finish(self._errors.page(visit, exc))

        return Route(path, endpoint, methods=[name for name, one in (("GET", on_get), ("POST", on_form)) if one])

    def _to_log_in(self, visit: Visit, form_page: "_FormPage") -> Response:
        """Send to the log-in, and back to the page afterwards, with what was typed into its form."""
        url = visit.request.url
        if visit.request.method == "POST":
            return self._entry.log_in_again(visit, form_page.address(visit))
        target = f"{url.path}?{url.query}" if url.query else url.path
        return RedirectResponse(f"/login?next={quote(target, safe='')}", status_code=303)


@dataclass(frozen=True, slots=True)
class _FormPage:
    """The page that has a form, and the fields that it takes from its address."""

    path: str
    kept: Sequence[str]

    def address(self, visit: Visit) -> str:
        """Return the page's address, filled in as the form was."""
        typed = {name: text for name in self.kept if (text := visit.text(name))}
        return f"{self.path}?{urlencode(typed)}" if typed else self.path


async def _read_form(visit: Visit, *, must_be_logged_in: bool) -> None:
    """Read a form and refuse what is not ours as far as that is known without auth, which a flood must not reach."""
    visit.check_site()
    await visit.read_form()
    if must_be_logged_in and not visit.token:
        raise NotLoggedIn
    visit.could_be_ours(visit.text(CSRF_FIELD))


class _Errors:
    """Pages for what went wrong."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pages = console.pages

    def page(self, visit: Visit, error: ServiceError) -> Response:
        """Return the page of a refusal or failure, with no word of what a defect was."""
        told = http_error(error, now=self._pages.now())
        return self._pages.show(visit, "error", status=told.status, code=told.status, message=told.message)

    async def on_http_exception(self, request: Request, exc: Exception) -> Response:
        """Answer an unknown path or method: browsers with a page, programs as the API does."""
        if "text/html" not in request.headers.get("accept", ""):
            response = await on_http_exception(request, exc)
            response.headers.update(self._console.cors.headers(request.headers.get("origin", "")))
            return response
        assert isinstance(exc, HTTPException)
        visit = await self._visit(request)
        message = _NO_PAGE if exc.status_code == 404 else "This page does not take what was sent to it."
        return self._pages.show(visit, "error", status=exc.status_code, code=exc.status_code, message=message)

    async def _visit(self, request: Request) -> Visit:
        visit = visit_of(request, self._console.public)
        try:
            await _know(self._console, visit)
        except ServiceError as exc:
            _log.info("error page without its reader", extra={"reason": exc.reason})
        return visit


async def _know(console: Console, visit: Visit) -> None:
    """Give a visit what its session lets it do, if it has one that lasts."""
    stay = await console.door.stay(visit.token) if visit.token else None
    if stay is not None:
        visit.belongings = console.let_in(visit.token, stay, visit.address)
    visit.has_lapsed = bool(visit.token) and stay is None
