"""A bound on the bytes that many requests hold together."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from services.common.errors import Throttled, Unavailable
from services.common.runtime.memory import Trimmer

_RETRY = {"retry_after_seconds": "1"}


class ByteBudget:
    """Counts bytes in total and for each owner, and refuses what is over either bound."""

    def __init__(self, *, total_max: int, share_max: int) -> None:
        """Admit `total_max` bytes in total, and `share_max` of each owner."""
        self._total_max = total_max
        self._share_max = share_max
        self._total = 0
        self._shares: Counter[str] = Counter()
        self._trimmer = Trimmer()

    @property
    def total(self) -> int:
        """Bytes that count now."""
        return self._total

    @contextmanager
    def lease(self, owners: Sequence[str]) -> Iterator["Lease"]:
        """Count what is taken from the lease until the end of the block.

        Args:
            owners: Whose bytes they are, such as a key and an address; they count for each.
        """
        lease = Lease(self, owners)
        try:
            yield lease
        finally:
            lease.release()

    def take(self, owners: Sequence[str], size: int) -> "Lease":
        """Count `size` bytes until the lease is released.

        Raises:
            ServiceError: As `Lease.take`.
        """
        lease = Lease(self, owners)
        lease.take(size)
        return lease

    def _check(self, owners: Sequence[str], size: int) -> None:
        if any(self._shares[owner] + size > self._share_max for owner in owners):
            message = "Too many large requests of yours are under way at the same time. Send fewer at once."
            raise Throttled(message, reason="too_many_bytes_at_once", metadata=_RETRY)
        if self._total + size > self._total_max:
            message = "The service has too many large requests under way. Try again in a moment."
            raise Unavailable(message, reason="overloaded", metadata=_RETRY)

    def _count(self, owners: Sequence[str], size: int) -> None:
        self._total += size
        for owner in owners:
            self._shares[owner] += size
            if not self._shares[owner]:
                del self._shares[owner]


class Lease:
    """One request's part of a budget.

    Attributes:
        size: Its bytes so far.
    """

    __slots__ = ("_budget", "_owners", "size")

    def __init__(self, budget: ByteBudget, owners: Sequence[str]) -> None:
        """Create a lease of nothing; `ByteBudget` does."""
        self._budget = budget
        self._owners = owners
        self.size = 0

    def take(self, size: int) -> None:
        """Count `size` more bytes.

        Raises:
            Throttled: One of the owners has no room for them.
            Unavailable: There is no room for them in total.
        """
        self._budget._check(self._owners, size)
        self._budget._count(self._owners, size)
        self.size += size

    def release(self) -> None:
        """Count the bytes no longer."""
        self._budget._count(self._owners, -self.size)
        self._budget._trimmer.note_freed(self.size)
        self.size = 0
