"""Numbers of refused requests of keys, by status, `error.code` and hour.

They are statistics: what is lost or counted twice changes no limit and no charge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.quota.holds import KeyRef

SECONDS_MAX = 7 * 86_400
"""Age of the oldest refusals that are listed."""
OTHER = "other"
"""Code of what is beyond the limit of different codes and hours in a day. Its status is 0."""


@dataclass(frozen=True, slots=True)
class RefusedRequests:
    """A number of requests of one key that were refused for the same reason at about the same time."""

    key: KeyRef
    status: int
    """HTTP status."""
    code: str
    """`error.code`; empty if the error has none."""
    count: int
    age_seconds: int
    """Time since the last of them."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Requests of one key that were refused with one status and code."""

    status: int
    code: str
    last_at: float
    """Unix seconds."""
    hours: Mapping[int, int]
    """Numbers of requests by the hour's start in Unix seconds, in order."""


class RefusalStore(Protocol):
    """Store of the numbers. Methods raise `errors.Unavailable` when it cannot be reached."""

    async def record(self, refusals: Sequence[RefusedRequests]) -> None:
        """Add numbers. A call that raised may have taken effect."""

    async def list(self, keys: Sequence[KeyRef]) -> Sequence[Sequence[Refusal]]:
        """Return what was refused of each key in the last `SECONDS_MAX`, in order."""
