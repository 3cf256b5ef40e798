"""What an owner changes about a key: checks, columns and audit events."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from services.auth.keys.model import Key, KeyUpdate
from services.auth.limits import to_json
from services.common.errors import FailedPrecondition, InvalidRequest
from services.common.limits import Limit


def check_update(key: Key, changes: KeyUpdate, *, at: datetime) -> None:
    """Raise `FailedPrecondition` if the key cannot be changed in this way."""
    if not key.is_active(at):
        raise FailedPrecondition(f"Key {key.id} was revoked or has expired. Create a new one.", reason="key_not_active")
    if "expires_at" in changes.fields and key.replaced_by is not None:
        raise FailedPrecondition(
            f"Key {key.id} was rotated, so its expiry cannot be changed. Change the new key.", reason="key_rotated"
        )


def check_limits(changes: KeyUpdate, granted_daily_limit: int, granted_limits: Sequence[Limit]) -> None:
    """Raise `InvalidRequest` if the owner's limits are above the granted ones, of the plan or of the operator."""
    if changes.owner_daily_limit is not None and changes.owner_daily_limit > granted_daily_limit:
        raise InvalidRequest(
            f"The key may have at most {granted_daily_limit:,} requests a day. Choose a lower limit.",
            reason="invalid_limit",
        )
    granted = {limit.name: limit.limit for limit in granted_limits}
    for limit in changes.owner_limits:
        if limit.limit > granted.get(limit.name, limit.limit):
            raise InvalidRequest(
                f"The limit {limit.name} may be at most {granted[limit.name]:,}. Choose a lower one.",
                reason="invalid_limit",
            )


def columns_of(key: Key, changes: KeyUpdate, *, at: datetime) -> dict[str, Any]:
    """Return the values of the columns that change."""
    values = {
        "name": changes.name,
        "expires_at": changes.expires_at,
        "models": json.dumps(changes.models) if changes.models else None,
        "owner_daily_limit": changes.owner_daily_limit,
        "owner_limits": to_json(changes.owner_limits),
        "paused": (key.paused_at or at) if changes.paused else None,
    }
    return {"paused_at" if name == "paused" else name: values[name] for name in changes.fields}


def events_of(key: Key, changes: KeyUpdate) -> list[tuple[str, dict[str, object]]]:
    """Return the audit events of an owner's changes: action and details. What stays the same has none."""
    fields, events = changes.fields, list[tuple[str, dict[str, object]]]()
    if "name" in fields and changes.name != key.name:
        events.append(("key.renamed", {"name": changes.name}))
    if "expires_at" in fields and changes.expires_at != key.expires_at:
        ends = "never" if changes.expires_at is None else changes.expires_at.isoformat(timespec="seconds")
        events.append(("key.expiry_set", {"expires_at": ends}))
    if "models" in fields and changes.models != key.models:
        events.append(("key.models_set", {"models": ", ".join(changes.models)[:1_000] or "all"}))
    if "owner_daily_limit" in fields and changes.owner_daily_limit != key.owner_daily_limit:
        limit = "the plan's" if changes.owner_daily_limit is None else changes.owner_daily_limit
        events.append(("key.limit_set", {"owner_daily_limit": limit}))
    if "owner_limits" in fields and changes.owner_limits != key.owner_limits:
        events.append(("key.limit_set", {"owner_limits": ", ".join(map(str, changes.owner_limits)) or "the plan's"}))
    if "paused" in fields and changes.paused != (key.paused_at is not None):
        events.append(("key.paused" if changes.paused else "key.resumed", {}))
    return events
