"""A bound on how many calls may be in or wait for the same slow thing, in all and of one client."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from services.common.errors import Throttled

_SHARE = 4
"""One client gets at most this fraction of the places: 1/4."""


class Bulkhead:
    """The places before one slow thing. It belongs to one event loop."""

    def __init__(self, places: int) -> None:
        """Let at most `places` calls in, and a quarter of that of one client."""
        self._places = places
        self._places_per_client = max(1, places // _SHARE)
        self._taken = 0
        self._taken_by: Counter[str] = Counter()

    @contextmanager
    def enter(self, client: str) -> Iterator[None]:
        """Hold a place for the block; a client whose name is empty is not known, and bounded in all only.

        Raises:
            Throttled: All places are taken, or all that this client may have.
        """
        if self._taken >= self._places or (client and self._taken_by[client] >= self._places_per_client):
            raise Throttled(
                "Too many people log in or sign up just now. Try again in a moment.",
                reason="busy",
                metadata={"retry_after_seconds": "2"},
            )
        self._taken += 1
        self._taken_by[client] += 1
        try:
            yield
        finally:
            self._taken -= 1
            self._taken_by[client] -= 1
            if not self._taken_by[client]:
                del self._taken_by[client]
