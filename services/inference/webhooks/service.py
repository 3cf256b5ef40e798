"""The webhooks of accounts: one each."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime

from services.common.errors import ErrorDetails, NotFound, Unavailable
from services.common.ids import Kind, new_id
from services.common.runtime.clock import Clock
from services.inference.webhooks.model import DAY_SECONDS, Webhook, WebhookStore
from services.inference.webhooks.secrets import WebhookSecrets

MARGIN_SECONDS = 900.0
"""Time after a day's end for its last rows to be written."""
_ATTEMPTS = 5


class Webhooks:
    """Sets and deletes webhooks."""

    def __init__(
        self, store: WebhookStore, secrets: WebhookSecrets | None, check_url: Callable[[str], None], clock: Clock
    ) -> None:
        """Create the service.

        Args:
            store: Stores the webhooks.
            secrets: Encrypts their secrets; None disables webhooks.
            check_url: Raises `InvalidRequest` for a URL that is not permitted.
            clock: The time.
        """
        self._store = store
        self._secrets = secrets
        self._check_url = check_url
        self._clock = clock

    async def set(self, account_id: str, url: str) -> tuple[Webhook, str]:
        """Create the webhook of an account, or change its URL and activate it again.

        Returns the webhook and, if it was created, its secret. It begins with the usage of the current day.

        Raises:
            NotFound: Webhooks are disabled.
            InvalidRequest: The URL is not permitted.
            Unavailable: The database cannot be used.
        """
        secrets = self._enabled()
        self._check_url(url)
        for _ in range(_ATTEMPTS):
            stored = await self._store.find(account_id)
            if stored is None:
                today = datetime.fromtimestamp(self._clock.now(), UTC).date()
                webhook_id = new_id(Kind.WEBHOOK)
                secret, sealed = secrets.create(account_id, webhook_id)
                webhook = Webhook(account_id, webhook_id, url, sealed, today.isoformat(), due_at(today))
                if await self._store.insert(webhook):
                    return webhook, secret
                continue
            at = stored.next_attempt_at
            at = self._clock.now() if at is None or stored.failures else at
            webhook = replace(stored, url=url, failures=0, last_error="", next_attempt_at=at)
            if await self._store.update(webhook, expected=stored):
                return webhook, ""
        raise Unavailable("The webhook is being changed. Try again.", reason="ledger_unavailable")

    async def get(self, account_id: str) -> Webhook:
        """Return the webhook of an account.

        Raises:
            NotFound: Webhooks are disabled, or the account has none (`webhook_not_found`).
        """
        self._enabled()
        webhook = await self._store.find(account_id)
        if webhook is None:
            raise _not_found("The account has no webhook. Set one.", "webhook_not_found")
        return webhook

    async def delete(self, account_id: str) -> bool:
        """Delete the webhook of an account, and return whether there was one."""
        return await self._store.delete(account_id)

    def _enabled(self) -> WebhookSecrets:
        if self._secrets is None:
            text = "This service sends no webhooks. Ask its operator to set INFERENCE_RECEIPT_KEYS."
            raise _not_found(text, "webhooks_disabled")
        return self._secrets


def due_at(day: date) -> float:
    """Return the time from which a day's usage can be sent, in Unix seconds."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() + DAY_SECONDS + MARGIN_SECONDS


def _not_found(message: str, reason: str) -> NotFound:
    return NotFound(message, reason=reason, details=ErrorDetails(code=reason))
