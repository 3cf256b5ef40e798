"""The second factor: the page for a code after a log-in, and its part of the account's log-in methods."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from urllib.parse import parse_qsl, urlencode

from markupsafe import Markup
from starlette.responses import Response

from services.common.errors import ServiceError
from services.common.web.cookies import Cookie
from services.gateway.console.page import Pages, redirect
from services.gateway.console.ports import OpenSession, PendingLogIn
from services.gateway.console.request_context import RequestContext, local_path
from services.gateway.console.totp_ports import TOTPClient, TOTPSecret

_PENDING_SECONDS_MAX = 300
"""Time for which auth accepts a pending log-in."""
_URL_CHARACTERS_MAX = 2_000
"""Characters that fit into a QR code."""
Handler = Callable[[RequestContext], Awaitable[Response]]
_PAGE = "/login/code"
_METHODS = "/account/log-in"


def finish_log_in(context: RequestContext, result: OpenSession | PendingLogIn, target: str, *, now: float) -> Response:
    """Set the session and show `target`, or ask for the code of the second factor first."""
    if isinstance(result, PendingLogIn):
        context.set_cookie(Cookie.PENDING, result.token, seconds=_PENDING_SECONDS_MAX)
        context.set_cookie(Cookie.RETURN, urlencode({"next": target}), seconds=_PENDING_SECONDS_MAX)
        return redirect(_PAGE)
    context.set_session(result, now=now)
    return redirect(target)


class ShowMethods(Protocol):
    """Shows the page of log-in methods with an error."""

    def __call__(self, context: RequestContext, *, error: ServiceError) -> Awaitable[Response]:
        """Return the page."""


class TOTPViews:
    """Handlers of the second factor."""

    def __init__(self, pages: Pages, client: TOTPClient, *, show_methods: ShowMethods) -> None:
        """Show errors of changes with `show_methods`, on the page of log-in methods."""
        self._pages = pages
        self._show_methods = show_methods
        self._client = client

    async def code_form(self, context: RequestContext) -> Response:
        """`GET /login/code`."""
        if not context.cookie(Cookie.PENDING):
            return redirect("/login")
        return self._pages.show(context, "code", error="")

    async def code(self, context: RequestContext) -> Response:
        """`POST /login/code`."""
        pending = context.cookie(Cookie.PENDING)
        if not pending:
            return redirect("/login")
        try:
            opened = await self._client.complete(
                pending,
                context.text("code"),
                replaced_token=context.token,
                device_token=context.device_token,
                address=context.address,
            )
        except ServiceError as exc:
            return self._pages.show_error(context, "code", exc)
        returning = dict(parse_qsl(context.cookie(Cookie.RETURN)))
        for cookie in (Cookie.PENDING, Cookie.RETURN):
            context.set_cookie(cookie, "", seconds=0)
        context.set_session(opened, now=self._pages.now())
        return redirect(local_path(returning.get("next", "")))

    async def enrol(self, context: RequestContext) -> Response:
        """`POST /account/log-in/totp/enrol`: shows a new secret once."""
        try:
            secret = await self._client.enrol(context.token, context.secret("password"), address=context.address)
        except ServiceError as exc:
            return await self._show_methods(context, error=exc)
        return self._show_secret(context, secret, error="")

    async def enable(self, context: RequestContext) -> Response:
        """`POST /account/log-in/totp/enable`. After a wrong code, the secret of the form is shown again."""
        try:
            codes = await self._client.enable(context.token, context.text("code"), address=context.address)
        except ServiceError as exc:
            secret = TOTPSecret(context.text("secret"), context.text("url"))
            if exc.reason != "code_wrong" or not _is_encodable(secret.url):
                return await self._show_methods(context, error=exc)
            return self._show_secret(context, secret, error=exc.message)
        return self._show_codes(context, codes)

    async def disable(self, context: RequestContext) -> Response:
        """`POST /account/log-in/totp/disable`."""
        return await self._change(context, self._disable)

    async def replace_recovery_codes(self, context: RequestContext) -> Response:
        """`POST /account/log-in/totp/recovery-codes`."""
        return await self._change(context, self._replace_recovery_codes)

    async def _change(self, context: RequestContext, change: Handler) -> Response:
        try:
            return await change(context)
        except ServiceError as exc:
            return await self._show_methods(context, error=exc)

    async def _disable(self, context: RequestContext) -> Response:
        await self._client.disable(
            context.token, context.secret("password"), context.text("code"), address=context.address
        )
        return self._pages.confirm(context, "The second factor has been turned off.", _METHODS)

    async def _replace_recovery_codes(self, context: RequestContext) -> Response:
        codes = await self._client.replace_recovery_codes(
            context.token, context.secret("password"), context.text("code"), address=context.address
        )
        return self._show_codes(context, codes)

    def _show_secret(self, context: RequestContext, secret: TOTPSecret, *, error: str) -> Response:
        import segno  # Loaded on use: few owners see this page.

        code = segno.make(secret.url, micro=False)
        picture = Markup(code.svg_inline(light="#fff", svgclass=None, lineclass=None, omitsize=True))
        return self._pages.show(
            context, "totp", status=403 if error else 200, secret=secret, picture=picture, error=error
        )

    def _show_codes(self, context: RequestContext, codes: Sequence[str]) -> Response:
        return self._pages.show(context, "recovery_codes", codes=codes)


def _is_encodable(url: str) -> bool:
    """Return whether a URL fits into a QR code."""
    return 0 < len(url) <= _URL_CHARACTERS_MAX and url.isascii()
