"""Calling Groq until it answers: what is retried, with which key, when, and what never is."""

import asyncio
import itertools
from collections.abc import Callable, Sequence

import pytest

from services.common.errors import DeadlineExceeded, ErrorDetails, InvalidRequest, NotFound, ServiceError, Unavailable
from services.common.prices import Prices
from services.inference.allowance.own_view import OwnView
from services.inference.chat import CallContext, ChatCall, JSONObject, Lease, Outcome
from services.inference.groq.errors import (
    KeyLimited,
    KeyRefused,
    ModelRefused,
    UpstreamError,
    UpstreamFailed,
    UpstreamInvalid,
)
from services.inference.key_pool.pool import KeyLease, KeyPool
from services.inference.requests.queue import UpstreamQueue
from services.inference.requests.record import CallerLeft, RequestRecord
from services.inference.requests.slots import Limits
from services.inference.requests.upstream import ModelLister, Upstream
from tests.unit.inference.manual_clock import ManualClock

CALL = ChatCall({}, "m", include_usage=False)
CONTEXT = CallContext("req_1", "acc_1", "key_1", "2026-08-02", 0.0)
GOOD = None


class World:
    """A scripted Groq that gives the test's results in order and then answers."""

    def __init__(
        self,
        *script: ServiceError | None,
        keys: int = 1,
        attempts_max: int = 3,
        wait_seconds: float = 5,
        chance: float = 1.0,
        calls_max: int = 100,
    ) -> None:
        self.clock = ManualClock()
        self.sleep = self.clock.sleep
        self.keys = KeyPool(keys, self.clock, cooldown_seconds_max=3600, failures_max=5)
        self.queue = UpstreamQueue(
            self.keys,
            OwnView(self.clock),
            Limits(calls_max, calls_max, 100),
            clock=self.clock,
            sleep=lambda seconds: self.sleep(seconds),
        )
        self.upstream = Upstream(
            self.keys,
            self.queue,
            attempts_max=attempts_max,
            wait_seconds=wait_seconds,
            clock=self.clock,
            sleep=self.clock.sleep,
            random_number=lambda: chance,
        )
        self.record = self.new_record()
        self.calls: list[tuple[str, int]] = []
        """Each call's model and key."""
        self._script = itertools.chain(script, itertools.repeat(GOOD))

    def new_record(self) -> RequestRecord:
        """Return the record of a request that arrives now."""
        return RequestRecord(CALL, CONTEXT, clock=self.clock, prices=Prices({}), stream=True)

    async def ask(
        self, *models: str, deadline_seconds: float = 120, is_empty: Callable[[], bool] = lambda: True
    ) -> str:
        """Request models; return the one that answered."""
        deadline = self.clock.monotonic() + deadline_seconds
        return await self.upstream.call(models or ("m",), self._call, self.record, deadline=deadline, is_empty=is_empty)

    @property
    def keys_used(self) -> list[int]:
        """The keys used for the calls."""
        return [key for _, key in self.calls]

    async def _call(self, model: str, lease: KeyLease) -> str:
        self.calls.append((model, lease.key))
        failure = next(self._script)
        if failure is not None:
            raise failure
        return model


async def test_transient_failures_are_retried_and_every_call_is_counted() -> None:
    world = World(UpstreamFailed(), UpstreamFailed())

    assert await world.ask() == "m"

    assert world.record.attempts == len(world.calls) == 3


async def test_calls_are_limited_and_the_last_failure_is_reported() -> None:
    last = UpstreamFailed("the last")
    world = World(UpstreamFailed(), UpstreamFailed(), last)

    with pytest.raises(UpstreamFailed) as raised:
        await world.ask()

    assert raised.value is last
    assert len(world.calls) == 3


@pytest.mark.parametrize(("chance", "pauses"), [(1.0, [0.25, 0.5, 1, 2, 4, 4]), (0.5, [0.125, 0.25, 0.5, 1, 2, 2])])
async def test_backoff_doubles_within_bounds_with_full_jitter(chance: float, pauses: list[float]) -> None:
    world = World(*[UpstreamFailed() for _ in range(6)], keys=2, attempts_max=7, chance=chance, wait_seconds=100)

    await world.ask()

    assert world.clock.sleeps == pauses


@pytest.mark.parametrize(
    "refusal", [InvalidRequest("no"), NotFound("no"), Unavailable("odd", reason="odd"), DeadlineExceeded("late")]
)
async def test_a_client_error_is_never_retried(refusal: ServiceError) -> None:
    world = World(refusal)

    with pytest.raises(type(refusal)):
        await world.ask("m", "fallback")

    assert world.calls == [("m", 0)]


