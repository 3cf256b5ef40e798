"""A bound on how many may wait for the same slow thing; who comes when it is reached is told to try again."""

from collections.abc import Iterator
from contextlib import contextmanager

from services.common.errors import Throttled


class Crowd:
    """Those who wait for one thing. It belongs to one event loop."""

    def __init__(self, waiting_max: int) -> None:
        """Let at most `waiting_max` be in work or in the queue."""
        self._waiting_max = waiting_max
        self._waiting = 0

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Count the block among those who wait.

        Raises:
            Throttled: Too many wait.
        """
        if self._waiting >= self._waiting_max:
            raise Throttled(
                "too many people log in or sign up just now; try again in a moment",
                reason="busy",
                metadata={"retry_after_seconds": "2"},
            )
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
