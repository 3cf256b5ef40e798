"""gRPC servicer of UsageAlertService."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from services.common.errors import InvalidRequest
from services.common.rpc.types import Context
from services.common.timestamps import unix_seconds
from services.inference.ledger.checks import ITEMS_MAX, check_id, check_required_id
from services.inference.webhooks.alerts import WebhookAlerts
from stack.inference.v1 import alerts_pb2, alerts_pb2_grpc

_BODY_BYTES_MAX = 8_192
_PAGE_SIZE_DEFAULT = 100
_HOUR_SECONDS = 3_600


class ActiveKeys(Protocol):
    """Port to the ledger's sums."""

    async def active_keys(
        self, first_hour: int, before_day: str, *, after: str, keys_max: int
    ) -> Sequence[tuple[str, str, str]]:
        """Return a page of keys that were used since an hour, by id, with two days on which each was used.

        The first is the last one before `before_day`, or empty, and the second the first one since the hour.

        Raises:
            Unavailable: The ledger cannot be read.
        """


class UsageAlertService(alerts_pb2_grpc.UsageAlertServiceServicer):
    """Lists active keys, and accepts alerts for webhooks."""

    def __init__(self, keys: ActiveKeys, alerts: WebhookAlerts) -> None:
        self._keys = keys
        self._alerts = alerts

    async def ListActiveKeys(
        self, request: alerts_pb2.ListActiveKeysRequest, context: Context
    ) -> alerts_pb2.ListActiveKeysResponse:
        """Return a page of keys that were used since a time."""
        check_id("after", request.after)
        if not 0 <= request.page_size <= ITEMS_MAX:
            raise InvalidRequest(f"page_size: expected 1 to {ITEMS_MAX:,}, or 0, got {request.page_size}")
        hour = int(unix_seconds(request.since) // _HOUR_SECONDS)
        day = datetime.fromtimestamp(hour * _HOUR_SECONDS, UTC).date().isoformat()
        found = await self._keys.active_keys(
            hour, day, after=request.after, keys_max=request.page_size or _PAGE_SIZE_DEFAULT
        )
        keys = [
            alerts_pb2.ActiveKey(key_id=key_id, previous_day=previous, first_day=first)
            for key_id, previous, first in found
        ]
        return alerts_pb2.ListActiveKeysResponse(keys=keys)

    async def SendAlert(self, request: alerts_pb2.SendAlertRequest, context: Context) -> alerts_pb2.SendAlertResponse:
        """Store an alert, which is sent to the account's webhook."""
        check_required_id("account_id", request.account_id)
        check_required_id("alert_id", request.alert_id)
        _check_body(request.body_json)
        accepted = await self._alerts.add(request.account_id, request.alert_id, request.body_json)
        return alerts_pb2.SendAlertResponse(accepted=accepted)


def _check_body(body: bytes) -> None:
    if len(body) > _BODY_BYTES_MAX:
        raise InvalidRequest(f"body_json: expected at most {_BODY_BYTES_MAX:,} bytes, got {len(body):,}")
    try:
        msgspec.json.decode(body, type=dict)
    except msgspec.MsgspecError as exc:
        raise InvalidRequest("body_json: expected a JSON object") from exc