async def test_nothing_is_retried_once_output_was_received() -> None:
    world = World(UpstreamFailed())

    with pytest.raises(UpstreamFailed):
        await world.ask("m", "fallback", is_empty=lambda: False)

    assert world.calls == [("m", 0)]


@pytest.mark.parametrize("trouble", [KeyLimited(retry_seconds=600), KeyRefused()])
async def test_a_limited_or_refused_key_is_replaced_by_the_next_at_once(trouble: UpstreamError) -> None:
    world = World(trouble, keys=2)

    await world.ask()

    assert world.keys_used == [0, 1]
    assert world.clock.sleeps == []


async def test_a_short_cooldown_is_waited_for_and_counts_as_time_in_the_queue() -> None:
    world = World(KeyLimited(retry_seconds=2))

    await world.ask()

    assert world.keys_used == [0, 0]
    assert sum(world.clock.sleeps) == 2
    assert world.record.queue_seconds == 2


@pytest.mark.parametrize(("rest", "deadline"), [(6.0, 120.0), (3.0, 2.0)])
async def test_a_cooldown_beyond_the_maximum_wait_or_deadline_is_not_waited_for(rest: float, deadline: float) -> None:
    world = World(KeyLimited(retry_seconds=rest))

    with pytest.raises(UpstreamError) as raised:
        await world.ask(deadline_seconds=deadline)

    assert raised.value.details == ErrorDetails(retry_after_seconds=int(rest))
    assert world.clock.sleeps == []
    assert len(world.calls) == 1


async def test_exhausted_keys_are_not_called() -> None:
    world = World(KeyLimited(retry_seconds=600))
    with pytest.raises(UpstreamError):
        await world.ask()

    for _ in range(3):
        with pytest.raises(UpstreamError):
            await world.ask()

    assert len(world.calls) == 1


async def test_a_requested_pause_is_kept_if_the_deadline_allows() -> None:
    world = World(UpstreamFailed(retry_seconds=3))
    await world.ask()
    assert world.clock.sleeps == [3]

    world = World(UpstreamFailed(retry_seconds=6))
    with pytest.raises(UpstreamFailed):
        await world.ask()
    assert len(world.calls) == 1


async def test_no_pause_exceeds_the_deadline() -> None:
    world = World(UpstreamFailed())

    with pytest.raises(UpstreamFailed):
        await world.ask(deadline_seconds=0.2)

    assert len(world.calls) == 1


async def test_a_single_refused_key_is_tried_once_per_request_and_reported() -> None:
    world = World(KeyRefused(), KeyRefused())
    for _ in range(2):
        with pytest.raises(KeyRefused):
            await world.ask()

    assert len(world.calls) == 2
    assert await world.ask() == "m"


async def test_a_request_that_opens_the_circuit_does_not_wait_to_probe_it() -> None:
    world = World(*[UpstreamFailed() for _ in range(5)], attempts_max=10)

    with pytest.raises(UpstreamFailed):
        await world.ask()

    assert len(world.calls) == 5


FIRST: dict[str, Sequence[ServiceError]] = {
    "limited": [KeyLimited(retry_seconds=600)],
    "refused": [KeyRefused()],
    "failing": [UpstreamFailed(), UpstreamFailed(), UpstreamFailed()],
    "invalid": [UpstreamInvalid(), UpstreamInvalid(), UpstreamInvalid()],
    "missing": [ModelRefused("no such model", is_key_specific=False)],
    "blocked": [ModelRefused("not for this organisation", is_key_specific=True)],
}


@pytest.mark.parametrize("first", FIRST)
async def test_the_next_model_answers_when_the_first_is_unavailable(first: str) -> None:
    world = World(*FIRST[first])

    assert await world.ask("m", "second") == "second"

    assert world.record.upstream_model == "second"
    assert world.record.attempts == len(FIRST[first]) + 1


async def test_a_model_without_a_usable_key_is_skipped_without_a_call() -> None:
    world = World(KeyLimited(retry_seconds=600))
    await world.ask("m", "second")

    await world.ask("m", "second")

    assert [model for model, _ in world.calls] == ["m", "second", "second"]


async def test_groq_is_not_called_for_a_disconnected_caller() -> None:
    world = World()
    world.record.abandon(Outcome.CLIENT_LEFT)

    with pytest.raises(CallerLeft):
        await world.ask()

    assert world.calls == []


async def test_a_caller_that_disconnects_during_a_cooldown_causes_no_call() -> None:
    world = World(KeyLimited(retry_seconds=2))
    ask = world.clock.sleep

    async def leave(seconds: float) -> None:
        await ask(seconds)
        world.record.abandon(Outcome.CLIENT_LEFT)

    world.sleep = leave

    with pytest.raises(CallerLeft):
        await world.ask()

    assert len(world.calls) == 1


