"""Time that stands still until the test advances it."""

from dataclasses import dataclass, field


@dataclass
class ManualClock:
    """A clock, and a sleep that only advances it."""

    seconds: float = 1_000.0
    sleeps: list[float] = field(default_factory=list)

    def now(self) -> float:
        """Return the time."""
        return self.seconds

    def monotonic(self) -> float:
        """Return the time."""
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        """Advance the time at once."""
        self.sleeps.append(seconds)
        self.seconds += seconds
