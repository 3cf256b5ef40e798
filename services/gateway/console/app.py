"""The console's ASGI application: routes, authentication, CSRF checks and error pages."""

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

from services.common.errors import ServiceError
from services.common.prices import Prices
from services.common.runtime.clock import Clock
from services.common.web.assets import Assets
from services.common.web.forms import CSRF_FIELD, CSRF_HEADER, BufferedForms
from services.common.web.headers import SecurityHeaders
from services.common.web.origins import Origin
from services.gateway.apis.error_handlers import on_http_exception
from services.gateway.apis.routes import API
from services.gateway.apis.surfaces import error_response
from services.gateway.console.docs.views import DocsViews
from services.gateway.console.facts import Facts
from services.gateway.console.identity_ports import IdentityClient
from services.gateway.console.page import Pages
from services.gateway.console.ports import Session, SessionClient
from services.gateway.console.providers import ProviderCache
from services.gateway.console.request_context import NotLoggedIn, RequestContext, SessionScope, context_of
from services.gateway.console.security.concurrency import ConsoleConcurrency
from services.gateway.console.totp_ports import TOTPClient
from services.gateway.console.usage.live import LiveRequests
from services.gateway.console.views.account import AccountViews
from services.gateway.console.views.auth import AuthViews
from services.gateway.console.views.identities import IdentityViews
from services.gateway.console.views.key import KeyPage
from services.gateway.console.views.keys import KeyViews
from services.gateway.console.views.models import ModelsPage
from services.gateway.console.views.plan import PlanViews
from services.gateway.console.views.playground import Playground
from services.gateway.console.views.refused_requests import RefusedRequests
from services.gateway.console.views.totp import TOTPViews
from services.gateway.console.views.usage import UsageViews
from services.gateway.console.views.usage_live import LiveView
from services.gateway.http.cors import CORSPolicy
from services.gateway.http.errors import http_error
from services.gateway.requests.ports import ResponseStore

_NOT_FOUND = "This page does not exist. Check the address, or go back to the start page."
_METHOD_NOT_ALLOWED = "This page does not accept that request. Go back, reload the page and try again."
_MODEL = "model:"
"""Prefix of the check boxes of models, which are kept with the fields of a form."""
_log = logging.getLogger(__name__)
Handler = Callable[[RequestContext], Awaitable[Response]]
OpenScope = Callable[[str, Session, str], SessionScope]
"""Creates the scope of a session from its token, the session and the client's address."""


@dataclass(frozen=True, slots=True)
class Console:
    """Dependencies of the console."""

    pages: Pages
    assets: Assets
    clock: Clock
    session_client: SessionClient
    facts: Facts
    prices: Prices
    identity_client: IdentityClient
    totp_client: TOTPClient
    docs: DocsViews
    open_scope: OpenScope
    api: API
    responses: ResponseStore
    live: LiveRequests
    cors: CORSPolicy
    hsts_seconds: int
    upgrade: str
    """Where "Upgrade to Pro" leads: an e-mail address or a URL; empty hides it."""
    public: Origin | None
    """Public address of the console, as configured; None accepts any address under which it is reached."""


def build_console(console: Console) -> ASGIApp:
    """Return the console's application."""
    app = Starlette(
        routes=[*_routes(console), Route("/static/{name}", console.assets.serve)],
        exception_handlers={HTTPException: _Errors(console).on_http_exception},
    )
    app.router.redirect_slashes = False
    defect_page = console.assets.content("defect.html")
    return SecurityHeaders(
        BufferedForms(ConsoleConcurrency(app)), hsts_seconds=console.hsts_seconds, defect_page=defect_page
    )