async def test_nothing_is_retried_for_a_disconnected_caller() -> None:
    world = World()

    async def call(model: str, lease: KeyLease) -> str:
        world.calls.append((model, lease.key))
        world.record.abandon(Outcome.CLIENT_LEFT)
        raise UpstreamFailed

    with pytest.raises(UpstreamFailed):
        await world.upstream.call(["m", "second"], call, world.record, deadline=world.clock.seconds + 100)

    assert len(world.calls) == 1


async def test_three_refused_keys_do_not_hide_two_valid_ones() -> None:
    world = World(KeyRefused(), KeyRefused(), KeyRefused(), keys=5)

    assert await world.ask() == "m"
    assert world.keys_used == [0, 1, 2, 3]

    for _ in range(4):
        await world.ask()
    assert world.keys_used[4:] == [4, 3, 4, 3], "refused keys are not called"


async def test_refused_keys_do_not_use_up_the_attempts_for_failures() -> None:
    world = World(KeyRefused(), UpstreamFailed(), KeyRefused(), UpstreamFailed(), keys=5)

    assert await world.ask() == "m"

    assert len(world.calls) == 5


async def test_a_model_blocked_for_every_key_is_requested_once_with_each() -> None:
    refusals = [ModelRefused("no", is_key_specific=True) for _ in range(3)]
    world = World(*refusals, keys=3)

    with pytest.raises(ModelRefused):
        await world.ask()

    assert world.keys_used == [0, 1, 2]


async def test_all_waits_of_a_request_share_one_budget() -> None:
    world = World(*[KeyLimited(retry_seconds=2) for _ in range(9)], attempts_max=9, chance=0)

    with pytest.raises(UpstreamError):
        await world.ask()

    assert sum(world.clock.sleeps) == 4


async def test_a_fallback_is_called_as_soon_as_the_wait_for_the_first_choice_is_longer() -> None:
    world = World(KeyLimited(retry_seconds=2))

    assert await world.ask("m", "second") == "second"

    assert world.clock.sleeps == []


async def test_of_two_models_that_both_need_a_wait_the_sooner_is_chosen() -> None:
    world = World(KeyLimited(retry_seconds=4), KeyLimited(retry_seconds=1))

    assert await world.ask("m", "second") == "second"

    assert sum(world.clock.sleeps) == 1


async def test_a_request_holds_no_slot_while_it_waits_for_a_key() -> None:
    world = World(KeyLimited(retry_seconds=2), calls_max=1)
    seen = []
    sleep = world.clock.sleep

    async def note(seconds: float) -> None:
        seen.append(world.queue.calls)
        await sleep(seconds)

    world.sleep = note
    await world.ask()

    assert set(seen) == {0}


async def test_a_call_that_exceeds_the_deadline_ends_with_a_time_out_that_counts() -> None:
    world = World()

    async def hang(model: str, lease: KeyLease) -> str:
        await asyncio.Event().wait()
        return model

    for _ in range(5):
        with pytest.raises(DeadlineExceeded) as raised:
            await world.upstream.call(["m", "second"], hang, world.new_record(), deadline=world.clock.seconds + 0.01)

    assert raised.value.reason == "deadline_exceeded"
    assert world.keys.seconds_until("m", "acc_1") == 1


async def test_nothing_is_called_at_the_deadline() -> None:
    world = World()

    with pytest.raises(DeadlineExceeded):
        await world.ask(deadline_seconds=0)

    assert world.calls == []
    assert world.keys.seconds_until("m", "acc_1") == 0


class Listing:
    """A provider that lists models only with one of its keys."""

    def __init__(self, good: int | None) -> None:
        self.good = good

    async def list_models(self, lease: Lease) -> list[JSONObject]:
        """List, or refuse the key."""
        if lease.key != self.good:
            raise KeyRefused
        return [{"id": "m"}]


@pytest.mark.parametrize("keys", [1, 2, 3])
async def test_the_models_are_listed_with_the_first_key_that_is_not_refused(keys: int) -> None:
    pool = KeyPool(keys, ManualClock(), cooldown_seconds_max=60, failures_max=5)

    listed = await ModelLister(Listing(keys - 1).list_models, pool).list_models()

    assert listed == [{"id": "m"}]


async def test_a_list_refused_to_every_key_is_unavailable() -> None:
    pool = KeyPool(2, ManualClock(), cooldown_seconds_max=60, failures_max=5)

    with pytest.raises(KeyRefused):
        await ModelLister(Listing(None).list_models, pool).list_models()
