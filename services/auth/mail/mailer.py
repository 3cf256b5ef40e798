"""Sends queued e-mails, retries for one day, then gives up and logs it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from services.auth.accounts.addresses import needs_smtputf8
from services.auth.mail.queue import MailQueue, QueuedEmail
from services.auth.mail.templates import Email
from services.auth.metrics import EMAILS, EMAILS_WAITING, MAIL_SERVER_UP
from services.common.errors import FailedPrecondition, InvalidRequest, ServiceError, Unavailable
from services.common.runtime.clock import Clock, utc_now

_log = logging.getLogger(__name__)
_LOOK_EVERY_SECONDS = 1.0
_AT_ONCE = 4
_CLAIM = timedelta(minutes=2)
"""Longer than sending takes; what a killed process had in its hands is sent by another after that."""
_WAITS = tuple(timedelta(seconds=seconds) for seconds in (5, 30, 120, 600))
"""Before the second try, the third…; the last one again and again."""
_GIVEN_UP_AFTER = timedelta(days=1)
_CHECK_EVERY_SECONDS = 60
"""While the server does not answer, so that it is known when it does again, mail or not."""
_TEST_ID = "test"


class Undelivered(Exception):
    """The mail server did not take an e-mail.

    Attributes:
        why: What is wrong, in words for the operator, without the e-mail.
        is_final: Whether it never will.
    """

    def __init__(self, why: str, *, is_final: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.is_final = is_final


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a mail server can do, and how it was reached."""

    server: str
    is_encrypted: bool
    is_verified: bool
    """Whether its certificate was verified."""
    is_authenticated: bool
    smtputf8: bool
    """Whether it takes addresses beyond ASCII."""


class Transport(Protocol):
    """How e-mails are handed in. Each method raises `Undelivered`."""

    @property
    def name(self) -> str:
        """The server as operators know it."""

    async def check(self) -> Capabilities:
        """Connect as for an e-mail, and return what the server can do."""

    async def send(self, email: Email, *, email_id: str, at: datetime) -> Capabilities:
        """Hand an e-mail in, and return what the server can do."""


Compose = Callable[[QueuedEmail], Awaitable[Email | None]]
"""Writes a queued e-mail as things are now; None when there is nothing to send any more."""


