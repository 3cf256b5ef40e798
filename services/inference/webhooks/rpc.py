"""gRPC servicer of usage webhooks."""

from services.common.rpc.types import Context
from services.common.timestamps import timestamp
from services.inference.ledger.checks import check_required_id
from services.inference.webhooks.model import Webhook
from services.inference.webhooks.service import Webhooks
from stack.inference.v1 import webhooks_pb2, webhooks_pb2_grpc


class UsageWebhookService(webhooks_pb2_grpc.UsageWebhookServiceServicer):
    """Sets, returns and deletes the webhooks of accounts."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    async def SetWebhook(
        self, request: webhooks_pb2.SetWebhookRequest, context: Context
    ) -> webhooks_pb2.SetWebhookResponse:
        """Create the webhook of an account, or change its URL."""
        check_required_id("account_id", request.account_id)
        webhook, secret = await self._webhooks.set(request.account_id, request.url)
        return webhooks_pb2.SetWebhookResponse(webhook=to_proto(webhook), secret=secret)

    async def GetWebhook(
        self, request: webhooks_pb2.GetWebhookRequest, context: Context
    ) -> webhooks_pb2.GetWebhookResponse:
        """Return the webhook of an account."""
        check_required_id("account_id", request.account_id)
        return webhooks_pb2.GetWebhookResponse(webhook=to_proto(await self._webhooks.get(request.account_id)))

    async def DeleteWebhook(
        self, request: webhooks_pb2.DeleteWebhookRequest, context: Context
    ) -> webhooks_pb2.DeleteWebhookResponse:
        """Delete the webhook of an account."""
        check_required_id("account_id", request.account_id)
        return webhooks_pb2.DeleteWebhookResponse(deleted=await self._webhooks.delete(request.account_id))


def to_proto(webhook: Webhook) -> webhooks_pb2.UsageWebhook:
    """Return a webhook as a message, without its secret."""
    at = webhook.next_attempt_at
    return webhooks_pb2.UsageWebhook(
        id=webhook.id,
        url=webhook.url,
        next_day=webhook.next_day,
        next_attempt_at=None if at is None else timestamp(at),
        failures=webhook.failures,
        last_error=webhook.last_error,
    )
