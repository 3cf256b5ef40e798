"""Columns of an export of ledger rows."""

from collections.abc import Mapping
from typing import Any

from services.common.receipts import iso_time
from services.common.rpc.limits import slot_from_proto
from services.common.rpc.surface import surface_from_proto
from stack.inference.v1 import usage_pb2

_TEXTS = ("request_id", "account_id", "key_id", "day", "model", "upstream_model", "outcome", "refund_reason")
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")
COLUMNS: Mapping[str, type] = {
    **dict.fromkeys(("request_id", "account_id", "key_id", "day"), str),
    "reserved_at": float,
    **dict.fromkeys(("model", "upstream_model", "surface"), str),
    "stream": bool,
    "outcome": str,
    "charged": bool,
    "refund_reason": str,
    **dict.fromkeys(_COUNTS, int),
    "usage_source": str,
    "cost_microdollars": int,
    "slot_number": int,
    "slot_limit": int,
    "slot_scope": str,
    "upstream_id": str,
    **dict.fromkeys(("attempts", "time_to_first_token_ms", "duration_ms", "queue_ms"), int),
}
"""Names and types. `reserved_at` is in Unix seconds, and a time in the files."""
_SAME_NAMES = (*_TEXTS, *_COUNTS, "stream", "charged", "usage_source", "upstream_id", "attempts", "duration_ms")
Row = Mapping[str, Any]
"""Values by column. None means that the value is not known, or that there is none."""


def row_of(record: usage_pb2.UsageRecord) -> Row:
    """Return a ledger row by column."""
    slot = slot_from_proto(record.slot)
    values: dict[str, Any] = {name: getattr(record, name) for name in _SAME_NAMES}
    values |= {
        "reserved_at": record.reserved_at.ToMilliseconds() / 1000,
        "surface": surface_from_proto(record.surface),
        "cost_microdollars": record.cost if record.HasField("cost") else None,
        "slot_number": slot and slot.number,
        "slot_limit": slot and slot.limit,
        "slot_scope": slot and slot.scope.value,
        "time_to_first_token_ms": record.time_to_first_token_ms or None,
        "queue_ms": record.queue_ms if record.HasField("queue_ms") else None,
    }
    return {name: values[name] for name in COLUMNS}


def with_time_as_text(row: Row) -> dict[str, Any]:
    """Return a row with `reserved_at` in ISO 8601."""
    return {**row, "reserved_at": iso_time(row["reserved_at"])}
