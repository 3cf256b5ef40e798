"""A circuit breaker that no single account opens or keeps open for the others."""

import pytest

from services.inference.key_pool.circuit_breaker import CircuitBreaker

NOW = 1_000.0


class World:
    """A breaker with a threshold of ten failures, and its clock."""

    def __init__(self, failures_max: int = 10) -> None:
        self.breaker = CircuitBreaker(failures_max)
        self.now = NOW

    def call(self, account: str, *, succeeds: bool = False) -> bool:
        """Make a call if it is allowed and end it; return whether it was made."""
        if self.breaker.seconds_until_allowed(account, self.now):
            return False
        probe = self.breaker.begin(account, self.now)
        if succeeds:
            self.breaker.record_success()
        else:
            self.breaker.record_failure(account, self.now, probe=probe)
        if probe:
            self.breaker.end(account, probe)
        return True

    def fail(self, account: str, times: int) -> None:
        """Fail calls of an account as long as they are allowed."""
        for _ in range(times):
            self.call(account)

    @property
    def is_open(self) -> bool:
        """Whether the circuit is open."""
        return self.breaker.is_open


def test_a_single_account_opens_it_with_its_own_failures() -> None:
    world = World()
    world.fail("a", 9)
    assert not world.is_open

    world.fail("a", 1)

    assert world.is_open


def test_one_of_two_accounts_does_not_open_it_however_often_it_fails() -> None:
    world = World()
    world.call("normal", succeeds=True)

    world.fail("a", 50)

    assert not world.is_open
    assert world.call("normal")


def test_two_failing_accounts_open_it_with_half_of_the_failures_each() -> None:
    world = World()
    world.fail("a", 5)
    world.fail("b", 4)
    assert not world.is_open

    world.fail("b", 1)

    assert world.is_open


def test_with_three_or_more_accounts_each_contributes_at_most_a_third() -> None:
    world = World(failures_max=9)
    world.call("normal", succeeds=True)
    world.fail("a", 50)
    world.fail("b", 50)
    assert not world.is_open, "two thirds"

    world.fail("normal", 2)
    assert not world.is_open
    world.fail("normal", 1)

    assert world.is_open


def test_any_success_closes_it_and_resets_the_failures() -> None:
    world = World()
    world.fail("a", 9)
    world.call("a", succeeds=True)
    world.fail("a", 9)
    assert not world.is_open
    world.fail("a", 1)
    assert world.is_open

    assert world.call("b", succeeds=True), "an account without failures does not wait"

    assert not world.is_open
    assert world.call("a")


def test_while_open_failed_accounts_wait_and_each_other_account_sends_one_probe() -> None:
    world = World()
    world.fail("a", 10)

    assert not world.call("a")
    assert world.call("b")
    assert not world.call("b"), "its probe failed"
    world.now += 10
    assert world.call("a")


def test_probes_are_limited_to_one_per_account_and_three_in_total() -> None:
    world = World()
    world.fail("a", 10)
    breaker = world.breaker
    for account in ("b", "c", "d"):
        assert not breaker.seconds_until_allowed(account, world.now)
        probe = breaker.begin(account, world.now)
        assert probe
        assert breaker.seconds_until_allowed(account, world.now) > 0

    assert breaker.seconds_until_allowed("e", world.now) > 0
    breaker.end("c", probe)
    assert not breaker.seconds_until_allowed("e", world.now)


def test_a_hanging_probe_blocks_other_probes_only_briefly() -> None:
    world = World()
    world.fail("a", 10)
    world.now += 10
    assert world.breaker.begin("a", world.now)
    assert world.breaker.seconds_until_allowed("a", world.now) > 0
    assert not world.breaker.seconds_until_allowed("b", world.now), "one account's probe does not count for another"

    world.now += 5.1

    assert not world.breaker.seconds_until_allowed("a", world.now)


def test_each_failed_probe_doubles_the_open_time_within_bounds() -> None:
    world = World()
    world.fail("a", 10)
    waits = []
    for _ in range(6):
        waits.append(world.breaker.seconds_until_allowed("a", world.now))
        world.now += waits[-1]
        assert world.call("a")

    assert waits == [1, 2, 4, 8, 10, 10]


def test_calls_from_before_it_opened_do_not_extend_it() -> None:
    world = World()
    world.fail("a", 10)
    before = world.breaker.seconds_until_allowed("a", world.now)

    for _ in range(20):
        assert world.breaker.record_failure("a", world.now, probe=0) == 0

    assert world.breaker.seconds_until_allowed("a", world.now) == before


def test_a_probe_that_fails_after_the_circuit_closed_does_not_reopen_it() -> None:
    world = World()
    world.fail("a", 10)
    world.now += 1.5
    probe = world.breaker.begin("a", world.now)
    for account in ("b", "c", "d"):
        assert world.call(account, succeeds=True)
    assert not world.is_open

    world.now += 30
    world.breaker.record_failure("a", world.now, probe=probe)
    world.breaker.end("a", probe)

    assert not world.is_open


def test_a_stale_probe_neither_extends_a_later_opening_nor_frees_its_probe_slot() -> None:
    world = World()
    world.fail("a", 10)
    world.now += 1.5
    old = world.breaker.begin("a", world.now)
    world.call("b", succeeds=True)
    world.fail("a", 10)
    world.fail("b", 10)
    assert world.is_open
    world.now += 10
    assert world.breaker.begin("a", world.now) not in (0, old)

    assert world.breaker.record_failure("a", world.now, probe=old) == 0
    world.breaker.end("a", old)

    assert world.breaker.seconds_until_allowed("a", world.now) > 0, "its newer probe is in progress"


def test_failures_minutes_apart_are_not_consecutive() -> None:
    world = World()
    for _ in range(30):
        world.fail("a", 1)
        world.now += 301

    assert not world.is_open


def test_a_threshold_of_zero_disables_it() -> None:
    world = World(failures_max=0)
    world.fail("a", 1_000)

    assert not world.is_open


def test_its_memory_is_bounded() -> None:
    world = World()
    world.fail("a", 10)
    for number in range(5_000):
        probe = world.breaker.begin(f"acc_{number}", world.now)
        world.breaker.record_failure(f"acc_{number}", world.now, probe=0)
        world.breaker.end(f"acc_{number}", probe)

    breaker = world.breaker
    assert len(breaker._failures) <= 1_000
    assert len(breaker._traffic) <= 3
    assert len(breaker._probes) == 0


@pytest.mark.parametrize("accounts", [1, 2, 3, 10])
def test_an_outage_that_affects_every_account_opens_it(accounts: int) -> None:
    world = World()
    for number in range(60):
        world.fail(f"acc_{number % accounts}", 1)

    assert world.is_open
