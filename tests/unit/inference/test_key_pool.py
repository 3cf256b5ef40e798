"""Which Groq key is used for a call, with a clock controlled by the test."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

import pytest

from services.common.errors import DeadlineExceeded, InvalidRequest, ServiceError
from services.inference.allowance.model import Observation
from services.inference.groq.errors import (
    CallResult,
    KeyLimited,
    KeyRefused,
    ModelRefused,
    TokenShortfall,
    UpstreamError,
    UpstreamFailed,
    UpstreamInvalid,
)
from services.inference.groq.refusals import from_status
from services.inference.key_pool.pool import KeyLease, KeyPool
from tests.unit.inference.manual_clock import ManualClock

ACCOUNT = "acc_1"


class World:
    """A few keys and the calls made with them."""

    def __init__(self, keys: int, *, cooldown_seconds_max: float = 3600, failures_max: int = 3) -> None:
        self.clock = ManualClock()
        self.pool = KeyPool(keys, self.clock, cooldown_seconds_max=cooldown_seconds_max, failures_max=failures_max)

    def call(
        self,
        model: str = "m",
        *,
        account: str = ACCOUNT,
        tokens: int = 0,
        ends: ServiceError | None = None,
        has_headers: bool = False,
    ) -> int:
        """Make a call and return the key that it used."""
        used: list[KeyLease] = []
        try:
            with self.pool.lease(model, account, tokens=tokens) as lease:
                used.append(lease)
                if has_headers:
                    lease.record_limits(())
                if ends is not None:
                    raise ends
        except ServiceError as exc:
            if exc is not ends:
                raise
        return used[0].key

    def called(self, count: int, model: str = "m") -> list[int]:
        """Make some calls and return the keys."""
        return [self.call(model) for _ in range(count)]

    def seconds_until(self, model: str = "m") -> float:
        """Return the time until a call can be made."""
        return self.pool.seconds_until(model, ACCOUNT)

    def fail_late(self) -> None:
        """Let a call time out and then fail."""
        with suppress(UpstreamFailed), self.pool.lease("m", ACCOUNT) as lease:
            lease.record_timeout()
            raise UpstreamFailed

    def open_circuit(self, failures: int = 3) -> None:
        """Let calls fail in a row."""
        for _ in range(failures):
            self.call(ends=UpstreamFailed())


def test_keys_are_used_in_turn() -> None:
    assert World(3).called(7) == [0, 1, 2, 0, 1, 2, 0]


def test_a_limited_key_is_not_used_until_it_has_cooled_down() -> None:
    world = World(2)
    assert world.call(ends=KeyLimited(retry_seconds=578.016)) == 0

    world.clock.seconds += 578
    assert world.called(3) == [1, 1, 1]

    world.clock.seconds += 1
    assert sorted(world.called(2)) == [0, 1]


LARGE = KeyLimited(retry_seconds=20, shortfall=TokenShortfall(left=5_000, requested=5_900))


def test_a_request_too_large_for_the_remaining_tokens_does_not_block_the_key_for_smaller_ones() -> None:
    world = World(1)
    world.call(account="large", tokens=5_900, ends=LARGE)

    assert world.pool.seconds_until("m", "normal", tokens=100) == 0
    assert world.call(account="normal", tokens=100) == 0
    assert world.pool.seconds_until("m", "large", tokens=5_900) == 20
    assert world.pool.cooling_models(0) == 1


def test_one_account_causes_only_a_few_calls_with_requests_that_are_too_large() -> None:
    world, calls = World(1), 0
    for tokens in range(5_900, 0, -1):
        if not world.pool.seconds_until("m", "large", tokens=tokens):
            world.call(account="large", tokens=tokens, ends=LARGE)
            calls += 1

    assert calls < 15
    assert world.pool.seconds_until("m", "normal", tokens=100) == 0


def test_an_older_call_does_not_overwrite_the_remaining_tokens_of_a_newer_one() -> None:
    world = World(1)
    empty = KeyLimited(retry_seconds=40, shortfall=TokenShortfall(left=0, requested=100))
    with suppress(KeyLimited), world.pool.lease("m", ACCOUNT, tokens=5_900):
        world.clock.seconds += 1
        world.call(account="newer", tokens=100, ends=empty)
        raise LARGE

    assert world.pool.seconds_until("m", "normal", tokens=100) == 40


def test_unaccepted_terms_of_one_model_leave_the_key_in_use_for_others() -> None:
    world = World(2)
    terms = from_status(400, {}, {"error": {"message": "accept the terms", "code": "model_terms_required"}})
    for _ in range(4):
        world.call("speech", ends=terms)

    assert [world.pool.is_accepted(key) for key in range(2)] == [True, True]
    assert sorted(world.called(2)) == [0, 1]


def test_a_rate_limit_applies_to_one_model() -> None:
    world = World(1)
    world.call("spent", ends=KeyLimited(retry_seconds=60))

    assert world.called(2, "fresh") == [0, 0]


@pytest.mark.parametrize("older_succeeds", [True, False])
def test_an_older_call_does_not_end_the_cooldown_set_by_a_newer_one(older_succeeds: bool) -> None:
    world = World(1)
    failing: AbstractContextManager[object] = nullcontext() if older_succeeds else pytest.raises(UpstreamFailed)
    with failing, world.pool.lease("m", ACCOUNT) as older:
        world.clock.seconds += 1
        world.call(ends=KeyLimited(retry_seconds=414))
        older.record_limits(())
        if not older_succeeds:
            raise UpstreamFailed

    assert world.seconds_until() == 414


def test_a_newer_call_ends_the_cooldown_of_an_older_one() -> None:
    world = World(1)
    older = world.pool.lease("m", ACCOUNT)
    older.__enter__()
    world.clock.seconds += 1
    with world.pool.lease("m", ACCOUNT) as newer:
        limit = KeyLimited(retry_seconds=20)
        assert not older.__exit__(KeyLimited, limit, None), "the error is passed on"
        assert world.seconds_until() == 20
        newer.record_limits(())

    assert world.seconds_until() == 0


@pytest.mark.parametrize(("cooldown", "expected"), [(0.2, 1), (7.1, 8), (578, 60)])
def test_without_a_usable_key_the_error_gives_the_shortest_wait(cooldown: float, expected: int) -> None:
    world = World(2)
    world.call(ends=KeyLimited(retry_seconds=cooldown + 1_000))
    world.call(ends=KeyLimited(retry_seconds=cooldown))

    with pytest.raises(UpstreamError) as raised:
        world.call()

    assert world.seconds_until() == pytest.approx(cooldown)
    assert (raised.value.reason, raised.value.details.retry_after_seconds) == ("upstream_unavailable", expected)


def test_no_cooldown_exceeds_the_operators_maximum() -> None:
    world = World(1, cooldown_seconds_max=30)
    world.call(ends=KeyLimited(retry_seconds=86_400))

    assert world.seconds_until() == 30


def test_a_refused_key_is_not_used_for_any_model_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    world = World(2)
    with caplog.at_level(logging.ERROR):
        assert world.call(ends=KeyRefused()) == 0

    assert "Replace it." in caplog.text
    assert world.called(2) + world.called(2, "other") == [1, 1, 1, 1]

    world.clock.seconds += 60
    assert sorted(world.called(2)) == [0, 1]


def test_a_quarantine_doubles_within_bounds_and_costs_one_call_each_time() -> None:
    world, quarantines = World(2), []
    for _ in range(6):
        world.pool._next = 0
        assert world.call(ends=KeyRefused()) == 0
        until = world.pool._keys[0].quarantined_until
        quarantines.append(until - world.clock.seconds)
        assert set(world.called(20)) == {1}
        world.clock.seconds = until

    assert quarantines == [60, 120, 240, 480, 600, 600]


def test_after_a_quarantine_one_call_at_a_time_probes_the_key() -> None:
    world = World(2)
    world.call(ends=KeyRefused())
    world.clock.seconds += 60
    world.pool._next = 0
    with world.pool.lease("m", ACCOUNT) as trial:
        assert trial.key == 0
        assert world.called(4) == [1, 1, 1, 1]
    assert sorted(world.called(2)) == [0, 1]


def test_concurrent_calls_with_the_same_refusal_are_one_quarantine() -> None:
    world = World(2)
    leases = [world.pool.lease("m", ACCOUNT) for _ in range(6)]
    entered = [lease.__enter__() for lease in leases]
    world.clock.seconds += 1
    for lease, one in zip(leases, entered, strict=True):
        error = KeyRefused()
        lease.__exit__(KeyRefused, error, None) if one.key == 0 else lease.__exit__(None, None, None)

    assert world.pool._keys[0].quarantined_until - world.clock.seconds == 60


def test_quarantined_keys_are_used_when_all_keys_are_quarantined() -> None:
    world = World(2)
    world.call(ends=KeyRefused())
    world.call(ends=KeyRefused())
    assert not world.pool.is_accepted(0)

    assert world.call() in (0, 1)
    assert world.pool.is_accepted(0) or world.pool.is_accepted(1), "it was answered"


def test_a_model_refused_to_one_key_is_requested_with_others_and_the_key_serves_other_models() -> None:
    world = World(2)
    assert world.call("blocked", ends=ModelRefused("no", is_key_specific=True)) == 0

    assert world.called(3, "blocked") == [1, 1, 1]
    assert world.pool.is_accepted(0)
    assert sorted(world.called(2, "other")) == [0, 1]


def test_a_model_refused_to_every_key_is_still_requested() -> None:
    world = World(1)
    world.call("blocked", ends=ModelRefused("no", is_key_specific=True))

    assert world.call("blocked") == 0


RESULTS: dict[CallResult, BaseException | None] = {
    CallResult.ANSWERED: None,
    CallResult.REFUSED: InvalidRequest("no"),
    CallResult.MODEL_REFUSED: ModelRefused("no", is_key_specific=False),
    CallResult.LIMITED: KeyLimited(retry_seconds=0.001),
    CallResult.KEY_REFUSED: KeyRefused(),
    CallResult.FAILED: UpstreamFailed(),
    CallResult.TIMED_OUT: DeadlineExceeded("late"),
    CallResult.CANCELLED: GeneratorExit(),
    CallResult.INVALID: UpstreamInvalid(),
}


@pytest.mark.parametrize("result", CallResult)
def test_every_call_has_one_result_and_only_failures_of_groq_open_the_circuit(result: CallResult) -> None:
    world, exc = World(1, failures_max=1), RESULTS[result]
    raising: AbstractContextManager[object] = nullcontext() if exc is None else pytest.raises(type(exc))
    with raising, world.pool.lease("m", ACCOUNT) as lease:
        if exc is not None:
            raise exc

    assert lease.result is result
    opens = result in (CallResult.FAILED, CallResult.TIMED_OUT, CallResult.INVALID)
    assert (world.seconds_until() >= 1) == opens


@pytest.mark.parametrize("failure", [UpstreamFailed(), UpstreamInvalid(), DeadlineExceeded("late")])
def test_consecutive_failures_open_the_circuit_and_a_success_between_them_prevents_it(failure: ServiceError) -> None:
    world = World(1)
    for ends in (failure, failure, None, failure, failure, InvalidRequest("the request's own fault"), failure, failure):
        world.call(ends=ends)
    assert world.seconds_until() == 0

    world.call(ends=failure)

    assert world.seconds_until() == 1
    assert world.call("other") == 0


def test_a_successful_probe_closes_an_open_circuit() -> None:
    world = World(1)
    world.open_circuit()
    world.clock.seconds += 1

    with world.pool.lease("m", ACCOUNT) as probe:
        with pytest.raises(UpstreamError):
            world.call()
        probe.record_answer()
        assert world.called(3) == [0, 0, 0], "the probe's long answer must not keep others waiting"

    assert world.called(3) == [0, 0, 0]


def test_response_headers_alone_do_not_close_the_circuit() -> None:
    world = World(1)
    world.open_circuit()
    world.clock.seconds += 1

    world.call(ends=UpstreamInvalid(), has_headers=True)

    assert world.seconds_until() == 2


def test_a_stale_probe_does_not_reopen_a_closed_circuit() -> None:
    world = World(1)
    world.open_circuit()
    world.clock.seconds += 1.5
    with suppress(UpstreamFailed), world.pool.lease("m", ACCOUNT):
        for account in ("normal1", "normal2", "normal3"):
            world.call(account=account)
        world.clock.seconds += 30
        raise UpstreamFailed

    assert world.pool.seconds_until("m", "normal1") == 0
    with world.pool.lease("m", "normal1"):
        assert world.pool.seconds_until("m", "normal1") == 0, "the circuit is closed, so calls are not probes"


def test_a_cancelled_probe_makes_room_for_the_next() -> None:
    world = World(1)
    world.open_circuit()
    world.clock.seconds += 1

    with pytest.raises(GeneratorExit), world.pool.lease("m", ACCOUNT):
        raise GeneratorExit

    assert world.call() == 0


def test_a_time_out_counts_once_and_at_once_and_a_late_answer_clears_it() -> None:
    world = World(1, failures_max=1)
    with world.pool.lease("m", ACCOUNT) as late:
        late.record_timeout()
        late.record_timeout()
        assert world.seconds_until() == 1
        late.record_answer()
        assert world.seconds_until() == 0
    assert late.result is CallResult.TIMED_OUT

    world.fail_late()
    assert world.seconds_until() == 1


def test_a_long_answer_ended_by_its_deadline_is_not_a_failure_of_groq() -> None:
    world = World(1, failures_max=1)
    with suppress(DeadlineExceeded), world.pool.lease("m", ACCOUNT) as lease:
        lease.record_answer()
        raise DeadlineExceeded("too long")

    assert lease.result is CallResult.TIMED_OUT
    assert world.seconds_until() == 0


def test_one_account_does_not_open_the_circuit_for_another() -> None:
    world = World(1, failures_max=10)
    world.call(account="normal")
    for _ in range(50):
        world.call(account="other", ends=DeadlineExceeded("late"))

    assert world.call(account="normal") == 0


def test_a_stateless_pool_uses_its_keys_whatever_happened() -> None:
    world = World(1, cooldown_seconds_max=0)
    world.open_circuit(50)
    world.call(ends=KeyLimited(retry_seconds=60))
    world.call(ends=KeyRefused())

    assert world.call() == 0
    assert world.pool.is_accepted(0)


def test_memory_per_model_is_bounded_and_keeps_active_cooldowns() -> None:
    world = World(1)
    world.call("spent", ends=KeyLimited(retry_seconds=60))
    for number in range(5_000):
        world.call(f"made-up-{number}", ends=ModelRefused("no", is_key_specific=False))
        world.call(f"answered-{number}")

    assert len(world.pool._states) <= 2_000
    assert world.seconds_until("spent") == 60


class CountedSlot:
    """A slot that keeps what is recorded."""

    def __init__(self) -> None:
        self.used: int | None = None

    def observe(self, observations: Sequence[Observation]) -> None:
        """Ignore what Groq reports."""


def test_an_implausible_count_of_tokens_does_not_use_up_the_limits() -> None:
    pool, slot = World(1).pool, CountedSlot()

    with pool.lease("m", ACCOUNT, key=0, slot=slot) as lease:
        lease.record_tokens(10**9)
        assert slot.used is None
        lease.record_tokens(1_200)

    assert slot.used == 1_200