class Mailer:
    """Queues e-mails and sends them."""

    def __init__(self, queue: MailQueue, transport: Transport | None, *, clock: Clock) -> None:
        """Keep e-mails in `queue` and hand them to `transport`; None means that mail is not configured."""
        self._queue = queue
        self._transport = transport
        self._clock = clock
        self._added = asyncio.Event()
        self._known: Capabilities | None = None
        self._is_up = True

    @property
    def has_mail(self) -> bool:
        """Whether e-mails can be sent."""
        return self._transport is not None

    def require_mail(self) -> Transport:
        """Return the transport.

        Raises:
            FailedPrecondition: Mail is not configured.
        """
        if self._transport is None:
            raise FailedPrecondition(
                "Mail is not configured here (AUTH_SMTP_URL). Ask the operator to reset your password.",
                reason="mail_not_configured",
            )
        return self._transport

    async def require_reach(self, address: str) -> None:
        """Return when the mail server takes mail to a normalised address, as far as its name goes.

        Raises:
            InvalidRequest: It does not take addresses beyond ASCII.
            Unavailable: It has to be asked, and does not answer.
        """
        if self._transport is None or not needs_smtputf8(address):
            return
        if self._known is None or not self._known.smtputf8:
            try:
                self._known = await self._transport.check()
            except Undelivered as exc:
                raise Unavailable("The mail server does not answer. Try again later.", reason="mail_away") from exc
        if not self._known.smtputf8:
            raise InvalidRequest(
                "Our mail server cannot send to addresses with characters beyond a-z before the @. Use another one.",
                reason="address_not_reachable",
            )

    async def add(self, email: QueuedEmail) -> None:
        """Queue an e-mail; does nothing without mail. Raises as `MailQueue.add`."""
        if self._transport is not None:
            await self._queue.add(email)
            self.notify()

    def notify(self) -> None:
        """Look into the queue now: something was queued here."""
        self._added.set()

    async def test(self, email: Email | None) -> Capabilities:
        """Connect to the mail server, and hand in an e-mail if one is given.

        Raises:
            FailedPrecondition: Mail is not configured, or the server does not take it; the message says why.
        """
        transport = self._transport
        if transport is None:
            message = "Mail is not configured: set AUTH_SMTP_URL where auth runs, and restart it."
            raise FailedPrecondition(message, reason="mail_not_configured")
        try:
            if email is None:
                return await transport.check()
            return await transport.send(email, email_id=_TEST_ID, at=utc_now(self._clock))
        except Undelivered as exc:
            raise FailedPrecondition(f"No mail can be sent: {exc.why}.", reason="mail_undelivered") from exc

    async def run(self, compose: Compose) -> None:
        """Check the mail server once, then send what is due until cancelled."""
        if self._transport is None:
            return
        await self._check(self._transport)
        checked_at = self._clock.monotonic()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_SECONDS):
                    await self._added.wait()
            self._added.clear()
            if not self._is_up and self._clock.monotonic() - checked_at >= _CHECK_EVERY_SECONDS:
                await self._check(self._transport)
                checked_at = self._clock.monotonic()
            try:
                await self._send_due(self._transport, compose)
            except ServiceError as exc:
                _log.warning("the mail queue cannot be read", extra={"reason": exc.reason})

    async def _check(self, transport: Transport) -> None:
        try:
            self._known = await transport.check()
        except Undelivered as exc:
            self._note(is_up=False)
            _log.error("no mail can be sent", extra={"why": exc.why})
        else:
            self._note(is_up=True)
            _log.info("the mail server answers", extra={"server": self._known.server, "tls": self._known.is_encrypted})

    async def _send_due(self, transport: Transport, compose: Compose) -> None:
        EMAILS_WAITING.set(await self._queue.waiting())
        while await self._queue.due(utc_now(self._clock)):
            now = utc_now(self._clock)
            claimed = await self._queue.claim(count=_AT_ONCE, now=now, until=now + _CLAIM)
            async with asyncio.TaskGroup() as tasks:
                for email in claimed:
                    tasks.create_task(self._send_one(transport, compose, email))
            EMAILS_WAITING.set(await self._queue.waiting())

    async def _send_one(self, transport: Transport, compose: Compose, queued: QueuedEmail) -> None:
        try:
            email = await compose(queued)
            if email is not None:
                self._known = await transport.send(email, email_id=queued.id, at=utc_now(self._clock))
                self._note(is_up=True)
                EMAILS.labels("sent").inc()
            await self._queue.remove(queued)
        except Undelivered as exc:
            self._note(is_up=exc.is_final)
            await self._try_later(queued, exc)
        except ServiceError as exc:
            # The database is away; the claim runs out by itself.
            _log.warning("an e-mail waits", extra={"email_id": queued.id, "reason": exc.reason})
        except Exception:
            # One bad e-mail must neither block the queue nor crash the service in a loop.
            _log.exception("an e-mail cannot be written", extra={"email_id": queued.id})
            await self._try_later(queued, Undelivered("it cannot be written"))

    def _note(self, *, is_up: bool) -> None:
        self._is_up = is_up
        MAIL_SERVER_UP.set(is_up)

    async def _try_later(self, queued: QueuedEmail, failure: Undelivered) -> None:
        context = {"email_id": queued.id, "topic": queued.topic.value, "tries": queued.tries, "why": failure.why}
        now = utc_now(self._clock)
        with suppress(ServiceError):
            if failure.is_final or now - queued.created_at >= _GIVEN_UP_AFTER:
                await self._queue.remove(queued)
                EMAILS.labels("refused" if failure.is_final else "given_up").inc()
                _log.error("an e-mail is given up", extra=context)
                return
            wait = _WAITS[min(queued.tries, len(_WAITS)) - 1]
            await self._queue.put_back(queued, next_try_at=now + wait)
            EMAILS.labels("put_back").inc()
            _log.warning("an e-mail was not taken and is tried again", extra=context)
