"""The ASGI application: routes, authentication, CSRF checks and error pages."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from services.common.errors import ServiceError
from services.common.web.assets import Assets
from services.common.web.browser_request import NotLoggedIn
from services.common.web.forms import CSRF_FIELD, BufferedForms
from services.common.web.headers import SecurityHeaders
from services.common.web.origins import Origin
from services.operator_console.clients.health import HealthClient
from services.operator_console.clients.operators import OperatorClient
from services.operator_console.clients.sessions import SessionClient
from services.operator_console.clients.usage import UsageClient
from services.operator_console.page import Pages, redirect
from services.operator_console.request import OperatorRequest, request_of
from services.operator_console.views.account import AccountViews
from services.operator_console.views.accounts import AccountsPage
from services.operator_console.views.audit import AuditPage
from services.operator_console.views.groq_keys import GroqKeysPage
from services.operator_console.views.health import HealthPage
from services.operator_console.views.invites import InviteViews
from services.operator_console.views.log_in import LogInViews
from services.operator_console.views.plans import PlanViews
from services.operator_console.views.top import TopPage

_NOT_FOUND = "This page does not exist. Check the address, or go back to the accounts."
_METHOD_NOT_ALLOWED = "This page does not accept that request. Go back, reload the page and try again."
Handler = Callable[[OperatorRequest], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class OperatorConsole:
    """Dependencies of the console."""

    pages: Pages
    assets: Assets
    sessions: SessionClient
    usage: UsageClient
    health: HealthClient
    open_operator: Callable[[str, str], OperatorClient]
    """Returns the client of an operator, by the session's token and the browser's address."""
    is_ready: Callable[[], bool]
    hsts_seconds: int
    public: Origin | None
    """Public address of the console, as configured; None accepts any address under which it is reached."""


def build_app(console: OperatorConsole) -> ASGIApp:
    """Return the application."""
    app = Starlette(
        routes=[*_routes(console), *_probes(console), Route("/static/{name}", console.assets.serve)],
        exception_handlers={HTTPException: _Endpoints(console).on_http_exception},
    )
    app.router.redirect_slashes = False
    defect_page = console.assets.content("defect.html")
    return SecurityHeaders(BufferedForms(app), hsts_seconds=console.hsts_seconds, defect_page=defect_page)


def _routes(console: OperatorConsole) -> Sequence[BaseRoute]:
    pages, views = console.pages, _Endpoints(console)
    log_in, account = LogInViews(pages, console.sessions), AccountViews(pages, console.usage)
    plans, invites = PlanViews(pages), InviteViews(pages)
    return [
        views.public("/login", log_in.form, on_form=log_in.log_in),
        views.public("/login/code", log_in.code_form, on_form=log_in.code),
        views.public("/logout", None, on_form=log_in.log_out),
        views.private("/", _start),
        views.private("/accounts", AccountsPage(pages).index),
        views.private("/accounts/{id}", account.index),
        views.private("/accounts/{id}/plan", None, on_form=account.move),
        views.private("/accounts/{id}/suspend", None, on_form=account.suspend),
        views.private("/accounts/{id}/resume", None, on_form=account.resume),
        views.private("/accounts/{id}/sessions/end", None, on_form=account.end_sessions),
        views.private("/plans", plans.index, on_form=plans.create),
        views.private("/plans/{name}", plans.plan, on_form=plans.change),
        views.private("/invites", invites.index, on_form=invites.create),
        views.private("/invites/{id}/revoke", None, on_form=invites.revoke),
        views.private("/top", TopPage(pages, console.usage).index),
        views.private("/groq-keys", GroqKeysPage(pages, console.usage).index),
        views.private("/audit", AuditPage(pages).index),
        views.private("/health", HealthPage(pages, console.usage, console.health).index),
    ]


async def _start(request: OperatorRequest) -> Response:
    return redirect("/accounts")


def _probes(console: OperatorConsole) -> Sequence[BaseRoute]:
    async def alive(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_: Request) -> Response:
        is_ready = console.is_ready()
        return PlainTextResponse("ready\n" if is_ready else "not ready\n", status_code=200 if is_ready else 503)

    return [Route("/healthz", alive), Route("/readyz", ready)]


class _Endpoints:
    """Wraps handlers with authentication, form parsing, CSRF checks and cookies."""

    def __init__(self, console: OperatorConsole) -> None:
        self._console = console
        self._pages = console.pages

    def public(self, path: str, on_get: Handler | None, *, on_form: Handler | None = None) -> Route:
        """Return the route of a page that requires no session."""
        return self._route(path, on_get, on_form, is_private=False)

    def private(self, path: str, on_get: Handler | None, *, on_form: Handler | None = None) -> Route:
        """Return the route of a page that requires an operator's session. Others are redirected to log in."""
        return self._route(path, on_get, on_form, is_private=True)

    def _route(self, path: str, on_get: Handler | None, on_form: Handler | None, *, is_private: bool) -> Route:
        async def endpoint(raw: Request) -> Response:
            request = request_of(raw, self._console.public)
            handler = on_form if raw.method == "POST" else on_get
            assert handler is not None, "Starlette rejects other methods"
            try:
                await self._check(request, is_private=is_private)
                return request.finish(await handler(request))
            except NotLoggedIn:
                return request.finish(_to_log_in(request))
            except ServiceError as exc:
                # The session may end between the check of the page and the call that acts.
                if is_private and exc.reason == "session_ended":
                    return request.finish(_to_log_in(request))
                return request.finish(self._pages.error_page(request, exc))

        return Route(
            path, endpoint, methods=[name for name, handler in (("GET", on_get), ("POST", on_form)) if handler]
        )

    async def _check(self, request: OperatorRequest, *, is_private: bool) -> None:
        """Check the form, if there is one, and find the session.

        Raises:
            NotLoggedIn: The page needs a session, and there is none.
            ServiceError: The form is not one of this console, or auth is unavailable.
        """
        is_form = request.request.method == "POST"
        if is_form:
            # Without a call to auth, so that a flood of forged forms does not reach it.
            request.check_site()
            await request.read_form()
            if is_private and not request.token:
                raise NotLoggedIn
            request.check_any_token(request.text(CSRF_FIELD))
        await self._authenticate(request)
        if is_private and not request.has_session:
            raise NotLoggedIn
        if is_form:
            request.check_token(request.text(CSRF_FIELD))

    async def _authenticate(self, request: OperatorRequest) -> None:
        session = await self._console.sessions.session(request.token) if request.token else None
        if session is not None:
            request.authenticate(session, self._console.open_operator(request.token, request.address))

    async def on_http_exception(self, raw: Request, exc: Exception) -> Response:
        """Answer an unknown path or method with a page."""
        assert isinstance(exc, HTTPException)
        request = request_of(raw, self._console.public)
        message = _NOT_FOUND if exc.status_code == 404 else _METHOD_NOT_ALLOWED
        page = self._pages.show(request, "error", status=exc.status_code, code=exc.status_code, message=message)
        page.headers.update(exc.headers or {})
        return page


def _to_log_in(request: OperatorRequest) -> Response:
    """Redirect to the log-in, and back to the page afterwards. What a form contained is lost."""
    url = request.request.url
    if request.request.method == "POST":
        return RedirectResponse("/login", status_code=303)
    target = f"{url.path}?{url.query}" if url.query else url.path
    return RedirectResponse(f"/login?next={quote(target, safe='')}", status_code=303)
