"""Redis' clock beside one that never steps.

Redis' clock decides the day and the age of a hold, since all replicas share it. But it may step: a virtual machine is
resumed, NTP corrects it, somebody sets it. So each replica compares it with its own monotonic clock:

- A hold is overdue when Redis' clock has not shown the time of its reserve for as long as a hold may live, by the
  monotonic clock. After a step in either direction all holds live that much longer, and none is swept too early.
- The day is where a steady clock would have it, until a step has lasted as long as a hold may live. It never goes back.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from services.quota.metrics import CLOCK_STEP

_log = logging.getLogger(__name__)
_TOLERANCE_SECONDS = 5.0
"""Less than this is a slow answer, or clocks of a cluster's nodes that differ."""
_SAMPLE_SECONDS = 0.5
_DAY_SECONDS = 86_400
_NO_DAY, _ANY_DAY = 0, 1_000_000


@dataclass(slots=True)
class _Sample:
    """What Redis' clock showed within a moment."""

    at: float
    """When its first answer was there, by the monotonic clock."""
    low: float
    high: float


class RedisClock:
    """What is known of Redis' clock, from all of its answers."""

    def __init__(self, monotonic: Callable[[], float], *, hold_seconds: float) -> None:
        """Begin without any answer.

        Args:
            monotonic: The clock that never steps.
            hold_seconds: How long a hold may live; a step that has lasted so long is taken for the truth.
        """
        self._monotonic = monotonic
        self._hold_seconds = self._watch_seconds = hold_seconds
        self._samples: deque[_Sample] = deque()
        self._offset: float | None = None
        """Redis' clock less the monotonic one, before the step that is waited out."""
        self._stepped_offset = 0.0
        self._stepped_at: float | None = None
        self._latest_day = _NO_DAY
        self._last_at = self._last_shown = 0.0

    def observe(self, low: float, high: float | None = None) -> None:
        """Note what Redis' clock shows; of several nodes, the slowest and the fastest."""
        now, high = self._monotonic(), low if high is None else high
        self._keep(now, *self._with_what_was_missed(now, low, high))
        if self._offset is None or abs(low - now - self._offset) <= _TOLERANCE_SECONDS:
            self._be_steady(low - now)
        elif self._stepped_at is None or abs(low - now - self._stepped_offset) > _TOLERANCE_SECONDS:
            self._step(now, low - now)
        elif now - self._stepped_at >= self._hold_seconds:
            _log.warning("redis' clock has stepped for good", extra={"seconds": self._step_seconds})
            self._be_steady(low - now)

    def shown(self, seconds: float) -> tuple[float, float] | None:
        """Return the earliest and the latest time that Redis' clock showed in the last `seconds`.

        None when it has not been watched for so long.
        """
        self._watch_seconds = max(self._watch_seconds, seconds)
        since = self._monotonic() - seconds
        if not self._samples or self._samples[0].at > since:
            return None
        # The last one before then is among them: its answer was read before it arrived.
        first = max(i for i, one in enumerate(self._samples) if one.at <= since)
        among = list(self._samples)[first:]
        return min(one.low for one in among), max(one.high for one in among)

    def days(self, offset_seconds: float) -> tuple[int, int]:
        """Return the first and the last day that it may be, in days since 1970-01-01.

        Args:
            offset_seconds: Added to Redis' clock when the day is decided.
        """
        if self._offset is None:
            return self._latest_day, _ANY_DAY
        latest = self._monotonic() + self._offset + _TOLERANCE_SECONDS + offset_seconds
        return self._latest_day, max(self._latest_day, int(latest // _DAY_SECONDS))

    def note_day(self, day: int) -> None:
        """Note a day that a slot was asked for on: no later one is before it."""
        self._latest_day = max(self._latest_day, day)

    @property
    def is_steady(self) -> bool:
        """Whether no step is waited out."""
        return self._stepped_at is None

    @property
    def _step_seconds(self) -> float:
        return round(self._stepped_offset - (self._offset or 0.0), 1)

    def _be_steady(self, offset: float) -> None:
        if self._stepped_at is not None:
            CLOCK_STEP.set(0)
            _log.warning("redis' clock is steady again")
        self._offset, self._stepped_at = offset, None

    def _step(self, now: float, offset: float) -> None:
        self._stepped_offset, self._stepped_at = offset, now
        CLOCK_STEP.set(self._step_seconds)
        _log.error("redis' clock stepped; holds live longer, and the day stays", extra={"seconds": self._step_seconds})

    def _with_what_was_missed(self, now: float, low: float, high: float) -> tuple[float, float]:
        """Return what the clock may have shown since the last answer: at a step, both clocks may have run on."""
        passed, self._last_at = now - self._last_at, now
        jumped, self._last_shown = abs(low - self._last_shown - passed) > _TOLERANCE_SECONDS, low
        if not self._samples or not jumped:
            return low, high
        self._samples[-1].high += passed + _TOLERANCE_SECONDS
        return low - passed - _TOLERANCE_SECONDS, high

    def _keep(self, now: float, low: float, high: float) -> None:
        if self._samples and now - self._samples[-1].at < _SAMPLE_SECONDS:
            last = self._samples[-1]
            last.low, last.high = min(last.low, low), max(last.high, high)
        else:
            self._samples.append(_Sample(now, low, high))
        while len(self._samples) > 1 and self._samples[1].at <= now - self._watch_seconds:
            self._samples.popleft()
