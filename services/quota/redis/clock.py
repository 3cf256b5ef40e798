"""Detects steps of Redis' clock.

All replicas share Redis' clock, which determines the day and the age of a hold. It can step, for example when a virtual
machine resumes or NTP corrects it, so each replica compares it with its own monotonic clock:

- A hold is overdue once Redis' clock has not read its reserve time for the lifetime of a hold, measured by the
  monotonic clock. A step in either direction extends all holds by that lifetime, and no hold is swept too early.
- The day ignores a step until it has lasted for the lifetime of a hold. The day never goes back.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from services.quota.metrics import CLOCK_STEP

_log = logging.getLogger(__name__)
_TOLERANCE_SECONDS = 5.0
"""Smaller differences come from slow replies, or from clock skew between the nodes of a cluster."""
_SAMPLE_SECONDS = 0.5
_DAY_SECONDS = 86_400
_NO_DAY, _ANY_DAY = 0, 1_000_000


@dataclass(slots=True)
class _Sample:
    """Range of Redis' clock within `_SAMPLE_SECONDS`."""

    at: float
    """Monotonic time at which the first reply arrived."""
    low: float
    high: float


class RedisClock:
    """Tracks Redis' clock from the times in its replies."""

    def __init__(self, monotonic: Callable[[], float], *, hold_seconds: float) -> None:
        """Create a clock without observations.

        Args:
            monotonic: Source of monotonic time.
            hold_seconds: Lifetime of a hold; a step that lasts this long is accepted.
        """
        self._monotonic = monotonic
        self._hold_seconds = self._watch_seconds = hold_seconds
        self._samples: deque[_Sample] = deque()
        self._offset: float | None = None
        """Redis' clock minus the monotonic clock; during a step, as of before it."""
        self._stepped_offset = 0.0
        self._stepped_at: float | None = None
        self._latest_day = _NO_DAY
        self._last_at = self._last_reading = 0.0

    def observe(self, low: float, high: float | None = None) -> None:
        """Record a reading of Redis' clock.

        Args:
            low: The reading, in Unix seconds; the lowest one of a cluster's nodes.
            high: The highest reading of a cluster's nodes; None for a single server.
        """
        now, high = self._monotonic(), low if high is None else high
        self._add_sample(now, *self._range_since_last(now, low, high))
        if self._offset is None or abs(low - now - self._offset) <= _TOLERANCE_SECONDS:
            self._accept_offset(low - now)
        elif self._stepped_at is None or abs(low - now - self._stepped_offset) > _TOLERANCE_SECONDS:
            self._begin_step(now, low - now)
        elif now - self._stepped_at >= self._hold_seconds:
            _log.warning("The step of Redis' clock was accepted.", extra={"seconds": self._step_seconds})
            self._accept_offset(low - now)

    def monotonic(self) -> float:
        """Return the time of the clock that never steps."""
        return self._monotonic()

    def observed_range(self, seconds: float) -> tuple[float, float] | None:
        """Return the lowest and the highest reading of Redis' clock in the last `seconds`.

        Returns None until the clock has been observed for that long.
        """
        self._watch_seconds = max(self._watch_seconds, seconds)
        since = self._monotonic() - seconds
        if not self._samples or self._samples[0].at > since:
            return None
        # Includes the last sample before `since`, which covers readings up to the next sample.
        first = max(i for i, sample in enumerate(self._samples) if sample.at <= since)
        samples = list(self._samples)[first:]
        return min(sample.low for sample in samples), max(sample.high for sample in samples)

    def days(self, offset_seconds: float) -> tuple[int, int]:
        """Return the earliest and the latest day that today can be, in days since 1970-01-01.

        Args:
            offset_seconds: Offset added to Redis' clock to determine the day.
        """
        if self._offset is None:
            return self._latest_day, _ANY_DAY
        latest = self._monotonic() + self._offset + _TOLERANCE_SECONDS + offset_seconds
        return self._latest_day, max(self._latest_day, int(latest // _DAY_SECONDS))

    def record_day(self, day: int) -> None:
        """Record the day of a reserve, so that no later reserve is on an earlier day."""
        self._latest_day = max(self._latest_day, day)

    @property
    def is_steady(self) -> bool:
        """Whether no step is in progress."""
        return self._stepped_at is None

    @property
    def _step_seconds(self) -> float:
        return round(self._stepped_offset - (self._offset or 0.0), 1)

    def _accept_offset(self, offset: float) -> None:
        if self._stepped_at is not None:
            CLOCK_STEP.set(0)
            _log.warning("Redis' clock is steady again.")
        self._offset, self._stepped_at = offset, None

    def _begin_step(self, now: float, offset: float) -> None:
        self._stepped_offset, self._stepped_at = offset, now
        CLOCK_STEP.set(self._step_seconds)
        _log.error(
            "Redis' clock stepped. Holds live longer, and the day ignores the step for now. Check the host's clock.",
            extra={"seconds": self._step_seconds},
        )

    def _range_since_last(self, now: float, low: float, high: float) -> tuple[float, float]:
        """Return the range that the clock may have read since the last observation.

        The step may have happened at any time in between, so the clock may have run on both before and after it.
        """
        elapsed, self._last_at = now - self._last_at, now
        jumped, self._last_reading = abs(low - self._last_reading - elapsed) > _TOLERANCE_SECONDS, low
        if not self._samples or not jumped:
            return low, high
        self._samples[-1].high += elapsed + _TOLERANCE_SECONDS
        return low - elapsed - _TOLERANCE_SECONDS, high

    def _add_sample(self, now: float, low: float, high: float) -> None:
        if self._samples and now - self._samples[-1].at < _SAMPLE_SECONDS:
            last = self._samples[-1]
            last.low, last.high = min(last.low, low), max(last.high, high)
        else:
            self._samples.append(_Sample(now, low, high))
        while len(self._samples) > 1 and self._samples[1].at <= now - self._watch_seconds:
            self._samples.popleft()
