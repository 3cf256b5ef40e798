"""Long lists in pieces that an RPC takes."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the items in pieces of at most `size`, in order; `itertools.batched` comes with Python 3.12."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
