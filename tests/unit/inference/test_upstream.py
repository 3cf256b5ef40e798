"""Asking until Groq answers: what is tried again, with which key, when, and what never is."""

import itertools
from collections.abc import Callable, Sequence

import pytest

from services.common.errors import DeadlineExceeded, InvalidRequest, NotFound, ServiceError, Unavailable
from services.inference.chat import ChatCall, Members, RequestContext, Turn
from services.inference.entry import CallerLeft, Entry
from services.inference.supply import KeyLimited, KeyRefused, Supply, UpstreamFailed, UpstreamTrouble
from services.inference.upstream import ModelLister, Upstream
from tests.unit.inference.manual_clock import ManualClock

CALL = ChatCall({}, "m", asks_for_usage=False)
CONTEXT = RequestContext("req_1", "acc_1", "key_1", "2026-08-02", 0.0)
GOOD = None


class World:
    """A Groq that does what the test lists, call after call, and then answers."""

    def __init__(
        self,
        *script: ServiceError | None,
        keys: int = 1,
        attempts_max: int = 3,
        wait_seconds: float = 5,
        chance: float = 1.0,
    ) -> None:
        self.clock = ManualClock()
        self.supply = Supply(keys, self.clock, rest_seconds_max=3600, failures_max=5)
        self.upstream = Upstream(
            self.supply,
            attempts_max=attempts_max,
            wait_seconds=wait_seconds,
            clock=self.clock,
            sleep=self.clock.sleep,
            chance=lambda: chance,
        )
        self.entry = Entry(CALL, CONTEXT, clock=self.clock, stream=True)
        self.calls: list[tuple[str, int]] = []
        """Each call's model and key."""
        self._script = itertools.chain(script, itertools.repeat(GOOD))

    async def ask(
        self, *models: str, deadline_seconds: float = 120, is_unheard: Callable[[], bool] = lambda: True
    ) -> str:
        """Ask for models and return the one that answered."""
        deadline = self.clock.monotonic() + deadline_seconds
        return await self.upstream.ask(
            models or ("m",), self._call, self.entry, deadline=deadline, is_unheard=is_unheard
        )

    @property
    def keys(self) -> list[int]:
        """The keys asked with."""
        return [key for _, key in self.calls]

    async def _call(self, model: str, turn: Turn) -> str:
        self.calls.append((model, turn.key))
        failure = next(self._script)
        if failure is not None:
            raise failure
        turn.answered(rest_seconds=0)
        return model


async def test_trouble_is_tried_again_and_every_call_is_counted() -> None:
    world = World(UpstreamFailed(), UpstreamFailed())

    assert await world.ask() == "m"

    assert world.entry.attempts == len(world.calls) == 3


async def test_no_more_calls_are_made_than_allowed_and_the_last_failure_is_told() -> None:
    last = UpstreamFailed("the last")
    world = World(UpstreamFailed(), UpstreamFailed(), last)

    with pytest.raises(UpstreamFailed) as raised:
        await world.ask()

    assert raised.value is last
    assert len(world.calls) == 3


@pytest.mark.parametrize(("chance", "pauses"), [(1.0, [0.25, 0.5, 1, 2, 4, 4]), (0.5, [0.125, 0.25, 0.5, 1, 2, 2])])
async def test_pauses_double_within_bounds_and_are_jittered_in_full(chance: float, pauses: list[float]) -> None:
    world = World(*[UpstreamFailed() for _ in range(6)], keys=2, attempts_max=7, chance=chance)

    await world.ask()

    assert world.clock.sleeps == pauses


@pytest.mark.parametrize(
    "refusal", [InvalidRequest("no"), NotFound("no"), Unavailable("odd", reason="upstream_invalid")]
)
async def test_what_is_the_requests_own_fault_is_never_asked_again(refusal: ServiceError) -> None:
    world = World(refusal)

    with pytest.raises(type(refusal)):
        await world.ask("m", "fallback")

    assert world.calls == [("m", 0)]


async def test_nothing_is_asked_again_once_output_was_heard() -> None:
    world = World(UpstreamFailed())

    with pytest.raises(UpstreamFailed):
        await world.ask("m", "fallback", is_unheard=lambda: False)

    assert world.calls == [("m", 0)]


@pytest.mark.parametrize("trouble", [KeyLimited(rest_seconds=600), KeyRefused()])
async def test_a_key_that_is_limited_or_refused_gives_way_to_the_next_at_once(trouble: UpstreamTrouble) -> None:
    world = World(trouble, keys=2)

    await world.ask()

    assert world.keys == [0, 1]
    assert world.clock.sleeps == []


