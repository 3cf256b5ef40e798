"""Split long lists into batches."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the items in order, in batches of at most `size`. Replaces `itertools.batched` on Python 3.11."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
