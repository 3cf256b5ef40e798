"""Which overdue holds are closed: those that really aged, and not those that a step of Redis' clock made look old."""

from dataclasses import dataclass, field

import pytest

from services.quota.overdue_holds import OverdueHold, OverdueHolds

HOLD = 180.0
NOON = 1_000_000.0
"""Redis' time at the first check."""


def hold(request_id: str, reserved_at: float) -> OverdueHold:
    """Return a hold of that time."""
    return OverdueHold(request_id, "key_1", "acc_1", 7, reserved_at)


@dataclass
class Checks:
    """Checks a store manually, on a clock that has never stepped for this replica."""

    seconds: float = 0.0
    holds: OverdueHolds = field(init=False)

    def __post_init__(self) -> None:
        self.holds = OverdueHolds(lambda: self.seconds, hold_seconds=HOLD)

    def look(self, *found: OverdueHold, is_complete: bool = True) -> list[str]:
        """Return the ids to be closed of the holds found now."""
        now = NOON + self.seconds
        closed = self.holds.to_close(found, before=now, after=now + HOLD, is_complete=is_complete)
        return [one.request_id for one in closed]


def test_holds_found_by_the_first_check_are_closed() -> None:
    assert Checks().look(hold("req_1", NOON - HOLD - 500)) == ["req_1"]


def test_holds_that_became_overdue_since_the_last_check_are_closed_however_long_ago_it_was() -> None:
    checks = Checks()
    checks.look()
    checks.seconds = 1_000
    assert checks.look(hold("req_1", NOON + 1 - HOLD)) == ["req_1"]


@pytest.mark.parametrize("step", [-200.0, 200.0, -3 * 86_400.0, 3 * 86_400.0])
def test_holds_reserved_during_a_step_between_two_checks_live_for_their_full_time(step: float) -> None:
    checks = Checks()
    checks.look()
    checks.seconds = 1
    within = hold("req_1", NOON + 0.5 + step)
    assert checks.look(within) == []
    checks.seconds = HOLD
    assert checks.look(within) == []
    checks.seconds = HOLD + 1
    assert checks.look(within) == ["req_1"]
    assert checks.look(within) == ["req_1"], "it could not be closed"


def test_holds_that_could_not_be_closed_are_closed_at_the_next_check() -> None:
    checks = Checks()
    checks.look()
    checks.seconds = 1
    grown = hold("req_1", NOON + 0.5 - HOLD)
    assert checks.look(grown) == ["req_1"]
    checks.seconds = 2
    assert checks.look(grown) == ["req_1"]


def test_holds_that_the_last_check_may_have_left_out_are_closed() -> None:
    checks = Checks()
    checks.look(is_complete=False)
    checks.seconds = 1
    assert checks.look(hold("req_1", NOON - 500)) == ["req_1"]
