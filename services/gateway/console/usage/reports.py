"""Reports of inference: sums of requests by time and model, key, surface or outcome, and their latency."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.common.prices import dollars


class Breakdown(StrEnum):
    """What the page breaks usage down by. The values are those of the parameter `by`."""

    MODEL = "model"
    KEY = "key"
    SURFACE = "surface"
    OUTCOME = "outcome"


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums of requests."""

    requests: int = 0
    """Counted requests."""
    released_requests: int = 0
    """Requests that were not counted."""
    failed_requests: int = 0
    """Requests without a complete answer, counted or not."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    """Part of the prompt tokens."""
    reasoning_tokens: int = 0
    """Part of the completion tokens."""
    cost: int | None = None
    """Microdollars of the requests that have a cost; None if none has one."""

    @property
    def all_requests(self) -> int:
        """Requests, counted or not."""
        return self.requests + self.released_requests

    @property
    def cost_usd(self) -> str | None:
        """The cost in US dollars."""
        return None if self.cost is None else dollars(self.cost)

    @property
    def error_rate(self) -> str:
        """Failed requests in percent of all."""
        share = 100 * self.failed_requests / self.all_requests if self.all_requests else 0.0
        return f"{share:.1f}".removesuffix(".0")


@dataclass(frozen=True, slots=True)
class Point:
    """Sums of one value of the breakdown in one step."""

    start: int
    """Unix seconds."""
    value: str | None
    """None for all values beyond the hundred with most requests; empty if it was not recorded."""
    sums: Sums


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in milliseconds."""

    requests: int
    """Requests that were measured."""
    duration_p50: int
    duration_p95: int
    first_token_p50: int | None
    """Of the requests with output; None if none has output."""
    first_token_p95: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """A report."""

    points: Sequence[Point]
    """Oldest first."""
    latency: Latency | None
    """Of all requests; None if none was measured."""
    latencies: dict[str, Latency]
    """By value."""
    latency_rows_max: int
    is_latency_partial: bool
    """Whether only the newest `latency_rows_max` rows of the range were looked at."""
    is_partial: bool
    """Whether the range has more rows than were summed."""


def add_up(sums: Iterable[Sums]) -> Sums:
    """Return the sum of sums."""
    found = list(sums)
    costs = [one.cost for one in found if one.cost is not None]
    return Sums(
        sum(one.requests for one in found),
        sum(one.released_requests for one in found),
        sum(one.failed_requests for one in found),
        sum(one.prompt_tokens for one in found),
        sum(one.completion_tokens for one in found),
        sum(one.total_tokens for one in found),
        sum(one.cached_tokens for one in found),
        sum(one.reasoning_tokens for one in found),
        sum(costs) if costs else None,
    )
