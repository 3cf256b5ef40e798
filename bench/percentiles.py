"""Percentiles of measured values, without interpolation, so that few values do not look precise."""

import math
from collections.abc import Mapping, Sequence
from statistics import median


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of `values` do not exceed (nearest rank).

    Args:
        values: At least one value, in any order.
        share: Greater than 0, at most 1.

    Raises:
        ValueError: There are no values, or the share is out of range.
    """
    if not values or not 0 < share <= 1:
        raise ValueError(f"no percentile {share} of {len(values)} values")
    return sorted(values)[math.ceil(share * len(values)) - 1]


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each figure over the rounds that have it."""
    names = {name: None for figures in rounds for name in figures}
    return {name: median(figures[name] for figures in rounds if name in figures) for name in names}
