"""gRPC client of usage webhooks."""

from grpc import aio

from services.common.rpc.status import rpc_errors
from services.common.timestamps import unix_seconds
from services.gateway.apis.usage_webhook import UsageWebhook
from stack.inference.v1 import webhooks_pb2, webhooks_pb2_grpc

_REASON = "inference_unavailable"


class GrpcUsageWebhooks:
    """`UsageWebhooks` over gRPC."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Call over `channel`, with a timeout for each call."""
        self._stub = webhooks_pb2_grpc.UsageWebhookServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def set(self, account_id: str, url: str) -> tuple[UsageWebhook, str]:
        """Create or change the webhook of an account; see `UsageWebhooks.set`."""
        request = webhooks_pb2.SetWebhookRequest(account_id=account_id, url=url)
        with rpc_errors(unavailable_reason=_REASON):
            response = await self._stub.SetWebhook(request, timeout=self._timeout_seconds)
        return usage_webhook_of(response.webhook), response.secret

    async def get(self, account_id: str) -> UsageWebhook:
        """Return the webhook of an account; see `UsageWebhooks.get`."""
        request = webhooks_pb2.GetWebhookRequest(account_id=account_id)
        with rpc_errors(unavailable_reason=_REASON):
            response = await self._stub.GetWebhook(request, timeout=self._timeout_seconds)
        return usage_webhook_of(response.webhook)

    async def delete(self, account_id: str) -> bool:
        """Delete the webhook of an account; see `UsageWebhooks.delete`."""
        request = webhooks_pb2.DeleteWebhookRequest(account_id=account_id)
        with rpc_errors(unavailable_reason=_REASON):
            response = await self._stub.DeleteWebhook(request, timeout=self._timeout_seconds)
        return response.deleted


def usage_webhook_of(webhook: webhooks_pb2.UsageWebhook) -> UsageWebhook:
    """Return the webhook of a message."""
    at = unix_seconds(webhook.next_attempt_at) if webhook.HasField("next_attempt_at") else None
    return UsageWebhook(webhook.id, webhook.url, webhook.next_day, at, webhook.failures, webhook.last_error)