def _routes(console: Console) -> Sequence[BaseRoute]:
    pages = console.pages
    refused = RefusedRequests(console.docs.error_codes, console.clock)
    auth_views, keys, usage = (
        AuthViews(pages, console.session_client, console.clock),
        KeyViews(pages, console.facts),
        UsageViews(pages, console.facts, refused),
    )
    live = LiveView(pages, console.session_client, console.live, console.clock)
    key = KeyPage(pages, console.facts, refused)
    account, playground = AccountViews(pages, console.responses), Playground(pages, console.api, console.facts)
    views = _ViewRoutes(console, auth_views)
    identities = _identity_views(console)
    return [
        views.public("/", auth_views.landing, needs_auth=False),
        views.public("/docs/models", ModelsPage(pages, console.facts, console.prices).index, needs_auth=False),
        views.public("/signup", identities.with_buttons(auth_views.sign_up_form), on_form=auth_views.sign_up),
        views.public("/login", identities.with_buttons(auth_views.log_in_form), on_form=auth_views.log_in),
        *_totp_routes(views, TOTPViews(pages, console.totp_client, show_methods=identities.show_methods)),
        *_identity_routes(views, identities),
        views.public("/verify", auth_views.verify_form, on_form=auth_views.verify),
        views.public("/verify/send", None, on_form=auth_views.send_verification),
        views.public("/forgot", auth_views.forgot_form, on_form=auth_views.forgot),
        views.public("/reset", auth_views.reset_form, on_form=auth_views.reset),
        views.public("/mail-sent", auth_views.mail_sent),
        views.public("/goodbye", account.goodbye),
        views.public("/logout", None, on_form=auth_views.log_out),
        views.private("/keys", keys.index, on_form=keys.create, kept=("name", "expires", "models")),
        views.private("/keys/leaked", None, on_form=keys.revoke_leaked, page="/keys"),
        views.private("/keys/{id}", key.index),
        views.private("/keys/{id}/settings", None, on_form=key.update, page="/keys"),
        views.private("/keys/{id}/pause", None, on_form=key.pause, page="/keys"),
        views.private("/keys/{id}/resume", None, on_form=key.resume, page="/keys"),
        views.private("/keys/{id}/rotate", None, on_form=keys.rotate, page="/keys"),
        views.private("/keys/{id}/revoke", None, on_form=keys.revoke, page="/keys"),
        views.private("/usage", usage.index),
        views.private("/usage.csv", usage.download),
        Route("/usage/live", views.script(live.stream, is_form=False)),
        views.private("/usage/requests", usage.find),
        views.private("/usage/requests/{id}", usage.request),
        views.private("/plan", PlanViews(pages, console.upgrade).index),
        views.private("/playground", playground.index),
        Route("/playground/chat", views.script(playground.chat), methods=["POST"]),
        Route("/playground/markdown", views.script(playground.markdown), methods=["POST"]),
        views.private("/account", account.index),
        views.private("/account/password", None, on_form=account.change_password, page="/account"),
        views.private("/account/alerts", None, on_form=account.set_alerts, page="/account"),
        views.private("/account/sessions/{id}/end", None, on_form=account.end_session, page="/account"),
        views.private("/account/delete", None, on_form=account.delete, page="/account"),
        *console.docs.files(),
        views.public("/docs", console.docs.index, needs_auth=False),
        views.public("/docs/reference", console.docs.reference, needs_auth=False),
        views.public("/docs/{name}", console.docs.page, needs_auth=False),
    ]


def _identity_views(console: Console) -> IdentityViews:
    providers = ProviderCache(console.identity_client, console.clock)
    console.pages.add_global("providers", providers.known)
    return IdentityViews(console.pages, console.identity_client, console.totp_client, providers)


def _identity_routes(views: "_ViewRoutes", identities: IdentityViews) -> Sequence[BaseRoute]:
    methods = "/account/log-in"
    return [
        views.public("/login/{provider}", identities.start),
        views.public("/login/{provider}/callback", identities.callback),
        views.private(methods, identities.methods),
        views.private(f"{methods}/identities/{{id}}/unlink", None, on_form=identities.unlink, page=methods),
        views.private(f"{methods}/{{provider}}/link", None, on_form=identities.start_link, page=methods),
    ]


def _totp_routes(views: "_ViewRoutes", totp: TOTPViews) -> Sequence[BaseRoute]:
    methods = "/account/log-in"
    return [
        views.public("/login/code", totp.code_form, on_form=totp.code),
        views.private(f"{methods}/totp/enrol", None, on_form=totp.enrol, page=methods),
        views.private(f"{methods}/totp/enable", None, on_form=totp.enable, page=methods),
        views.private(f"{methods}/totp/disable", None, on_form=totp.disable, page=methods),
        views.private(f"{methods}/totp/recovery-codes", None, on_form=totp.replace_recovery_codes, page=methods),
    ]


