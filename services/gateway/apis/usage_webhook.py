"""`/api/v1/usage/webhook`: the URL to which the account's usage of each day is sent.

Inference stores it and sends the events. The gateway passes on what the owner sets.
"""

from dataclasses import dataclass
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from services.common.concurrency.byte_budget import ByteBudget
from services.common.errors import ErrorDetails, InvalidRequest
from services.common.receipts import iso_time
from services.gateway.http.bearer import bearer_token, client_address
from services.gateway.http.request_bodies import RequestBodies
from services.gateway.http.responses import json_response
from services.gateway.requests.ports import Authenticator

_BODY_BYTES_MAX = 8_192
_BODIES_BYTES_MAX = 1_048_576
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class UsageWebhook:
    """The webhook of an account."""

    id: str
    url: str
    next_day: str
    """First UTC date whose usage is not delivered yet."""
    next_attempt_at: float | None
    """Unix seconds; None if it is disabled after too many failures."""
    failures: int
    last_error: str


class UsageWebhooks(Protocol):
    """Port to inference's usage webhooks. Methods raise `NotFound` (`webhooks_disabled`) if it sends none."""

    async def set(self, account_id: str, url: str) -> tuple[UsageWebhook, str]:
        """Create the webhook of an account, or change its URL. Return it and, if it was created, its secret.

        Raises:
            InvalidRequest: The URL is not permitted.
        """

    async def get(self, account_id: str) -> UsageWebhook:
        """Return the webhook of an account.

        Raises:
            NotFound: There is none.
        """

    async def delete(self, account_id: str) -> bool:
        """Delete the webhook of an account, and return whether there was one."""


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    url: str


class UsageWebhookEndpoint:
    """The endpoint of an account's webhook."""

    def __init__(self, authenticator: Authenticator, webhooks: UsageWebhooks) -> None:
        self._authenticator = authenticator
        self._webhooks = webhooks
        budget = ByteBudget(total_max=_BODIES_BYTES_MAX, share_max=_BODIES_BYTES_MAX // 4)
        self._bodies = RequestBodies(budget, bytes_max=_BODY_BYTES_MAX, remedy="Send only the `url`.")

    async def one(self, request: Request) -> Response:
        """Return, set (POST) or delete the webhook."""
        principal = await self._authenticator.authenticate(bearer_token(request), address=client_address(request))
        account_id = principal.account_id
        if request.method == "DELETE":
            deleted = await self._webhooks.delete(account_id)
            return json_response(_encode({"object": "usage.webhook", "deleted": deleted}))
        if request.method == "POST":
            body = await self._bodies.read(request, principal.key_id)
            webhook, secret = await self._webhooks.set(account_id, _url(body))
            return json_response(_encode(_members(webhook) | ({"secret": secret} if secret else {})))
        return json_response(_encode(_members(await self._webhooks.get(account_id))))


def _url(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Body).url
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        message = 'Expected a JSON object like {"url": "https://example.com/usage"}.'
        raise InvalidRequest(message, details=ErrorDetails(param="url")) from exc


def _members(webhook: UsageWebhook) -> dict[str, object]:
    at = webhook.next_attempt_at
    status = "disabled" if at is None else "failing" if webhook.failures else "active"
    return {
        "object": "usage.webhook",
        "id": webhook.id,
        "url": webhook.url,
        "status": status,
        "next_day": webhook.next_day,
        "next_attempt_at": None if at is None else iso_time(at),
        "failures": webhook.failures,
        "last_error": webhook.last_error or None,
    }
