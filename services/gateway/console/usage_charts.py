"""Totals and charts of usage by day and model."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from services.common.prices import dollars
from services.gateway.apis.receipts import DayUsage
from services.gateway.console.charts import Axis, Chart, colours, columns

_DAYS = 30
"""Days without a filter."""
_DAYS_MAX = 92


def days_of(from_day: str, to_day: str, *, now: float) -> list[str]:
    """Return the days from the first to the last, oldest first; at most the last 92, and without days the last 30."""
    today = datetime.fromtimestamp(now, UTC).date()
    last = date.fromisoformat(to_day) if to_day else today
    first = date.fromisoformat(from_day) if from_day else last - timedelta(days=_DAYS - 1)
    count = min(max((last - first).days + 1, 1), _DAYS_MAX)
    return [(last - timedelta(days=back)).isoformat() for back in reversed(range(count))]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over days and models."""

    requests: int
    """Counted requests."""
    released_requests: int
    """Requests that were not counted."""
    prompt_tokens: int
    completion_tokens: int
    cost_usd: str | None
    """Cost of the requests that have one; None if none has one."""
    has_all_costs: bool


def totals_of(sums: Sequence[DayUsage]) -> Totals:
    """Return the sums."""
    costs = [day.cost_microdollars for day in sums if day.cost_microdollars is not None]
    return Totals(
        sum(day.requests for day in sums),
        sum(day.released_requests for day in sums),
        sum(day.prompt_tokens for day in sums),
        sum(day.completion_tokens for day in sums),
        dollars(sum(costs)) if costs else None,
        all(day.cost_usd is not None for day in sums if day.requests),
    )


def charts_of(days: Sequence[str], sums: Sequence[DayUsage], everything: Sequence[DayUsage]) -> Sequence[Chart]:
    """Return the charts of `sums`. Colours go by all usage of these days, so that no filter changes them."""
    frequency: Counter[str] = Counter()
    for day in everything:
        frequency[day.model] += day.requests + day.released_requests
    chosen, axis = colours(frequency), Axis.of_days(days)
    return [
        columns("Requests", axis, _by_model(sums, lambda day: day.requests + day.released_requests), chosen),
        columns("Tokens", axis, _by_model(sums, lambda day: day.prompt_tokens + day.completion_tokens), chosen),
    ]


def _by_model(sums: Sequence[DayUsage], count: Callable[[DayUsage], int]) -> dict[str, dict[str, int]]:
    series: dict[str, dict[str, int]] = {}
    for row in sums:
        series.setdefault(row.model, {})[row.day] = count(row)
    return series
