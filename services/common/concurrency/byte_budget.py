"""A limit on the total bytes held by concurrent requests."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from services.common.errors import ErrorDetails, Throttled, Unavailable
from services.common.runtime.memory import Trimmer

_RETRY = ErrorDetails(retry_after_seconds=1)


class ByteBudget:
    """Counts bytes in total and per owner, and rejects requests that would exceed either limit."""

    def __init__(self, *, total_max: int, share_max: int) -> None:
        """Allow `total_max` bytes in total and `share_max` per owner."""
        self._total_max = total_max
        self._share_max = share_max
        self._total = 0
        self._shares: dict[str, int] = {}
        self._trimmer = Trimmer()

    @property
    def total(self) -> int:
        """Bytes currently held."""
        return self._total

    def allocate(self, owners: Sequence[str]) -> "Allocation":
        """Return an empty allocation, which returns its bytes at the end of its `with` block.

        Args:
            owners: Owners of the bytes, such as an API key and a client address. Bytes count toward each of them.
        """
        return Allocation(self, owners)

    def take(self, owners: Sequence[str], size: int) -> "Allocation":
        """Return an allocation of `size` bytes, which the caller must release.

        Raises:
            Throttled: An owner would exceed its share.
            Unavailable: The total would be exceeded.
        """
        allocation = Allocation(self, owners)
        allocation.take(size)
        return allocation

    def _check(self, owners: Sequence[str], size: int) -> None:
        if any(self._shares.get(owner, 0) + size > self._share_max for owner in owners):
            message = "You have too many large requests in progress. Send fewer at the same time."
            raise Throttled(message, reason="too_many_bytes_at_once", details=_RETRY)
        if self._total + size > self._total_max:
            message = "The service has too many large requests in progress. Try again in a moment."
            raise Unavailable(message, reason="overloaded", details=_RETRY)

    def _count(self, owners: Sequence[str], size: int) -> None:
        self._total += size
        for owner in owners:
            share = self._shares.get(owner, 0) + size
            if share:
                self._shares[owner] = share
            else:
                self._shares.pop(owner, None)


class Allocation:
    """The bytes of a budget that one request holds.

    Attributes:
        size: Bytes taken so far.
    """

    __slots__ = ("_budget", "_owners", "size")

    def __init__(self, budget: ByteBudget, owners: Sequence[str]) -> None:
        """Create an empty allocation. Called by `ByteBudget`."""
        self._budget = budget
        self._owners = owners
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def take(self, size: int) -> None:
        """Take `size` more bytes.

        Raises:
            Throttled: An owner would exceed its share.
            Unavailable: The total would be exceeded.
        """
        self._budget._check(self._owners, size)
        self._budget._count(self._owners, size)
        self.size += size

    def release(self) -> None:
        """Return all bytes to the budget. Repeating it is harmless."""
        self._budget._count(self._owners, -self.size)
        self._budget._trimmer.note_freed(self.size)
        self.size = 0
