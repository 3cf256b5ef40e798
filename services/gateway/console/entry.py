"""The way in: landing page, sign up, log in and out, and the links of e-mails."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.responses import Response

from services.common.clock import Clock
from services.common.errors import ServiceError, Throttled
from services.gateway.console.owner import Door
from services.gateway.console.page import Pages, go
from services.gateway.console.refused_clients import RefusedClients
from services.gateway.console.sign_up_facts import SignUpFacts
from services.gateway.console.visit import Visit, own_path

T = TypeVar("T")

_LOG_IN, _SIGN_UP, _TOKEN = "log-in", "sign-up", "token"
"""Kinds of tries that auth counts for each address: log-ins, sign-ups and requested e-mails, one-time tokens."""
_LAPSED = "Your session has ended. Log in to go on."


class Entry:
    """Pages for who has not come in."""

    def __init__(self, pages: Pages, door: Door, clock: Clock) -> None:
        """Let people in through `door`."""
        self._pages = pages
        self._door = door
        self._refused = RefusedClients(clock)
        self._facts = SignUpFacts(door, clock)

    async def landing(self, visit: Visit) -> Response:
        """`GET /`."""
        return self._pages.show(visit, "landing", daily_limit=await self._facts.daily_limit())

    async def docs(self, visit: Visit) -> Response:
        """`GET /docs`."""
        return self._pages.show(visit, "docs", daily_limit=await self._facts.daily_limit())

    async def sign_up_form(self, visit: Visit) -> Response:
        """`GET /signup`; an invitation's letter or link carries its token."""
        if visit.belongings:
            return go("/keys")
        invite = visit.query("token")
        policy = await self._door.describe_sign_up(invite)
        return self._pages.show(visit, "signup", sign_up=policy, email="", invite=invite, error="")

    async def sign_up(self, visit: Visit) -> Response:
        """`POST /signup`."""
        email, invite = visit.text("email"), visit.text("invite")
        policy = await self._door.describe_sign_up(invite)
        try:
            password = visit.secret("password")
            opened = await self._try(
                _SIGN_UP,
                visit,
                lambda: self._door.sign_up(email, password, invite=invite, address=visit.address),
            )
        except ServiceError as exc:
            return self._pages.refuse(visit, "signup", exc, sign_up=policy, email=email, invite=invite)
        if opened is None:
            return self._pages.show(visit, "mail_sent", email=email, what="confirm")
        visit.come_in(opened, now=self._pages.now())
        return go("/keys")

    async def log_in_form(self, visit: Visit) -> Response:
        """`GET /login`."""
        target = own_path(visit.query("next"))
        if visit.belongings:
            return go(target)
        notice = _LAPSED if visit.has_lapsed else ""
        return self._pages.show(visit, "login", email="", next=target, error="", notice=notice)

    def log_in_again(self, visit: Visit, target: str) -> Response:
        """Return the log-in in place of the answer to a form whose session has ended; it leads back to `target`."""
        notice = f"{_LAPSED} What you typed is kept, but for passwords."
        return self._pages.show(visit, "login", status=403, email="", next=target, error="", notice=notice)

    async def log_in(self, visit: Visit) -> Response:
        """`POST /login`; the session that the browser had ends, whoever's it was."""
        email, target = visit.text("email"), own_path(visit.text("next"))
        try:
            password = visit.secret("password")
            opened = await self._try(
                # A device that auth knows is not counted with its address, and only auth knows it.
                "" if visit.device_token else _LOG_IN,
                visit,
                lambda: self._door.log_in(
                    email,
                    password,
                    replaced_token=visit.token,
                    device_token=visit.device_token,
                    address=visit.address,
                ),
            )
        except ServiceError as exc:
            return self._pages.refuse(visit, "login", exc, email=email, next=target, notice="")
        visit.come_in(opened, now=self._pages.now())
        return go(target)

    async def log_out(self, visit: Visit) -> Response:
        """`POST /logout`."""
        if visit.token:
            await self._door.log_out(visit.token, address=visit.address)
        visit.go_out()
        return go("/")

    async def verify_form(self, visit: Visit) -> Response:
        """`GET /verify`: a button, since mail programs open links by themselves and a token works once."""
        token = visit.query("token")
        return self._pages.show(visit, "verify", token=token, email="", error="")

    async def verify(self, visit: Visit) -> Response:
        """`POST /verify`."""
        try:
            token = visit.text("token")
            email = await self._try(_TOKEN, visit, lambda: self._door.verify_email(token, address=visit.address))
        except ServiceError as exc:
            return self._pages.refuse(visit, "verify", exc, token="", email="")
        return self._pages.show(visit, "verify", token="", email=email, error="")

    async def send_verification(self, visit: Visit) -> Response:
        """`POST /verify/send`."""
        email = visit.text("email")
        try:
            await self._try(_SIGN_UP, visit, lambda: self._door.send_verification(email, address=visit.address))
        except ServiceError as exc:
            return self._pages.refuse(visit, "verify", exc, token="", email="")
        return self._pages.show(visit, "mail_sent", email=email, what="confirm")

    async def forgot_form(self, visit: Visit) -> Response:
        """`GET /forgot`."""
        has_mail = (await self._door.describe_sign_up("")).has_mail
        return self._pages.show(visit, "forgot", email="", has_mail=has_mail, error="")

    async def forgot(self, visit: Visit) -> Response:
        """`POST /forgot`."""
        email = visit.text("email")
        try:
            await self._try(_SIGN_UP, visit, lambda: self._door.send_password_reset(email, address=visit.address))
        except ServiceError as exc:
            return self._pages.refuse(visit, "forgot", exc, email=email, has_mail=exc.reason != "mail_not_configured")
        return self._pages.show(visit, "mail_sent", email=email, what="reset")

    async def reset_form(self, visit: Visit) -> Response:
        """`GET /reset`."""
        token = visit.query("token")
        return self._pages.show(visit, "reset", token=token, email="", error="")

    async def reset(self, visit: Visit) -> Response:
        """`POST /reset`."""
        token = visit.text("token")
        try:
            password = visit.secret("password")
            reset = await self._try(
                _TOKEN, visit, lambda: self._door.reset_password(token, password, address=visit.address)
            )
        except ServiceError as exc:
            return self._pages.refuse(visit, "reset", exc, token=token, email="")
        visit.know_device(reset.device_token)
        return self._pages.show(visit, "reset", token="", email=reset.email, error="")

    async def _try(self, kind: str, visit: Visit, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask auth, unless it has refused this client's tries of a kind; an empty kind is always asked."""
        if kind:
            self._refused.check(kind, visit.client)
        try:
            return await ask()
        except Throttled as exc:
            if kind:
                self._refused.note(kind, visit.client, exc)
            raise
