"""The console as an ASGI application: every page's path, and the one way in to all of them."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from services.common.errors import ServiceError
from services.gateway.console.account_pages import AccountPages
from services.gateway.console.entry import Entry
from services.gateway.console.headers import SecurityHeaders
from services.gateway.console.key_pages import KeyPages
from services.gateway.console.owner import Door, Stay
from services.gateway.console.page import STATIC, Pages
from services.gateway.console.playground import Playground
from services.gateway.console.usage_pages import UsagePages
from services.gateway.console.visit import (
    CSRF_FIELD,
    CSRF_HEADER,
    SESSION_COOKIE,
    Belongings,
    NotLoggedIn,
    Visit,
    cookie,
    visitor,
)
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
    door: Door
    let_in: LetIn
    api: API
    models: Models
    cors: CORSPolicy
    hsts_seconds: int


def build_console(console: Console) -> ASGIApp:
    """Return the console."""
    app = Starlette(
        routes=[*_routes(console), Mount("/static", StaticFiles(directory=STATIC))],
        exception_handlers={HTTPException: _Errors(console).on_http_exception},
    )
    app.router.redirect_slashes = False
    return SecurityHeaders(app, hsts_seconds=console.hsts_seconds, defect_page=(STATIC / "defect.html").read_bytes())


def _routes(console: Console) -> Sequence[BaseRoute]:
    pages = console.pages
    entry, keys, usage = Entry(pages, console.door), KeyPages(pages), UsagePages(pages)
    account, playground = AccountPages(pages), Playground(pages, console.api, console.models)
    way_in = _WayIn(console)

    async def docs(visit: Visit) -> Response:
        return pages.show(visit, "docs")

    return [
        way_in.open("/", entry.landing),
        way_in.open("/docs", docs),
        way_in.open("/signup", entry.sign_up_form, on_form=entry.sign_up),
        way_in.open("/login", entry.log_in_form, on_form=entry.log_in),
        way_in.open("/verify", entry.verify_form, on_form=entry.verify),
        way_in.open("/verify/send", None, on_form=entry.send_verification),
        way_in.open("/forgot", entry.forgot_form, on_form=entry.forgot),
        way_in.open("/reset", entry.reset_form, on_form=entry.reset),
        way_in.open("/logout", None, on_form=entry.log_out),
        way_in.owned("/keys", keys.index, on_form=keys.create),
        way_in.owned("/keys/{id}/rotate", None, on_form=keys.rotate),
        way_in.owned("/keys/{id}/revoke", None, on_form=keys.revoke),
        way_in.owned("/usage", usage.index),
        way_in.owned("/usage.csv", usage.download),
        way_in.owned("/usage/requests", usage.find),
        way_in.owned("/usage/requests/{id}", usage.request),
        way_in.owned("/playground", playground.index),
        Route("/playground/chat", way_in.called(playground.chat), methods=["POST"]),
        way_in.owned("/account", account.index),
        way_in.owned("/account/password", None, on_form=account.change_password),
        way_in.owned("/account/sessions/{id}/end", None, on_form=account.end_stay),
        way_in.owned("/account/delete", None, on_form=account.delete),
    ]


class _WayIn:
    """Wraps handlers: knows who comes, reads forms and holds them to their token, and sets cookies."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._errors = _Errors(console)

    def open(self, path: str, on_get: Handler | None, *, on_form: Handler | None = None) -> Route:
        """Return the route of a page for everybody."""
        return self._route(path, on_get, on_form, is_owned=False)

    def owned(self, path: str, on_get: Handler | None, *, on_form: Handler | None = None) -> Route:
        """Return the route of a page for who is logged in; others are sent to log in first."""
        return self._route(path, on_get, on_form, is_owned=True)

    def called(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint that scripts of ours call; its token is in a header, and its errors are the API's."""

        async def endpoint(request: Request) -> Response:
            try:
                visit = await _known(self._console, request)
                visit.demand_own_form(request.headers.get(CSRF_HEADER, ""))
                visit.own  # noqa: B018
                return await handler(visit)
            except NotLoggedIn:
                return Response(status_code=401)
            except ServiceError as exc:
                return error_response(http_error(exc, now=self._console.pages.now()))

        return endpoint

    def _route(self, path: str, on_get: Handler | None, on_form: Handler | None, *, is_owned: bool) -> Route:
        handlers = {"GET": on_get, "HEAD": on_get, "POST": on_form}

        async def endpoint(request: Request) -> Response:
            handler = handlers[request.method]
            assert handler is not None, "Starlette lets only named methods in"
            visit = _unknown(request)
            try:
                visit = await _known(self._console, request)
                if is_owned:
                    visit.own  # noqa: B018
                if request.method == "POST":
                    await visit.read_form()
                    visit.demand_own_form(visit.text(CSRF_FIELD))
                return visit.finish(await handler(visit))
            except NotLoggedIn:
                return visit.finish(_to_log_in(request))
            except ServiceError as exc:
                return visit.finish(self._errors.page(visit, exc))

        return Route(path, endpoint, methods=[method for method in ("GET", "POST") if handlers[method]])


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
        try:
            return await _known(self._console, request)
        except ServiceError as exc:
            _log.info("error page without its reader", extra={"reason": exc.reason})
            return _unknown(request)


async def _known(console: Console, request: Request) -> Visit:
    """Return the visit with what its session lets it do; a session that has ended is none."""
    visit = _unknown(request)
    stay = await console.door.stay(visit.token) if visit.token else None
    if stay is None:
        visit.token = ""
    else:
        visit.belongings = console.let_in(visit.token, stay, visit.address)
    return visit


def _unknown(request: Request) -> Visit:
    """Return the visit before auth was asked whose it is."""
    return Visit(request, cookie(request, SESSION_COOKIE), visitor(request), None)


def _to_log_in(request: Request) -> Response:
    """Send to the log-in, and back to the page afterwards where it can be opened again."""
    target = request.url.path if request.method == "GET" else "/keys"
    return RedirectResponse(f"/login?next={quote(target)}", status_code=303)
