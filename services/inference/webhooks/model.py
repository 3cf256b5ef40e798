"""Types and ports of usage webhooks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

DAY_SECONDS = 86_400
_RETRY_SECONDS, _RETRY_SECONDS_MAX = 60.0, 6 * 3_600.0
FAILURES_MAX = 37
"""Failures in a row after which a webhook is disabled. The pauses between them add up to a week."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """The webhook of an account."""

    account_id: str
    id: str
    url: str
    secret: bytes = field(repr=False)
    """Secret of signatures, encrypted."""
    next_day: str
    """First UTC date whose usage is not delivered yet, `YYYY-MM-DD`."""
    next_attempt_at: float | None
    """Unix seconds; None if the webhook is disabled after too many failures."""
    failures: int = 0
    """Failed attempts since the last delivery."""
    last_error: str = ""
    """Why the last attempt failed; empty after a delivery."""


class WebhookStore(Protocol):
    """Port to the database. Methods raise `Unavailable` when it cannot be reached."""

    async def insert(self, webhook: Webhook) -> bool:
        """Store a webhook, and return false if its account has one already."""

    async def update(self, webhook: Webhook, *, expected: Webhook) -> bool:
        """Replace a webhook, and return false if it is not as expected any more."""

    async def find(self, account_id: str) -> Webhook | None:
        """Return the webhook of an account, or None if there is none."""

    async def delete(self, account_id: str) -> bool:
        """Delete the webhook of an account, and return whether there was one."""

    async def due(self, now: float, *, count: int) -> Sequence[Webhook]:
        """Return webhooks with an attempt at or before `now`, the longest overdue first."""


def retry_seconds(failures: int) -> float:
    """Return the pause after a number of failures."""
    return min(_RETRY_SECONDS * 2.0 ** (min(failures, 20) - 1), _RETRY_SECONDS_MAX)
