"""Delivery of queued e-mails: retries for one day, then gives up and logs an error."""

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
_POLL_SECONDS = 1.0
_BATCH_SIZE = 4
_CLAIM_DURATION = timedelta(minutes=2)
"""Longer than sending takes. When a process dies, another sends the e-mails it claimed after this time."""
_RETRY_DELAYS = tuple(timedelta(seconds=seconds) for seconds in (5, 30, 120, 600))
"""Delays before the second attempt, the third and so on. The last one repeats."""
_RETRY_FOR = timedelta(days=1)
_CHECK_SECONDS = 60
"""Interval of checks while the mail server is down, so that its recovery is noticed without an e-mail to send."""
_TEST_ID = "test"


class DeliveryFailed(Exception):
    """An e-mail could not be handed to the mail server.

    Attributes:
        cause: Cause for the operator, as a sentence fragment. Contains no part of the e-mail.
        is_final: Whether a retry is pointless.
    """

    def __init__(self, cause: str, *, is_final: bool = False) -> None:
        super().__init__(cause)
        self.cause = cause
        self.is_final = is_final


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Capabilities of a mail server and properties of the connection."""

    server: str
    is_encrypted: bool
    is_verified: bool
    """Whether the server's certificate was verified."""
    is_authenticated: bool
    smtputf8: bool
    """Whether the server supports non-ASCII addresses."""


class Transport(Protocol):
    """Interface for sending e-mails. Methods raise `DeliveryFailed`."""

    @property
    def name(self) -> str:
        """Host and port of the server."""

    async def check(self) -> Capabilities:
        """Connect the same way as for sending, and return the server's capabilities."""

    async def send(self, email: Email, *, email_id: str, at: datetime) -> Capabilities:
        """Send an e-mail, and return the server's capabilities."""


Compose = Callable[[QueuedEmail], Awaitable[Email | None]]
"""Composes a queued e-mail; returns None if there is nothing to send."""


