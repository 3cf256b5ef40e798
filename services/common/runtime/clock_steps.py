"""Steps of the machine's clock, which the monotonic clock shows."""

from services.common.runtime.clock import Clock

_STEP_SECONDS = 300.0
"""A difference from the monotonic clock that is a step. An adjustment is slower."""


class ClockSteps:
    """Measures for how long the clock was steady. Ask at least every few hours, so that each step is seen."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._steady_since = clock.monotonic()
        self._offset = clock.now() - clock.monotonic()
        self.has_stepped = False
        """Whether a step was seen. One before the start of the process was not."""

    def steady_seconds(self) -> float:
        """Return the time since the last step, or since the start."""
        monotonic = self._clock.monotonic()
        offset = self._clock.now() - monotonic
        if abs(offset - self._offset) > _STEP_SECONDS:
            self._steady_since, self.has_stepped = monotonic, True
        self._offset = offset
        return monotonic - self._steady_since
