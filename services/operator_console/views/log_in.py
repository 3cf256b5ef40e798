"""Log-in with the password and a code, and log-out."""

from starlette.responses import Response

from services.common.errors import ServiceError
from services.common.web.browser_request import local_path
from services.common.web.cookies import Cookie
from services.operator_console.clients.sessions import SessionClient
from services.operator_console.page import Pages, redirect
from services.operator_console.request import OperatorRequest

_START = "/accounts"
_PENDING_SECONDS = 300


class LogInViews:
    """Handlers of the pages that require no session."""

    def __init__(self, pages: Pages, sessions: SessionClient) -> None:
        self._pages = pages
        self._sessions = sessions

    async def form(self, request: OperatorRequest) -> Response:
        """`GET /login`."""
        target = local_path(request.query("next"), otherwise=_START)
        if request.has_session:
            return redirect(target)
        return self._pages.show(request, "login", email="", next=target, error="")

    async def log_in(self, request: OperatorRequest) -> Response:
        """`POST /login`: the password, after which a code is needed."""
        email, target = request.text("email"), local_path(request.text("next"), otherwise=_START)
        try:
            pending = await self._sessions.log_in(
                email, request.secret("password"), device_token=request.device_token, address=request.address
            )
        except ServiceError as exc:
            return self._pages.show_error(request, "login", exc, email=email, next=target)
        request.set_cookie(Cookie.PENDING, pending, seconds=_PENDING_SECONDS)
        request.set_cookie(Cookie.RETURN, target, seconds=_PENDING_SECONDS)
        return redirect("/login/code")

    async def code_form(self, request: OperatorRequest) -> Response:
        """`GET /login/code`."""
        if not request.cookie(Cookie.PENDING):
            return redirect("/login")
        return self._pages.show(request, "code", error="")

    async def code(self, request: OperatorRequest) -> Response:
        """`POST /login/code`: opens the session."""
        pending = request.cookie(Cookie.PENDING)
        if not pending:
            return redirect("/login")
        try:
            opened = await self._sessions.complete(
                pending,
                request.text("code"),
                replaced_token=request.token,
                device_token=request.device_token,
                address=request.address,
            )
        except ServiceError as exc:
            if exc.reason == "log_in_expired":
                return self._pages.show_error(request, "login", exc, email="", next=_START)
            return self._pages.show_error(request, "code", exc)
        target = local_path(request.cookie(Cookie.RETURN), otherwise=_START)
        for used in (Cookie.PENDING, Cookie.RETURN):
            request.set_cookie(used, "", seconds=0)
        seconds = opened.session.expires_at - self._pages.now()
        request.open_session(opened.token, opened.device_token, seconds=seconds)
        return redirect(target)

    async def log_out(self, request: OperatorRequest) -> Response:
        """`POST /logout`."""
        if request.token:
            await self._sessions.log_out(request.token, address=request.address)
        request.clear_session()
        return self._pages.confirm(request, "You are logged out.", "/login")
