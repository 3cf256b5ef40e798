"""Events about alerts for webhooks."""

from typing import Any

import msgspec

from services.common.limits import Unit
from services.common.prices import dollars
from services.common.receipts import iso_time
from services.gateway.alerts.model import Alert, AlertKind
from services.gateway.requests.types import RateLimit


def event_body(alert: Alert) -> bytes:
    """Return the JSON of an event, which is the same each time."""
    data: dict[str, Any] = {"id": alert.id, "key_id": alert.key_id or None, "key_name": alert.key_name or None}
    if alert.limit is not None:
        data |= {"period": alert.period, "limit": _limit(alert.limit)}
    elif alert.kind is AlertKind.EXPIRY:
        expires_at, _, days = alert.period.rpartition("/")
        data |= {"expires_at": expires_at.replace("+00:00", "Z"), "days": int(days)}
    else:
        data["day"] = alert.period
    return msgspec.json.encode({"type": f"alert.{alert.kind}", "timestamp": iso_time(alert.created_at), "data": data})


def _limit(limit: RateLimit) -> dict[str, Any]:
    members = {
        "scope": limit.scope.value,
        "unit": limit.unit.value,
        "window": limit.window.value if limit.window else None,
    }
    amounts: dict[str, Any] = {"limit": limit.limit, "used": limit.charged}
    if limit.unit is Unit.COST:
        amounts = {"limit_usd": dollars(limit.limit), "used_usd": dollars(limit.charged)}
    return members | amounts