class _ViewRoutes:
    """Wraps handlers with authentication, form parsing, CSRF checks and cookies."""

    def __init__(self, console: Console, auth_views: AuthViews) -> None:
        self._console = console
        self._auth_views = auth_views
        self._errors = _Errors(console)

    def public(
        self, path: str, on_get: Handler | None, *, on_form: Handler | None = None, needs_auth: bool = True
    ) -> Route:
        """Return the route of a page that requires no session.

        Args:
            path: Path of the route.
            on_get: Handles GET requests.
            on_form: Handles forms posted to the path.
            needs_auth: Whether the page is an error while auth is unavailable. Otherwise it is shown without a session.
        """
        return self._route(path, on_get, on_form, None, needs_auth=needs_auth)

    def private(
        self,
        path: str,
        on_get: Handler | None,
        *,
        on_form: Handler | None = None,
        page: str = "",
        kept: Sequence[str] = (),
    ) -> Route:
        """Return the route of a page that requires a session. Other visitors are redirected to log in, and then back.

        Args:
            path: Path of the route.
            on_get: Handles GET requests.
            on_form: Handles forms posted to the path.
            page: Path of the page with the form; empty if it is `path`.
            kept: Form fields to pass to that page in its query, so that they survive a log-in.
        """
        return self._route(path, on_get, on_form, _FormPage(page or path, kept))

    def script(self, handler: Handler, *, is_form: bool = True) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint for the console's scripts, which gets errors in JSON.

        Args:
            handler: Handles the requests.
            is_form: Whether requests change something, so that they have a CSRF token in a header.
        """

        async def endpoint(request: Request) -> Response:
            context = context_of(request, self._console.public)
            token = request.headers.get(CSRF_HEADER, "")
            try:
                context.check_site()
                if not context.token:
                    raise NotLoggedIn
                if is_form:
                    context.check_any_token(token)
                await _authenticate(self._console, context)
                context.scope  # noqa: B018
                if is_form:
                    context.check_token(token)
                return await handler(context)
            except NotLoggedIn:
                return Response(status_code=401)
            except ServiceError as exc:
                return error_response(request, http_error(exc, now=self._console.pages.now()))

        return endpoint

    def _route(
        self,
        path: str,
        on_get: Handler | None,
        on_form: Handler | None,
        form_page: "_FormPage | None",
        *,
        needs_auth: bool = True,
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            context = context_of(request, self._console.public)
            is_form = request.method == "POST"
            handler = on_form if is_form else on_get
            assert handler is not None, "Starlette rejects other methods"
            try:
                if is_form:
                    await _read_form(context, must_be_logged_in=form_page is not None)
                if form_page is None:
                    await self._console.facts.refresh()
                await _authenticate(self._console, context, is_required=needs_auth)
                if form_page is not None:
                    context.scope  # noqa: B018
                if is_form:
                    context.check_token(context.text(CSRF_FIELD))
                return context.finish(await handler(context))
            except NotLoggedIn:
                assert form_page is not None, "public pages require no session"
                return context.finish(self._to_log_in(context, form_page))
            except ServiceError as exc:
                return context.finish(self._errors.page(context, exc))

        return Route(
            path, endpoint, methods=[name for name, handler in (("GET", on_get), ("POST", on_form)) if handler]
        )

    def _to_log_in(self, context: RequestContext, form_page: "_FormPage") -> Response:
        """Redirect to the log-in, and back to the page afterwards, keeping the fields of its form."""
        url = context.request.url
        if context.request.method == "POST":
            return self._auth_views.log_in_again(context, form_page.address(context))
        target = f"{url.path}?{url.query}" if url.query else url.path
        return RedirectResponse(f"/login?next={quote(target, safe='')}", status_code=303)


@dataclass(frozen=True, slots=True)
class _FormPage:
    """The page of a form, and the fields that can be passed to it in its query."""

    path: str
    kept: Sequence[str]

    def address(self, context: RequestContext) -> str:
        """Return the page's path, with the submitted fields in its query."""
        names = [name for name in context.form if name in self.kept or name.startswith(_MODEL)]
        fields = {name: text for name in names if (text := context.text(name))}
        return f"{self.path}?{urlencode(fields)}" if fields else self.path


async def _read_form(context: RequestContext, *, must_be_logged_in: bool) -> None:
    """Read a form and run the CSRF checks that do not need auth, so that a flood of forged forms does not reach it."""
    context.check_site()
    await context.read_form()
    if must_be_logged_in and not context.token:
        raise NotLoggedIn
    context.check_any_token(context.text(CSRF_FIELD))


class _Errors:
    """Renders error pages."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pages = console.pages

    def page(self, context: RequestContext, error: ServiceError) -> Response:
        """Return the page of an error. Internal errors show no details."""
        response = http_error(error, now=self._pages.now())
        return self._pages.show(
            context, "error", status=response.status, code=response.status, message=response.message
        )

    async def on_http_exception(self, request: Request, exc: Exception) -> Response:
        """Answer an unknown path or method: with a page if the client accepts HTML, or else like the API."""
        if "text/html" not in request.headers.get("accept", ""):
            response = await on_http_exception(request, exc)
            response.headers.update(self._console.cors.headers(request.headers.get("origin", "")))
            return response
        assert isinstance(exc, HTTPException)
        context = await self._context(request)
        message = _NOT_FOUND if exc.status_code == 404 else _METHOD_NOT_ALLOWED
        page = self._pages.show(context, "error", status=exc.status_code, code=exc.status_code, message=message)
        page.headers.update(exc.headers or {})
        return page

    async def _context(self, request: Request) -> RequestContext:
        context = context_of(request, self._console.public)
        await _authenticate(self._console, context, is_required=False)
        return context


async def _authenticate(console: Console, context: RequestContext, *, is_required: bool = True) -> None:
    """Set the session scope of the request, if its session is valid.

    Raises:
        ServiceError: Auth is unavailable, and the page requires it.
    """
    try:
        session = await console.session_client.session(context.token) if context.token else None
    except ServiceError as exc:
        if is_required:
            raise
        _log.info("A page is shown without its session.", extra={"reason": exc.reason})
        return
    if session is not None:
        context.session_scope = console.open_scope(context.token, session, context.address)
    context.has_lapsed = bool(context.token) and session is None
