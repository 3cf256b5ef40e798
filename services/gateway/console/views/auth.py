"""Public pages: landing page, sign-up, log-in, log-out, and the pages of e-mail links."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.responses import Response

from services.common.errors import ServiceError, Throttled
from services.common.readable_email import readable_email
from services.common.runtime.clock import Clock
from services.gateway.console.page import Pages, redirect
from services.gateway.console.ports import SessionClient
from services.gateway.console.request_context import RequestContext, local_path
from services.gateway.console.security.refused_clients import RefusedClients
from services.gateway.console.views.totp import finish_log_in

T = TypeVar("T")

_LOG_IN, _SIGN_UP, _TOKEN = "log-in", "sign-up", "token"
"""Kinds of attempts that auth limits per address: log-ins; sign-ups and requested e-mails; one-time tokens."""
_MAIL_SECONDS = 900
"""How long the page after an e-mail offers to send it again."""
_LAPSED = "Your session has ended. Log in to continue."


class AuthViews:
    """Handlers of pages that require no session."""

    def __init__(self, pages: Pages, session_client: SessionClient, clock: Clock) -> None:
        """Render with `pages` and authenticate with `session_client`."""
        self._pages = pages
        self._session_client = session_client
        self._refused = RefusedClients(clock)

    async def landing(self, context: RequestContext) -> Response:
        """`GET /`."""
        return self._pages.show(context, "landing")

    async def sign_up_form(self, context: RequestContext) -> Response:
        """`GET /signup`, with the token of an invitation in the query if there is one."""
        target = local_path(context.query("next"))
        if context.session_scope:
            return redirect(target)
        invite = context.query("token")
        policy = await self._session_client.describe_sign_up(invite)
        return self._pages.show(context, "signup", sign_up=policy, email="", invite=invite, next=target, error="")

    async def sign_up(self, context: RequestContext) -> Response:
        """`POST /signup`."""
        email, invite, target = context.text("email"), context.text("invite"), local_path(context.text("next"))
        policy = await self._session_client.describe_sign_up(invite)
        try:
            password = context.secret("password")
            opened = await self._try(
                _SIGN_UP,
                context,
                lambda: self._session_client.sign_up(email, password, invite=invite, address=context.address),
            )
        except ServiceError as exc:
            return self._pages.show_error(
                context, "signup", exc, sign_up=policy, email=email, invite=invite, next=target
            )
        if opened is None:
            return self._mail_sent(context, email, "confirm")
        context.set_session(opened, now=self._pages.now())
        return redirect(target)

    async def log_in_form(self, context: RequestContext) -> Response:
        """`GET /login`."""
        target = local_path(context.query("next"))
        if context.session_scope:
            return redirect(target)
        notice = _LAPSED if context.has_lapsed else ""
        return self._pages.show(context, "login", email="", next=target, error="", notice=notice)

    def log_in_again(self, context: RequestContext, target: str) -> Response:
        """Render the log-in page for a form whose session has ended. After the log-in, `target` is shown."""
        notice = f"{_LAPSED} Your input is kept, except for passwords."
        return self._pages.show(context, "login", status=403, email="", next=target, error="", notice=notice)

    async def log_in(self, context: RequestContext) -> Response:
        """`POST /login`. Ends the browser's previous session, even if it belongs to another account."""
        email, target = context.text("email"), local_path(context.text("next"))
        try:
            password = context.secret("password")
            opened = await self._try(
                # Auth does not rate limit known devices by address, and only auth can verify the device token.
                "" if context.device_token else _LOG_IN,
                context,
                lambda: self._session_client.log_in(
                    email,
                    password,
                    replaced_token=context.token,
                    device_token=context.device_token,
                    address=context.address,
                ),
            )
        except ServiceError as exc:
            return self._pages.show_error(context, "login", exc, email=email, next=target, notice="")
        return finish_log_in(context, opened, target, now=self._pages.now())

    async def log_out(self, context: RequestContext) -> Response:
        """`POST /logout`."""
        if context.token:
            await self._session_client.log_out(context.token, address=context.address)
        context.clear_session()
        return self._pages.confirm(context, "You are logged out.", "/")

    async def verify_form(self, context: RequestContext) -> Response:
        """`GET /verify`: a button, since mail clients may open links automatically and a token works only once."""
        token = context.query("token")
        return self._pages.show(context, "verify", token=token, error="")

    async def verify(self, context: RequestContext) -> Response:
        """`POST /verify`."""
        try:
            token = context.text("token")
            email = await self._try(
                _TOKEN, context, lambda: self._session_client.verify_email(token, address=context.address)
            )
        except ServiceError as exc:
            return self._pages.show_error(context, "verify", exc, token="")
        message = f"Your address {readable_email(email)} is confirmed. You can log in now."
        return self._pages.confirm(context, message, "/login")

    async def send_verification(self, context: RequestContext) -> Response:
        """`POST /verify/send`."""
        email = context.text("email")
        try:
            await self._try(
                _SIGN_UP, context, lambda: self._session_client.send_verification(email, address=context.address)
            )
        except ServiceError as exc:
            return self._pages.show_error(context, "verify", exc, token="")
        return self._mail_sent(context, email, "confirm")

    async def mail_sent(self, context: RequestContext) -> Response:
        """`GET /mail-sent`: asks the user to open the link in an e-mail. A reload shows the address again."""
        sent = context.notice(now=self._pages.now())
        return self._pages.show(context, "mail_sent", email=sent.get("email", ""), what=sent.get("what", ""))

    def _mail_sent(self, context: RequestContext, email: str, what: str) -> Response:
        context.notify(now=self._pages.now(), seconds=_MAIL_SECONDS, email=email, what=what)
        return redirect("/mail-sent")

    async def forgot_form(self, context: RequestContext) -> Response:
        """`GET /forgot`."""
        has_mail = (await self._session_client.describe_sign_up("")).has_mail
        return self._pages.show(context, "forgot", email="", has_mail=has_mail, error="")

    async def forgot(self, context: RequestContext) -> Response:
        """`POST /forgot`."""
        email = context.text("email")
        try:
            await self._try(
                _SIGN_UP, context, lambda: self._session_client.send_password_reset(email, address=context.address)
            )
        except ServiceError as exc:
            return self._pages.show_error(
                context, "forgot", exc, email=email, has_mail=exc.reason != "mail_not_configured"
            )
        return self._mail_sent(context, email, "reset")

    async def reset_form(self, context: RequestContext) -> Response:
        """`GET /reset`."""
        token = context.query("token")
        return self._pages.show(context, "reset", token=token, error="")

    async def reset(self, context: RequestContext) -> Response:
        """`POST /reset`."""
        token = context.text("token")
        try:
            password = context.secret("password")
            reset = await self._try(
                _TOKEN, context, lambda: self._session_client.reset_password(token, password, address=context.address)
            )
        except ServiceError as exc:
            return self._pages.show_error(context, "reset", exc, token=token)
        context.remember_device(reset.device_token)
        message = f"The password of {readable_email(reset.email)} has been changed, and all sessions have been ended."
        return self._pages.confirm(context, message, "/login")

    async def _try(self, kind: str, context: RequestContext, ask: Callable[[], Awaitable[T]]) -> T:
        """Call auth, unless it has rate limited this kind of attempt for this client. An empty kind is not limited."""
        if kind:
            self._refused.check(kind, context.client)
        try:
            return await ask()
        except Throttled as exc:
            if kind:
                self._refused.note(kind, context.client, exc)
            raise
