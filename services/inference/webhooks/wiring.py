"""Usage webhooks from inference's settings."""

from contextlib import AsyncExitStack

from services.common.runtime.clock import SystemClock
from services.common.runtime.tasks import restarting, running
from services.inference.ledger.store import SQLLedgerStore
from services.inference.receipts.wiring import receipt_key_texts
from services.inference.settings import InferenceSettings
from services.inference.webhooks.addresses import AddressPolicy
from services.inference.webhooks.alert_store import SQLWebhookAlertStore
from services.inference.webhooks.alerts import WebhookAlerts
from services.inference.webhooks.delivery import Deliveries
from services.inference.webhooks.secrets import WebhookSecrets
from services.inference.webhooks.sender import Sender
from services.inference.webhooks.service import Webhooks
from services.inference.webhooks.store import SQLWebhookStore


async def open_webhooks(
    settings: InferenceSettings, ledger: SQLLedgerStore, stack: AsyncExitStack
) -> tuple[Webhooks, WebhookAlerts]:
    """Return the webhooks and the alerts to them, and deliver to them as long as `stack` lives.

    They are disabled without a receipt key.

    Raises:
        StartError: The file of the receipt key cannot be used.
    """
    keys, policy, clock = receipt_key_texts(settings), AddressPolicy(settings.webhook_networks), SystemClock()
    store = SQLWebhookStore(ledger.transactions)
    secrets = WebhookSecrets(keys) if keys else None
    sender = Sender(policy)
    alerts = WebhookAlerts(SQLWebhookAlertStore(ledger.transactions), store, secrets, sender, clock)
    if secrets is not None:
        deliveries = Deliveries(store, ledger, secrets, sender, clock)
        for deliver in (deliveries.run, alerts.run):
            await stack.enter_async_context(running(restarting(deliver)))
    return Webhooks(store, secrets, policy.check_url, clock), alerts
