"""The time by which rows are old, also after a step of the machine's clock: what is removed cannot be brought back."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from services.common.runtime.clock import Clock, utc_now
from services.common.runtime.clock_steps import ClockSteps

_DAY = timedelta(days=1)
_STEADY_SECONDS = 86_400.0


class RetentionClock:
    """A clock that is at most at the end of the newest row's day, until the machine's clock was steady for a day.

    The days of rows are quota's, which waits before it follows a step (decision 0015). After a start, it is not known
    whether there was one.
    """

    def __init__(self, clock: Clock, newest_day: Callable[[], Awaitable[str | None]]) -> None:
        """Create it.

        Args:
            clock: The machine's clock.
            newest_day: Returns the last day with a row, `YYYY-MM-DD`; None if there is no row.
        """
        self._clock = clock
        self._newest_day = newest_day
        self._steps = ClockSteps(clock)

    async def now(self) -> datetime:
        """Return the time. Call this at least every few hours, so that it sees each step.

        Raises:
            Unavailable: The database cannot be read.
        """
        now = utc_now(self._clock)
        if self._steps.steady_seconds() >= _STEADY_SECONDS:
            return now
        newest = await self._newest_day()
        return now if newest is None else min(now, datetime.fromisoformat(newest).replace(tzinfo=UTC) + _DAY)
