"""A limit on concurrent calls to a slow operation, in total and per client."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from services.common.errors import ErrorDetails, Throttled

_CLIENT_DIVISOR = 4
"""Divisor for the per-client limit: one client gets at most 1/4 of the slots."""


class Bulkhead:
    """Limits concurrent calls to a slow operation, queued calls included. Bound to one event loop."""

    def __init__(self, slots: int) -> None:
        """Allow at most `slots` calls at a time, and a quarter of that (at least one) per client."""
        self._slots = slots
        self._slots_per_client = max(1, slots // _CLIENT_DIVISOR)
        self._in_use = 0
        self._in_use_by: Counter[str] = Counter()

    @contextmanager
    def enter(self, client: str) -> Iterator[None]:
        """Hold a slot for the duration of the block.

        An empty `client` means unknown: only the total limit applies.

        Raises:
            Throttled: All slots are taken, or this client has reached its limit.
        """
        if self._in_use >= self._slots or (client and self._in_use_by[client] >= self._slots_per_client):
            raise Throttled(
                "Too many people are logging in or signing up. Try again in a moment.",
                reason="busy",
                details=ErrorDetails(retry_after_seconds=2),
            )
        self._in_use += 1
        self._in_use_by[client] += 1
        try:
            yield
        finally:
            self._in_use -= 1
            self._in_use_by[client] -= 1
            if not self._in_use_by[client]:
                del self._in_use_by[client]