class Mailer:
    """Queues e-mails and sends them."""

    def __init__(self, queue: MailQueue, transport: Transport | None, *, clock: Clock) -> None:
        """Send the e-mails of `queue` through `transport`; None means that mail is not configured."""
        self._queue = queue
        self._transport = transport
        self._clock = clock
        self._added = asyncio.Event()
        self._capabilities: Capabilities | None = None
        self._is_up = True

    @property
    def has_mail(self) -> bool:
        """Whether mail is configured."""
        return self._transport is not None

    @property
    def server_state(self) -> str:
        """State of the mail server after the last attempt: `none` without one, `ok` or `unreachable`."""
        if self._transport is None:
            return "none"
        return "ok" if self._is_up else "unreachable"

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

    async def check_deliverable(self, address: str) -> None:
        """Check that the mail server can send to a normalized address: non-ASCII addresses need SMTPUTF8.

        Does nothing if mail is not configured.

        Raises:
            InvalidRequest: The server does not support non-ASCII addresses.
            Unavailable: The server's capabilities are unknown and it cannot be reached.
        """
        if self._transport is None or not needs_smtputf8(address):
            return
        if self._capabilities is None or not self._capabilities.smtputf8:
            try:
                self._capabilities = await self._transport.check()
            except DeliveryFailed as exc:
                raise Unavailable("The mail server cannot be reached. Try again later.", reason="mail_away") from exc
        if not self._capabilities.smtputf8:
            raise InvalidRequest(
                "The mail server cannot send to addresses with non-ASCII characters before the @. Use another address.",
                reason="address_not_reachable",
            )

    async def add(self, email: QueuedEmail) -> None:
        """Queue an e-mail. Does nothing if mail is not configured. Raises the exceptions of `MailQueue.add`."""
        if self._transport is not None:
            await self._queue.add(email)
            self.notify()

    def notify(self) -> None:
        """Read the queue now, because this process queued an e-mail."""
        self._added.set()

    async def test(self, email: Email | None) -> Capabilities:
        """Connect to the mail server, and send `email` if it is not None.

        Raises:
            FailedPrecondition: Mail is not configured, or delivery failed; the message has the cause.
        """
        transport = self._transport
        if transport is None:
            message = "Mail is not configured: set AUTH_SMTP_URL where auth runs, and restart it."
            raise FailedPrecondition(message, reason="mail_not_configured")
        try:
            if email is None:
                return await transport.check()
            return await transport.send(email, email_id=_TEST_ID, at=utc_now(self._clock))
        except DeliveryFailed as exc:
            raise FailedPrecondition(f"No mail can be sent: {exc.cause}.", reason="mail_undelivered") from exc

    async def run(self, compose: Compose) -> None:
        """Check the mail server once, then send due e-mails until cancelled."""
        if self._transport is None:
            return
        await self._check(self._transport)
        checked_at = self._clock.monotonic()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._added.wait()
            self._added.clear()
            if not self._is_up and self._clock.monotonic() - checked_at >= _CHECK_SECONDS:
                await self._check(self._transport)
                checked_at = self._clock.monotonic()
            try:
                await self._send_due(self._transport, compose)
            except ServiceError as exc:
                _log.warning("The mail queue cannot be read. Trying again.", extra={"reason": exc.reason})

    async def _check(self, transport: Transport) -> None:
        try:
            self._capabilities = await transport.check()
        except DeliveryFailed as exc:
            self._set_server_up(is_up=False)
            _log.error(
                "The mail server check failed, so no e-mail can be sent. Check AUTH_SMTP_URL.", extra={"why": exc.cause}
            )
        else:
            self._set_server_up(is_up=True)
            _log.info(
                "The mail server is reachable.",
                extra={"server": self._capabilities.server, "tls": self._capabilities.is_encrypted},
            )

    async def _send_due(self, transport: Transport, compose: Compose) -> None:
        EMAILS_WAITING.set(await self._queue.waiting())
        while await self._queue.due(utc_now(self._clock)):
            now = utc_now(self._clock)
            claimed = await self._queue.claim(count=_BATCH_SIZE, now=now, until=now + _CLAIM_DURATION)
            async with asyncio.TaskGroup() as tasks:
                for email in claimed:
                    tasks.create_task(self._send_one(transport, compose, email))
            EMAILS_WAITING.set(await self._queue.waiting())

    async def _send_one(self, transport: Transport, compose: Compose, queued: QueuedEmail) -> None:
        try:
            email = await compose(queued)
            if email is not None:
                self._capabilities = await transport.send(email, email_id=queued.id, at=utc_now(self._clock))
                self._set_server_up(is_up=True)
                EMAILS.labels("sent").inc()
            await self._queue.remove(queued)
        except DeliveryFailed as exc:
            self._set_server_up(is_up=exc.is_final)
            await self._retry_or_drop(queued, exc)
        except ServiceError as exc:
            # The database cannot be reached. The claim expires by itself.
            _log.warning(
                "An e-mail is delayed because the database cannot be reached. Trying again.",
                extra={"email_id": queued.id, "reason": exc.reason},
            )
        except Exception:
            # One bad e-mail must neither block the queue nor crash the service in a loop.
            _log.exception("An e-mail could not be composed. Trying again.", extra={"email_id": queued.id})
            await self._retry_or_drop(queued, DeliveryFailed("it could not be composed"))

    def _set_server_up(self, *, is_up: bool) -> None:
        self._is_up = is_up
        MAIL_SERVER_UP.set(is_up)

    async def _retry_or_drop(self, queued: QueuedEmail, failure: DeliveryFailed) -> None:
        context = {"email_id": queued.id, "topic": queued.topic.value, "tries": queued.tries, "why": failure.cause}
        now = utc_now(self._clock)
        with suppress(ServiceError):
            if failure.is_final or now - queued.created_at >= _RETRY_FOR:
                await self._queue.remove(queued)
                EMAILS.labels("refused" if failure.is_final else "given_up").inc()
                _log.error("An e-mail could not be delivered and was dropped.", extra=context)
                return
            wait = _RETRY_DELAYS[min(queued.tries, len(_RETRY_DELAYS)) - 1]
            await self._queue.put_back(queued, next_try_at=now + wait)
            EMAILS.labels("put_back").inc()
            _log.warning("An e-mail could not be delivered. Trying again later.", extra=context)
