"""Log-in with identity providers, and the account's page of log-in methods."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.responses import RedirectResponse, Response

from services.common.errors import ServiceError
from services.common.web.cookies import Cookie
from services.gateway.console.identity_ports import AuthorizationAnswer, IdentityClient
from services.gateway.console.page import Pages, redirect
from services.gateway.console.providers import ProviderCache
from services.gateway.console.request_context import RequestContext, local_path
from services.gateway.console.totp_ports import TOTPClient
from services.gateway.console.views.totp import finish_log_in
from services.gateway.http.errors import http_error

_SECONDS_MAX = 600
"""Time for which auth accepts an answer of a provider."""
_METHODS = "/account/log-in"
_CANCELLED = "The log-in was cancelled. Try again, or log in with your password."
_OTHER_BROWSER = "The log-in was not started in this browser, or took longer than ten minutes. Start it again."
_FAILED = "The provider did not complete the log-in. Try again, or log in with your password."


class IdentityViews:
    """Handlers of log-ins with providers, and of links."""

    def __init__(self, pages: Pages, client: IdentityClient, totp_client: TOTPClient, providers: ProviderCache) -> None:
        self._pages = pages
        self._totp_client = totp_client
        self._client = client
        self._providers = providers

    def with_buttons(
        self, handler: Callable[[RequestContext], Awaitable[Response]]
    ) -> Callable[[RequestContext], Awaitable[Response]]:
        """Return a handler that reads the providers before it shows its page."""

        async def handle(context: RequestContext) -> Response:
            await self._providers.refresh()
            return await handler(context)

        return handle

    async def start(self, context: RequestContext) -> Response:
        """`GET /login/{provider}`: redirects to the provider. Only a cookie changes, so it is no form."""
        target = local_path(context.query("next"))
        if context.session_scope:
            return redirect(target)
        provider = context.request.path_params["provider"]
        try:
            authorization = await self._client.authorize_log_in(provider, address=context.address)
        except ServiceError as exc:
            return self._log_in_page(context, exc.message, target, status=http_error(exc, now=self._pages.now()).status)
        returning = {"next": target, "invite": context.query("invite")}
        _remember(context, authorization.state_token, returning)
        return RedirectResponse(authorization.url, status_code=303)

    async def callback(self, context: RequestContext) -> Response:
        """`GET /login/{provider}/callback`: where the provider sends the browser back to."""
        returning, answer = _returning(context), _answer(context)
        _forget(context)
        if "link" in returning:
            return await self._link(context, answer)
        target = local_path(returning.get("next", ""))
        if context.query("error") or not answer.state_token:
            return self._log_in_page(context, _message(context), target, status=403)
        try:
            opened = await self._client.log_in(
                answer,
                invite=returning.get("invite", ""),
                replaced_token=context.token,
                device_token=context.device_token,
                address=context.address,
            )
        except ServiceError as exc:
            return self._log_in_page(context, exc.message, target, status=http_error(exc, now=self._pages.now()).status)
        return finish_log_in(context, opened, target, now=self._pages.now())

    async def methods(self, context: RequestContext) -> Response:
        """`GET /account/log-in`."""
        return await self.show_methods(context)

    async def start_link(self, context: RequestContext) -> Response:
        """`POST /account/log-in/{provider}/link`.

        The page leads to the provider itself: browsers do not follow a redirect from a form to another site, which the
        content security policy forbids.
        """
        provider = context.request.path_params["provider"]
        try:
            authorization = await self._client.authorize_link(
                context.token, provider, context.secret("password"), address=context.address
            )
        except ServiceError as exc:
            return await self.show_methods(context, error=exc)
        _remember(context, authorization.state_token, {"link": "1"})
        return self._pages.show(context, "continue", url=authorization.url)

    async def unlink(self, context: RequestContext) -> Response:
        """`POST /account/log-in/identities/{id}/unlink`."""
        try:
            await self._client.unlink(
                context.token, context.request.path_params["id"], context.secret("password"), address=context.address
            )
        except ServiceError as exc:
            return await self.show_methods(context, error=exc)
        return self._pages.confirm(context, "The identity has been unlinked.", _METHODS)

    async def _link(self, context: RequestContext, answer: AuthorizationAnswer) -> Response:
        if context.session_scope is None:
            return redirect(f"/login?next={_METHODS}")
        if context.query("error"):
            return await self.show_methods(context, message=_message(context))
        try:
            await self._client.link(context.token, answer, address=context.address)
        except ServiceError as exc:
            return await self.show_methods(context, error=exc)
        return self._pages.confirm(context, "The identity has been linked.", _METHODS)

    def _log_in_page(self, context: RequestContext, message: str, target: str, *, status: int) -> Response:
        # 401 is reserved for HTTP authentication and requires a `www-authenticate` header.
        status = 403 if status == 401 else status
        return self._pages.show(context, "login", status=status, email="", next=target, error=message, notice="")

    async def show_methods(
        self, context: RequestContext, *, error: ServiceError | None = None, message: str = ""
    ) -> Response:
        """Return the page of log-in methods, with an error if there is one."""
        await self._providers.refresh()
        listed = await self._client.identities(context.token)
        labels = {provider.name: provider.label for provider in self._providers.known()}
        variables: dict[str, Any] = {
            "identities": listed.identities,
            "has_password": listed.has_password,
            "labels": labels,
            "totp": await self._totp_client.state(context.token),
        }
        status = 200 if error is None else http_error(error, now=self._pages.now()).status
        text = message if error is None else error.message
        return self._pages.show(context, "log_in_methods", status=status, error=text, **variables)


def _remember(context: RequestContext, state_token: str, returning: Mapping[str, str]) -> None:
    context.set_cookie(Cookie.STATE, state_token, seconds=_SECONDS_MAX)
    kept = {name: text for name, text in returning.items() if text}
    context.set_cookie(Cookie.RETURN, urlencode(kept), seconds=_SECONDS_MAX)


def _forget(context: RequestContext) -> None:
    context.set_cookie(Cookie.STATE, "", seconds=0)
    context.set_cookie(Cookie.RETURN, "", seconds=0)


def _returning(context: RequestContext) -> Mapping[str, str]:
    """Return where the user comes from: the page to show next, an invitation, or a link."""
    return dict(parse_qsl(context.cookie(Cookie.RETURN)))


def _answer(context: RequestContext) -> AuthorizationAnswer:
    return AuthorizationAnswer(
        context.request.path_params["provider"],
        context.cookie(Cookie.STATE),
        context.query("state"),
        context.query("code"),
        context.query("iss"),
    )


def _message(context: RequestContext) -> str:
    """Return the text for an error of the provider, whose own text comes from the URL and is not shown."""
    if not context.query("error"):
        return _OTHER_BROWSER
    return _CANCELLED if context.query("error") == "access_denied" else _FAILED
