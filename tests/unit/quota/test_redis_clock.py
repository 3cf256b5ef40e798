"""Redis' clock compared with a monotonic one: steps in both directions, short and lasting."""

from dataclasses import dataclass, field

import pytest

from services.quota.metrics import CLOCK_STEP
from services.quota.redis.clock import RedisClock
from tests.logs import service_records

HOLD = 180.0
DAY = 86_400
NOON = 20_000 * DAY + DAY / 2
"""Redis' time at the start of the watch."""


@dataclass
class Watch:
    """A watch that the test runs: each second passes for both clocks, and Redis' may be set."""

    seconds: float = 0.0
    shows: float = NOON
    clock: RedisClock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = RedisClock(lambda: self.seconds, hold_seconds=HOLD)
        self.clock.observe(self.shows)

    def run(self, seconds: int) -> None:
        """Pass time, and check every second."""
        for _ in range(seconds):
            self.seconds += 1
            self.shows += 1
            self.clock.observe(self.shows)

    def step(self, seconds: float) -> None:
        """Set Redis' clock."""
        self.shows += seconds
        self.clock.observe(self.shows)

    def is_overdue(self, reserved_at: float) -> bool:
        """Return whether a hold of that time is overdue, as the sweeper decides."""
        shown = self.clock.observed_range(HOLD)
        return shown is not None and not shown[0] < reserved_at <= shown[1]

    def days(self) -> tuple[int, int]:
        """Return the possible days, counted from the one on which the watch began."""
        first, last = self.clock.days(0)
        return first - 20_000, last - 20_000


def test_with_a_steady_clock_a_hold_is_overdue_at_its_age() -> None:
    watch = Watch()
    watch.run(500)
    reserved_at = watch.shows
    watch.run(179)
    assert not watch.is_overdue(reserved_at)
    watch.run(1)
    assert watch.is_overdue(reserved_at)


def test_nothing_is_overdue_until_the_clock_was_watched_for_a_holds_lifetime() -> None:
    watch = Watch()
    watch.run(179)
    assert not watch.is_overdue(NOON - 10_000)
    watch.run(1)
    assert watch.is_overdue(NOON - 10_000)


@pytest.mark.parametrize("step", [200, 3 * DAY, -200, -3 * DAY])
def test_another_replicas_hold_from_between_a_step_and_the_next_check_lives_its_full_time(step: float) -> None:
    watch = Watch()
    watch.run(500)
    watch.seconds += 0.3
    last_before = watch.shows + 0.3
    first_after = watch.shows + 0.3 + step
    watch.seconds += 0.7
    watch.shows += 1
    watch.step(step)
    watch.run(150)
    assert not watch.is_overdue(last_before)
    assert not watch.is_overdue(first_after)
    watch.run(100 + int(max(-step, 0)))
    assert watch.is_overdue(first_after)


@pytest.mark.parametrize("step", [200, 3 * DAY, -200, -3 * DAY])
@pytest.mark.parametrize("lasting_seconds", [10, 1_000])
def test_a_hold_lives_its_full_time_by_the_monotonic_clock_whatever_redis_clock_does(
    step: float, lasting_seconds: int
) -> None:
    """A hold from before the step, one from within it, and one from after it, if it ends."""
    watch = Watch()
    watch.run(500)
    before = watch.shows
    watch.run(100)
    watch.step(step)
    within = watch.shows
    age = 100
    for second in range(400):
        if second == lasting_seconds:
            watch.step(-step)
        watch.run(1)
        age += 1
        assert not (age < HOLD and watch.is_overdue(before)), f"swept after {age} s"
        assert not (age - 100 < HOLD and watch.is_overdue(within)), f"swept after {age - 100} s"
    watch.run(2_000)
    assert watch.is_overdue(before)
    assert watch.is_overdue(within)


def test_a_short_step_of_three_days_changes_no_day() -> None:
    watch = Watch()
    watch.clock.record_day(20_000)
    watch.run(100)
    watch.step(3 * DAY)
    watch.run(10)
    assert watch.days() == (0, 0)
    watch.step(-3 * DAY)
    watch.run(10)
    assert watch.days() == (0, 0)


def test_a_lasting_step_forwards_is_accepted_after_a_holds_lifetime() -> None:
    watch = Watch()
    watch.clock.record_day(20_000)
    watch.step(3 * DAY)
    watch.run(179)
    assert watch.days() == (0, 0)
    assert not watch.clock.is_steady
    watch.run(2)
    assert watch.days() == (0, 3)
    assert watch.clock.is_steady


def test_the_day_never_moves_back() -> None:
    watch = Watch()
    watch.clock.record_day(20_000)
    watch.run(DAY // 2 + 10)
    assert watch.days() == (0, 1)
    watch.clock.record_day(20_001)
    watch.step(-3 * DAY)
    watch.run(1_000)
    assert watch.days() == (1, 1)


def test_midnight_follows_redis_clock_and_comes_not_much_earlier() -> None:
    watch = Watch()
    watch.clock.record_day(20_000)
    watch.run(DAY // 2 - 10)
    assert watch.days() == (0, 0)
    watch.run(11)
    assert watch.days() == (0, 1)


def test_a_step_is_in_the_metric_until_it_is_accepted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch()
    watch.run(10)
    watch.step(200)
    watch.run(10)
    assert CLOCK_STEP._value.get() == 200
    watch.step(-200)
    watch.run(10)
    assert CLOCK_STEP._value.get() == 0
    assert [record.getMessage() for record in service_records(caplog)] == [
        "Redis' clock stepped. Holds live longer, and the day ignores the step for now. Check the host's clock.",
        "Redis' clock is steady again.",
    ]


def test_a_slowly_corrected_clock_does_not_step() -> None:
    watch = Watch()
    for _ in range(1_000):
        watch.run(1)
        watch.step(0.01)
    assert watch.clock.is_steady


def test_many_samples_take_little_memory() -> None:
    watch = Watch()
    for _ in range(20_000):
        watch.seconds += 0.1
        watch.shows += 0.1
        watch.clock.observe(watch.shows)
    assert len(watch.clock._samples) < 2.5 * HOLD
