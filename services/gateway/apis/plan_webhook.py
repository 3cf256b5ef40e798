"""The endpoint that receives plan events of a payment provider.

The gateway only passes them on: auth has the secrets, so a gateway cannot move accounts to plans by itself.
"""

from typing import Protocol

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from services.common.concurrency.byte_budget import ByteBudget
from services.common.errors import NotFound
from services.gateway.http.bearer import client_address
from services.gateway.http.request_bodies import RequestBodies
from services.gateway.http.responses import json_response

_BODY_BYTES_MAX = 65_536
_BODIES_BYTES_MAX = 1_048_576
_OWNER = "plan events"
_DISABLED = "plan_webhook_disabled"
_encode = msgspec.json.Encoder().encode


class PlanEvents(Protocol):
    """Applies plan events."""

    async def receive(self, body: bytes, *, webhook_id: str, timestamp: str, signature: str, address: str) -> str:
        """Apply a signed event and return what became of it: `applied`, `duplicate`, `stale` or `ignored`.

        Raises:
            NotFound: Plan events are disabled (`plan_webhook_disabled`), or there is no such account or plan.
            PermissionDenied: The signature is invalid.
            InvalidRequest: The body is not a plan event.
            Unavailable: Auth cannot be reached.
        """


class PlanWebhook:
    """The endpoint of plan events."""

    def __init__(self, plan_events: PlanEvents) -> None:
        self._plan_events = plan_events
        budget = ByteBudget(total_max=_BODIES_BYTES_MAX, share_max=_BODIES_BYTES_MAX)
        self._bodies = RequestBodies(budget, bytes_max=_BODY_BYTES_MAX, remedy="Send one plan event.")

    async def receive(self, request: Request) -> Response:
        """`POST /api/v1/webhooks/plan`: 404 as for an unknown path unless the operator has set a secret."""
        body = await self._bodies.read(request, _OWNER)
        webhook_id = request.headers.get("webhook-id", "")
        try:
            status = await self._plan_events.receive(
                body,
                webhook_id=webhook_id,
                timestamp=request.headers.get("webhook-timestamp", ""),
                signature=request.headers.get("webhook-signature", ""),
                address=client_address(request),
            )
        except NotFound as exc:
            if exc.reason == _DISABLED:
                raise HTTPException(404) from exc
            raise
        return json_response(_encode({"object": "plan_event", "id": webhook_id, "status": status}))
