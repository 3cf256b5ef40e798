"""Which Groq key is asked, with a clock that the test moves by hand."""

import logging

import pytest

from services.common.errors import DeadlineExceeded, InvalidRequest, ServiceError
from services.inference.supply import KeyLimited, KeyRefused, Supply, UpstreamFailed, UpstreamTrouble
from tests.unit.inference.manual_clock import ManualClock


class World:
    """Some keys and what is done with them."""

    def __init__(self, keys: int, *, rest_seconds_max: float = 3600, failures_max: int = 3) -> None:
        self.clock = ManualClock()
        self.supply = Supply(keys, self.clock, rest_seconds_max=rest_seconds_max, failures_max=failures_max)

    def ask(self, model: str = "m", *, ends: ServiceError | None = None, rest_seconds: float = 0) -> int:
        """Ask once and return the key that was asked with."""
        used = []
        try:
            with self.supply.lease(model) as turn:
                used.append(turn.key)
                if ends is not None:
                    raise ends
                turn.answered(rest_seconds=rest_seconds)
        except ServiceError as exc:
            if exc is not ends:
                raise
        return used[0]

    def asked(self, count: int, model: str = "m") -> list[int]:
        """Ask some times and return the keys."""
        return [self.ask(model) for _ in range(count)]

    def break_circuit(self, failures: int = 3) -> None:
        """Let calls fail in a row."""
        for _ in range(failures):
            self.ask(ends=UpstreamFailed())


def test_keys_are_asked_in_turn() -> None:
    assert World(3).asked(7) == [0, 1, 2, 0, 1, 2, 0]


def test_a_limited_key_is_not_asked_until_it_has_rested() -> None:
    world = World(2)
    assert world.ask(ends=KeyLimited(rest_seconds=578.016)) == 0

    world.clock.seconds += 578
    assert world.asked(3) == [1, 1, 1]

    world.clock.seconds += 1
    assert sorted(world.asked(2)) == [0, 1]


def test_a_key_that_says_with_its_answer_that_nothing_is_left_is_not_asked() -> None:
    world = World(2)
    assert world.ask(rest_seconds=7.66) == 0

    assert world.asked(3) == [1, 1, 1]


def test_a_limit_is_of_one_model() -> None:
    world = World(1)
    world.ask("spent", ends=KeyLimited(rest_seconds=60))

    assert world.asked(2, "fresh") == [0, 0]


@pytest.mark.parametrize(("rest", "told"), [(0.2, "1"), (7.1, "8"), (578, "60")])
def test_without_any_key_the_caller_is_told_when_the_earliest_is_back(rest: float, told: str) -> None:
    world = World(2)
    world.ask(ends=KeyLimited(rest_seconds=rest + 1_000))
    world.ask(ends=KeyLimited(rest_seconds=rest))

    with pytest.raises(UpstreamTrouble) as raised:
        world.ask()

    assert world.supply.seconds_until("m") == pytest.approx(rest)
    assert (raised.value.reason, raised.value.metadata) == ("upstream_unavailable", {"retry_after_seconds": told})


def test_no_rest_is_longer_than_the_operator_allows() -> None:
    world = World(1, rest_seconds_max=30)
    world.ask(ends=KeyLimited(rest_seconds=86_400))

    assert world.supply.seconds_until("m") == 30


def test_a_refused_key_is_out_for_a_minute_for_every_model_and_the_operator_hears_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(2)
    with caplog.at_level(logging.ERROR):
        assert world.ask(ends=KeyRefused()) == 0

    assert "operator" in caplog.text
    assert world.asked(2) + world.asked(2, "other") == [1, 1, 1, 1]

    world.clock.seconds += 60
    assert sorted(world.asked(2)) == [0, 1]


def test_refused_keys_are_asked_when_no_other_can_be() -> None:
    """A refusal may be of one request: it must not take the service away from everybody."""
    world = World(2)
    world.ask(ends=KeyRefused())
    world.ask(ends=KeyLimited(rest_seconds=30))

    assert not world.supply.has_trusted_key("m")
    assert world.ask() == 0
    assert world.supply.has_trusted_key("m"), "it answered: it is trusted again"


@pytest.mark.parametrize("failure", [UpstreamFailed(), DeadlineExceeded("late")])
def test_failures_in_a_row_break_the_circuit_and_success_between_them_does_not(failure: ServiceError) -> None:
    world = World(1)
    for ends in (failure, failure, None, failure, failure, InvalidRequest("the request's own fault"), failure, failure):
        world.ask(ends=ends)
    assert world.supply.seconds_until("m") == 0

    world.ask(ends=failure)

    assert world.supply.seconds_until("m") == 1
    assert world.ask("other") == 0


def test_a_broken_circuit_is_probed_by_one_call_and_closed_by_its_success() -> None:
    world = World(1)
    world.break_circuit()
    world.clock.seconds += 1

    with world.supply.lease("m") as probe:
        with pytest.raises(UpstreamTrouble):
            world.ask()
        probe.answered(rest_seconds=0)
        assert world.asked(3) == [0, 0, 0], "the probe's long answer must not keep others waiting"

    assert world.asked(3) == [0, 0, 0]


def test_a_probe_that_fails_breaks_the_circuit_for_twice_as_long_within_bounds() -> None:
    world = World(1)
    world.break_circuit()
    rests = []
    for _ in range(6):
        rests.append(world.supply.seconds_until("m"))
        world.clock.seconds += rests[-1]
        world.ask(ends=UpstreamFailed())

    assert rests == [1, 2, 4, 8, 10, 10]


def test_a_probe_that_is_given_up_leaves_room_for_the_next() -> None:
    world = World(1)
    world.break_circuit()
    world.clock.seconds += 1

    with pytest.raises(RuntimeError), world.supply.lease("m"):
        raise RuntimeError

    assert world.ask() == 0


def test_calls_from_before_the_break_neither_prolong_it_nor_make_room_for_a_second_probe() -> None:
    world = World(1)
    old = world.supply.lease("m")
    old.__enter__()
    world.break_circuit()
    world.clock.seconds += 1
    with world.supply.lease("m"):
        error = UpstreamFailed()
        old.__exit__(UpstreamFailed, error, None)
        with pytest.raises(UpstreamTrouble):
            world.ask()
    assert world.supply.seconds_until("m") == 0


def test_a_supply_without_memory_asks_whatever_happened() -> None:
    world = World(1, rest_seconds_max=0)
    world.break_circuit(50)
    world.ask(ends=KeyLimited(rest_seconds=60))
    world.ask(ends=KeyRefused())

    assert world.ask() == 0
    assert world.supply.has_trusted_key("m")


def test_what_is_known_of_models_that_nobody_asks_for_any_more_is_forgotten() -> None:
    world = World(1)
    for number in range(10_000):
        world.ask(f"made-up-{number}", ends=UpstreamFailed())
    world.ask("spent", ends=KeyLimited(rest_seconds=60))

    assert len(world.supply._states) == 1
