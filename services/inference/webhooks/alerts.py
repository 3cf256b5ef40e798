"""Alerts to webhooks: stored once, sent at least once, and given up after a day."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.common.errors import ServiceError
from services.common.runtime.clock import Clock
from services.inference.metrics import WEBHOOK_ATTEMPTS
from services.inference.responses.encryption import Undecryptable
from services.inference.webhooks.delivery import EventSender
from services.inference.webhooks.events import Event, NotDelivered
from services.inference.webhooks.model import DAY_SECONDS, Webhook, WebhookStore, retry_seconds
from services.inference.webhooks.secrets import WebhookSecrets

_log = logging.getLogger(__name__)
_POLL_SECONDS = 2.0
_LEASE_SECONDS = 120.0
"""Time for one attempt. A replica that dies during an attempt leaves it to another one after that."""
_BATCH = 50
_CONCURRENT_MAX = 8
_RETRIED_SECONDS = 1.0 * DAY_SECONDS
_ALERTS_PER_DAY_MAX = 50
"""Maximum alerts of an account in 24 hours. Auth records fewer."""


@dataclass(frozen=True, slots=True)
class WebhookAlert:
    """An alert for the webhook of an account."""

    id: str
    """Id of the alert and of its event."""
    account_id: str
    body: bytes
    created_at: float
    next_attempt_at: float | None
    """Unix seconds; None if it was delivered or given up."""
    failures: int = 0


class WebhookAlertStore(Protocol):
    """Port to the database. Methods raise `Unavailable` when it cannot be reached."""

    async def add(self, alert: WebhookAlert, *, since: float, count_max: int) -> bool:
        """Store an alert, unless the account has `count_max` from after `since`. Return whether it is stored."""

    async def lease(self, alert: WebhookAlert, *, until: float) -> bool:
        """Move the next attempt of an alert, and return false if another replica did so first."""

    async def finish(self, alert: WebhookAlert) -> None:
        """Store the result of an attempt."""

    async def due(self, now: float, *, count: int) -> Sequence[WebhookAlert]:
        """Return alerts with an attempt at or before `now`, the longest overdue first."""

    async def remove_before(self, created_at: float) -> None:
        """Remove alerts that were created before a time."""


class WebhookAlerts:
    """Accepts alerts, and sends them to the webhooks of their accounts. Several replicas share the work."""

    def __init__(
        self,
        store: WebhookAlertStore,
        webhooks: WebhookStore,
        secrets: WebhookSecrets | None,
        sender: EventSender,
        clock: Clock,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Without `secrets`, there are no webhooks, and no alert is accepted."""
        self._store = store
        self._webhooks = webhooks
        self._secrets = secrets
        self._sender = sender
        self._clock = clock
        self._sleep = sleep
        self._attempts = asyncio.Semaphore(_CONCURRENT_MAX)

    async def add(self, account_id: str, alert_id: str, body: bytes) -> bool:
        """Store an alert to send. Return false if the account has no active webhook, or too many alerts.

        Raises:
            Unavailable: The database cannot be used.
        """
        if self._secrets is None or await self._active(account_id) is None:
            return False
        now = self._clock.now()
        alert = WebhookAlert(alert_id, account_id, body, now, now)
        return await self._store.add(alert, since=now - DAY_SECONDS, count_max=_ALERTS_PER_DAY_MAX)

    async def run(self) -> None:
        """Send alerts until cancelled."""
        while True:
            try:
                count = await self.send_due()
            except ServiceError as exc:
                _log.warning("Alerts for webhooks cannot be read. Retrying.", extra={"reason": exc.reason})
                count = 0
            if not count:
                await self._sleep(_POLL_SECONDS)

    async def send_due(self) -> int:
        """Make one attempt for each alert that is due, up to a number, and return how many were made and stored."""
        now = self._clock.now()
        due = await self._store.due(now, count=_BATCH)
        if not due:
            await self._store.remove_before(now - 3 * DAY_SECONDS)
        return sum(await asyncio.gather(*(self._send(alert) for alert in due)))

    async def _send(self, alert: WebhookAlert) -> bool:
        async with self._attempts:
            try:
                if not await self._store.lease(alert, until=self._clock.now() + _LEASE_SECONDS):
                    return False
                await self._store.finish(await self._attempt(alert))
            except ServiceError as exc:  # The lease ends, and the attempt is repeated.
                _log.warning("An alert for a webhook cannot be stored.", extra=_facts(alert, exc.reason))
                return False
        return True

    async def _attempt(self, alert: WebhookAlert) -> WebhookAlert:
        """Send an alert, and return it as it is then."""
        webhook = await self._active(alert.account_id)
        if webhook is None or self._secrets is None:
            return replace(alert, next_attempt_at=None)
        try:
            secret = self._secrets.open(webhook.secret, webhook.account_id, webhook.id)
            await self._sender.send(webhook.url, Event(alert.id, alert.body, int(self._clock.now())), secret)
        except (NotDelivered, Undecryptable) as exc:
            return self._failed(alert, str(exc))
        WEBHOOK_ATTEMPTS.labels("delivered").inc()
        return replace(alert, next_attempt_at=None)

    def _failed(self, alert: WebhookAlert, error: str) -> WebhookAlert:
        now, failures = self._clock.now(), alert.failures + 1
        is_over = now > alert.created_at + _RETRIED_SECONDS
        _log.info("An alert was not delivered to a webhook.", extra=_facts(alert, error))
        WEBHOOK_ATTEMPTS.labels("disabled" if is_over else "failed").inc()
        return replace(alert, failures=failures, next_attempt_at=None if is_over else now + retry_seconds(failures))

    async def _active(self, account_id: str) -> Webhook | None:
        webhook = await self._webhooks.find(account_id)
        return webhook if webhook is not None and webhook.next_attempt_at is not None else None


def _facts(alert: WebhookAlert, reason: str) -> dict[str, str]:
    return {"alert_id": alert.id, "account_id": alert.account_id, "reason": reason}
