"""Receipts: what an account sees of the ledger row of one of its requests, as JSON and signed."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from services.common.limits import Slot
from services.common.surface import Surface


@dataclass(frozen=True, slots=True)
class ReceiptUsage:
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    """Part of `prompt_tokens`."""
    reasoning_tokens: int
    """Part of `completion_tokens`."""
    source: str
    """`reported` by the upstream, `estimated` from the output received, or `none`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The public part of a ledger row. It contains nothing about the operator's Groq account."""

    object: Literal["usage.record"] = field(default="usage.record", init=False)
    id: str
    key_id: str
    day: str
    """UTC date to which the request is charged, `YYYY-MM-DD`."""
    created_at: str
    """ISO 8601, UTC."""
    model: str
    """The model name in the request, or the model that GATEWAY_MODEL_ALIASES names for it."""
    upstream_model: str | None = None
    """The model that was called, which differs from `model` if that is an alias or had a fallback. None if none was."""
    surface: Surface | None
    """The API through which the request came; None if it is not known."""
    stream: bool
    outcome: str
    charged: bool
    refund_reason: str | None
    """Why the request was not charged; None if it was charged."""
    slot: Slot | None = None
    """Its place among the requests of the limit in requests per day that had the least left when it was reserved; None
    if it is not known. A place becomes free again if its request is not charged."""
    usage: ReceiptUsage
    cost_microdollars: int | None
    """Cost of the tokens in millionths of a US dollar, rounded up, whether the request was charged or not. None if it
    is not known: the model has no price, the outcome is `unknown`, or an earlier version did not record it."""
    cost_usd: str | None
    """The same cost in US dollars, such as `0.001234`."""
    attempts: int
    """Number of upstream calls."""
    time_to_first_token_ms: int | None
    """None if there was no output."""
    duration_ms: int
    queue_ms: int | None = None
    """How long the request waited for its share of the upstream's rate limits; None if it is not known."""


def iso_time(seconds: float) -> str:
    """Return Unix seconds as ISO 8601 in UTC, with milliseconds unless they are zero."""
    milliseconds = round(seconds * 1000)
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC) + timedelta(milliseconds=milliseconds % 1000)
    precision = "milliseconds" if moment.microsecond else "seconds"
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")
