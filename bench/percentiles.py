"""Percentiles of measured values: those that occurred, never interpolated, so that few values pretend nothing."""

import math
from collections.abc import Sequence
from statistics import median


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of `values` do not exceed (nearest rank).

    Args:
        values: At least one, in any order.
        share: Above 0, at most 1.

    Raises:
        ValueError: There are no values, or the share is out of range.
    """
    if not values or not 0 < share <= 1:
        raise ValueError(f"no percentile {share} of {len(values)} values")
    return sorted(values)[math.ceil(share * len(values)) - 1]


def medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure over several runs; a figure must be in all of them."""
    return {name: median(row[name] for row in rows) for name in rows[0]}
