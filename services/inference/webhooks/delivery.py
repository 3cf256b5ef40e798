"""Delivery of each day's usage: at least once, retried with growing pauses for a week."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from operator import attrgetter
from typing import Any, Protocol

import msgspec

from services.common.errors import ServiceError
from services.common.prices import dollars
from services.common.receipts import iso_time
from services.common.runtime.clock import Clock
from services.common.runtime.clock_steps import ClockSteps
from services.inference.ledger.writer import UsageSummary
from services.inference.metrics import WEBHOOK_ATTEMPTS
from services.inference.responses.encryption import Undecryptable
from services.inference.webhooks.events import Event, NotDelivered
from services.inference.webhooks.model import FAILURES_MAX, Webhook, WebhookStore, retry_seconds
from services.inference.webhooks.secrets import WebhookSecrets
from services.inference.webhooks.service import due_at

_log = logging.getLogger(__name__)
_POLL_SECONDS = 10.0
_LEASE_SECONDS = 120.0
"""Time for one attempt. A replica that dies during an attempt leaves it to another one after that."""
_STEADY_SECONDS = 3_600.0
_BATCH = 50
_CONCURRENT_MAX = 8
_MODELS_MAX = 1_000
"""Models in an event, since users choose the names. The total counts all of them."""
_TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")


class Summaries(Protocol):
    """Port to the ledger."""

    async def summarize(
        self, key_id: str, *, account_id: str, from_day: str, to_day: str, by_surface: bool = False
    ) -> Sequence[UsageSummary]:
        """Return sums by day and model; see `LedgerStore.summarize`."""


class EventSender(Protocol):
    """Port to the receivers."""

    async def send(self, url: str, event: Event, secret: bytes) -> None:
        """Send an event.

        Raises:
            NotDelivered: It did not arrive.
        """


class Deliveries:
    """Sends the usage of days that are over to the webhooks. Several replicas share the work."""

    def __init__(
        self,
        store: WebhookStore,
        summaries: Summaries,
        secrets: WebhookSecrets,
        sender: EventSender,
        clock: Clock,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._summaries = summaries
        self._secrets = secrets
        self._sender = sender
        self._clock = clock
        self._sleep = sleep
        self._steps = ClockSteps(clock)
        self._attempts = asyncio.Semaphore(_CONCURRENT_MAX)

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            try:
                count = await self.deliver_due()
            except ServiceError as exc:
                _log.warning("Webhooks cannot be read. Retrying.", extra={"reason": exc.reason})
                count = 0
            if not count:
                await self._sleep(_POLL_SECONDS)

    async def deliver_due(self) -> int:
        """Make one attempt for each webhook that is due, up to a number, and return how many were claimed.

        After a step of the clock there are none for an hour: a day that is not over would be sent, and never again.
        """
        if self._steps.steady_seconds() < _STEADY_SECONDS and self._steps.has_stepped:
            return 0
        due = await self._store.due(self._clock.now(), count=_BATCH)
        return sum(await asyncio.gather(*(self._deliver(webhook) for webhook in due)))

    async def _deliver(self, webhook: Webhook) -> bool:
        async with self._attempts:
            leased = replace(webhook, next_attempt_at=self._clock.now() + _LEASE_SECONDS)
            try:
                if not await self._store.update(leased, expected=webhook):
                    return False  # Another replica has it, or it was changed.
                # If it was changed meanwhile, the event is sent again.
                await self._store.update(await self._attempt(leased), expected=leased)
            except ServiceError as exc:
                # The lease ends, and the attempt is repeated.
                _log.warning("A webhook's usage cannot be read or stored.", extra=_facts(webhook, exc.reason))
        return True

    async def _attempt(self, webhook: Webhook) -> Webhook:
        """Send the usage of a day, and return the webhook as it is then."""
        try:
            secret = self._secrets.open(webhook.secret, webhook.account_id, webhook.id)
            await self._sender.send(webhook.url, await self._event(webhook), secret)
        except NotDelivered as exc:
            return self._failed(webhook, str(exc), is_gone=exc.is_gone)
        except Undecryptable:
            message = "The receipt key of the secret was removed. Delete the webhook and set it again."
            return self._failed(webhook, message, is_gone=True)
        WEBHOOK_ATTEMPTS.labels("delivered").inc()
        next_day = date.fromisoformat(webhook.next_day) + timedelta(days=1)
        return replace(
            webhook,
            next_day=next_day.isoformat(),
            next_attempt_at=due_at(next_day),
            failures=0,
            last_error="",
            secret=self._secrets.seal(secret, webhook.account_id, webhook.id),
        )

    def _failed(self, webhook: Webhook, error: str, *, is_gone: bool) -> Webhook:
        now, failures = self._clock.now(), webhook.failures + 1
        is_disabled = is_gone or failures >= FAILURES_MAX
        _log.info("A webhook was not delivered.", extra=_facts(webhook, error))
        WEBHOOK_ATTEMPTS.labels("disabled" if is_disabled else "failed").inc()
        at = None if is_disabled else now + retry_seconds(failures)
        return replace(webhook, failures=failures, last_error=error[:256], next_attempt_at=at)

    async def _event(self, webhook: Webhook) -> Event:
        day, now = webhook.next_day, self._clock.now()
        sums = await self._summaries.summarize("", account_id=webhook.account_id, from_day=day, to_day=day)
        body = {"type": "usage.day", "timestamp": iso_time(now), "data": usage_of_day(day, sums)}
        return Event(f"{webhook.id}-{day}", msgspec.json.encode(body), int(now))


def usage_of_day(day: str, sums: Sequence[UsageSummary]) -> dict[str, Any]:
    """Return the usage of a day as JSON members: the total, and the models with the most tokens."""
    ordered = sorted(sums, key=attrgetter("total_tokens"), reverse=True)
    return {
        "day": day,
        "total": _members(ordered),
        "models": [{"model": one.model, **_members([one])} for one in ordered[:_MODELS_MAX]],
        "models_omitted": max(0, len(ordered) - _MODELS_MAX),
    }


def _members(sums: Sequence[UsageSummary]) -> dict[str, Any]:
    costs = [one.cost for one in sums if one.cost is not None]
    return {
        "requests": sum(one.charged_requests for one in sums),
        "released_requests": sum(one.released_requests for one in sums),
        **{name: sum(getattr(one, name) for one in sums) for name in _TOKENS},
        "cost_microdollars": sum(costs) if costs else None,
        "cost_usd": dollars(sum(costs)) if costs else None,
    }


def _facts(webhook: Webhook, reason: str) -> dict[str, str]:
    return {"webhook_id": webhook.id, "day": webhook.next_day, "reason": reason}