async def test_a_short_rest_is_waited_for_and_a_herd_does_not_come_back_at_once() -> None:
    world = World(KeyLimited(rest_seconds=2), chance=0.5)

    await world.ask()

    assert world.keys == [0, 0]
    assert world.clock.sleeps == [2 * 1.125]


@pytest.mark.parametrize(("rest", "deadline"), [(6.0, 120.0), (3.0, 2.0)])
async def test_a_rest_beyond_patience_or_deadline_is_not_waited_for(rest: float, deadline: float) -> None:
    world = World(KeyLimited(rest_seconds=rest))

    with pytest.raises(UpstreamTrouble) as raised:
        await world.ask(deadline_seconds=deadline)

    assert raised.value.metadata == {"retry_after_seconds": str(int(rest))}
    assert world.clock.sleeps == []
    assert len(world.calls) == 1


async def test_a_supply_that_is_known_to_be_gone_is_not_asked() -> None:
    world = World(KeyLimited(rest_seconds=600))
    with pytest.raises(UpstreamTrouble):
        await world.ask()

    for _ in range(3):
        with pytest.raises(UpstreamTrouble):
            await world.ask()

    assert len(world.calls) == 1


async def test_a_failure_that_asks_for_a_pause_gets_it_when_there_is_time() -> None:
    world = World(UpstreamFailed(rest_seconds=3))
    await world.ask()
    assert world.clock.sleeps == [3]

    world = World(UpstreamFailed(rest_seconds=6))
    with pytest.raises(UpstreamFailed):
        await world.ask()
    assert len(world.calls) == 1


async def test_no_pause_outlasts_the_deadline() -> None:
    world = World(UpstreamFailed())

    with pytest.raises(UpstreamFailed):
        await world.ask(deadline_seconds=0.2)

    assert len(world.calls) == 1


async def test_the_only_key_that_is_refused_is_asked_once_by_each_request_and_that_is_told() -> None:
    world = World(KeyRefused(), KeyRefused())
    for _ in range(2):
        with pytest.raises(KeyRefused):
            await world.ask()

    assert len(world.calls) == 2
    assert await world.ask() == "m"


async def test_a_request_that_breaks_the_circuit_does_not_wait_to_probe_it() -> None:
    world = World(*[UpstreamFailed() for _ in range(5)], attempts_max=10)

    with pytest.raises(UpstreamFailed):
        await world.ask()

    assert len(world.calls) == 5


FIRST: dict[str, Sequence[ServiceError]] = {
    "limited": [KeyLimited(rest_seconds=600)],
    "refused": [KeyRefused()],
    "failing": [UpstreamFailed(), UpstreamFailed(), UpstreamFailed()],
    "silent": [DeadlineExceeded("silent", reason="upstream_timeout")],
}


@pytest.mark.parametrize("first", FIRST)
async def test_the_next_model_answers_when_the_first_cannot_be_had(first: str) -> None:
    world = World(*FIRST[first])

    assert await world.ask("m", "second") == "second"

    assert world.entry.upstream_model == "second"
    assert world.entry.attempts == len(FIRST[first]) + 1


async def test_a_model_without_supply_is_passed_over_without_a_call() -> None:
    world = World(KeyLimited(rest_seconds=600))
    await world.ask("m", "second")

    await world.ask("m", "second")

    assert [model for model, _ in world.calls] == ["m", "second", "second"]


async def test_nobody_is_asked_for_a_caller_who_left_before() -> None:
    world = World()
    world.entry.caller_left = True

    with pytest.raises(CallerLeft):
        await world.ask()

    assert world.calls == []


async def test_nothing_is_tried_again_for_a_caller_who_left() -> None:
    world = World(UpstreamFailed())
    world.entry.attempts = 1  # It left while an earlier call was under way.
    world.entry.caller_left = True

    with pytest.raises(UpstreamFailed):
        await world.ask("m", "second")

    assert len(world.calls) == 1


class Listing:
    """A provider that lists only with one of its keys."""

    def __init__(self, good: int | None) -> None:
        self.good = good

    async def list_models(self, turn: Turn) -> list[Members]:
        """List, or refuse the key."""
        if turn.key != self.good:
            raise KeyRefused
        return [{"id": "m"}]


@pytest.mark.parametrize("keys", [1, 2, 3])
async def test_the_models_are_listed_with_the_first_key_that_is_not_refused(keys: int) -> None:
    supply = Supply(keys, ManualClock(), rest_seconds_max=60, failures_max=5)

    listed = await ModelLister(Listing(keys - 1).list_models, supply).list_models()

    assert listed == [{"id": "m"}]


async def test_a_list_that_no_key_gets_is_unavailable() -> None:
    supply = Supply(2, ManualClock(), rest_seconds_max=60, failures_max=5)

    with pytest.raises(KeyRefused):
        await ModelLister(Listing(None).list_models, supply).list_models()
