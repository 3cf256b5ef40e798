"""Reports: sums of an account's requests in a range of time by model, key, surface or outcome, and their latency."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, StrEnum

from services.common.surface import Surface
from services.inference.chat import ABANDONED_OUTCOMES, Outcome

FAILED_OUTCOMES = frozenset(Outcome) - ABANDONED_OUTCOMES - {Outcome.ANSWERED}
"""Outcomes of requests that did not get a complete answer, while their client was waiting for it."""
LATENCY_ROWS_MAX = 10_000
"""Newest rows of a range that latencies are measured of."""
SUMMED_ROWS_MAX = 100_000
"""Newest rows of a range that is summed from rows."""
VALUES_MAX = 100
"""Values of a breakdown with sums of their own, since callers choose the model names."""
STEPS_MAX = 400
HOUR, DAY = 3_600, 86_400


class Breakdown(StrEnum):
    """What a report sums by: a column of the ledger and of the roll-ups."""

    MODEL = "model"
    KEY = "key_id"
    SURFACE = "surface"
    OUTCOME = "outcome"


class Step(Enum):
    """Length of time of a report's sums, in seconds."""

    WHOLE = 0
    FIVE_MINUTES = 300
    HOUR = HOUR
    DAY = DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportQuery:
    """Selects an account's requests, and says how to sum them. Fields that are empty or None match all."""

    account_id: str
    key_id: str = ""
    model: str = ""
    outcome: Outcome | None = None
    surface: Surface | None = None
    start: int
    """Begin of the range in Unix seconds."""
    end: int
    """End of the range, excluded."""
    breakdown: Breakdown | None = None
    step: Step = Step.WHOLE
    with_latency: bool = False

    @property
    def is_of_days(self) -> bool:
        """Whether whole days are summed, which the ledger's column `day` selects."""
        return self.step in (Step.DAY, Step.WHOLE) and self.start % DAY == self.end % DAY == 0

    @property
    def is_of_hours(self) -> bool:
        """Whether whole hours are summed."""
        return self.step is not Step.FIVE_MINUTES and self.start % HOUR == self.end % HOUR == 0

    @property
    def days(self) -> tuple[str, str]:
        """The first and the last UTC day."""
        return _day(self.start), _day(self.end - 1)


@dataclass(frozen=True, slots=True)
class UsageSums:
    """Sums of the requests of one value of the breakdown in one step."""

    start: int
    """Begin of the step in Unix seconds."""
    value: str | None
    """None for all values beyond `VALUES_MAX`, and without a breakdown; empty if it is not known."""
    charged_requests: int
    released_requests: int
    failed_requests: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost: int | None
    """Microdollars of the requests that have a cost; None if none has one."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles by nearest rank, in milliseconds."""

    value: str | None
    """Value of the breakdown; None for all requests."""
    requests: int
    duration_p50_ms: int
    duration_p95_ms: int
    first_token_p50_ms: int | None
    """Of the requests with output; None if none has output."""
    first_token_p95_ms: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """The sums, oldest first, and the latencies: of all requests first."""

    sums: Sequence[UsageSums]
    latencies: Sequence[Latency] = ()
    is_partial: bool = False
    """Whether the range has more rows than `SUMMED_ROWS_MAX`, and was summed from rows."""
    is_latency_partial: bool = False
    """Whether the range has more rows than `LATENCY_ROWS_MAX`."""


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
