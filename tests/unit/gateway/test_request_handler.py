"""The request handler settles a hold by its verdict only, and retries a lost reserve once under a new id."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, cast

import pytest

from services.common.concurrency.byte_budget import ByteBudget
from services.common.errors import ErrorDetails, InvalidRequest, ServiceError, Unavailable
from services.common.estimate import Estimate
from services.common.runtime.clock import SystemClock
from services.common.surface import Surface
from services.common.verdict import CHARGED, RELEASED, RowVerdict, Verdict
from services.gateway.apis.chat_completions.surface import ChatRenderer
from services.gateway.http.request_bodies import RequestBodies
from services.gateway.requests.claimed_key import ClaimedKey
from services.gateway.requests.handler import RequestHandler
from services.gateway.requests.idempotency_types import IdempotencyKey
from services.gateway.requests.invalid_requests import InvalidRequestLimiter
from services.gateway.requests.settlement import SettledStream, Settlements
from services.gateway.requests.surface import SurfaceRequest
from services.gateway.requests.types import (
    Chat,
    Completion,
    Departure,
    Hold,
    JSONObject,
    LimitReached,
    Principal,
    RateLimit,
)

_PRINCIPAL = Principal("key_1", "acc_1", 10, None)
_RATE_LIMIT = RateLimit(10, 0, 1, 86_400)
_CHAT = Chat({"messages": [{"role": "user", "content": "hi"}]}, stream=False, surface=Surface.CHAT)


class ScriptedQuota:
    """Raises the scripted errors, then answers; records its calls."""

    def __init__(self, *failures: ServiceError) -> None:
        self._failures = list(failures)
        self.reserved: list[str] = []
        self.settled: list[tuple[str, RowVerdict]] = []

    async def reserve(self, request_id: str, principal: Principal, estimate: Estimate | None = None) -> Hold:
        self.reserved.append(request_id)
        if self._failures:
            raise self._failures.pop(0)
        return Hold(request_id, principal, "2026-11-22", 1, _RATE_LIMIT)

    async def drain(self) -> None:
        pass

    def settle(self, hold: Hold, verdict: RowVerdict) -> "asyncio.Future[None]":
        return asyncio.ensure_future(self._settle(hold, verdict))

    async def _settle(self, hold: Hold, verdict: RowVerdict) -> None:
        if self._failures:
            raise self._failures.pop(0)
        self.settled.append((hold.request_id, verdict))


class Client:
    """A client that is connected or has disconnected."""

    def __init__(self, departure: Departure | None = None) -> None:
        self.departure = departure


class ScriptedInference:
    """Answers or fails as scripted."""

    def __init__(self, *parts: Any, rows: Sequence[RowVerdict | ServiceError | None] = ()) -> None:
        self._parts = parts
        self._rows = iter(rows)
        self.resolved: list[tuple[str, Departure | None]] = []
        self.is_called = False

    async def resolve_abandoned(self, hold: Hold, departure: Departure | None) -> RowVerdict | None:
        self.resolved.append((hold.request_id, departure))
        row = next(self._rows, None)
        if isinstance(row, ServiceError):
            raise row
        return row

    async def list_models(self, permitted: Sequence[str] = ()) -> list[JSONObject]:
        return []

    async def complete(self, hold: Hold, chat: Chat) -> Completion:
        self.is_called = True
        if not self._parts:
            await asyncio.Event().wait()
        (part,) = self._parts
        if isinstance(part, Exception):
            raise part
        return Completion(b"{}", part)

    async def stream(self, hold: Hold, chat: Chat) -> AsyncGenerator[Any, None]:
        self.is_called = True
        for part in self._parts:
            if isinstance(part, Exception):
                raise part
            yield part
        if not self._parts:
            await asyncio.Event().wait()


async def no_estimate(chat: Chat) -> Estimate:
    """Return the estimate of a chat whose key has no limit of tokens."""
    return Estimate(1, 1, 0, 0)


class World:
    """A request handler over scripted services."""

    def __init__(self, quota: ScriptedQuota, inference: ScriptedInference, **bounds: float) -> None:
        numbers = itertools.count(2)
        limits: dict[str, Any] = {"abandoned_max": 10, "abandoned_seconds": 10, **bounds}
        self.settlements = Settlements(quota, inference, **limits)
        self.handler = RequestHandler(
            quota,
            inference,
            self.settlements,
            RequestBodies(ByteBudget(total_max=1, share_max=1), bytes_max=1),
            InvalidRequestLimiter(SystemClock(), per_second=1),
            cast(Any, None),
            estimate=no_estimate,
            new_request_id=lambda: f"req_{next(numbers)}",
            heartbeat_seconds=1,
        )


def _over(quota: ScriptedQuota, inference: ScriptedInference, **bounds: float) -> World:
    return World(quota, inference, **bounds)


def _world(quota: ScriptedQuota, *parts: Any) -> World:
    return _over(quota, ScriptedInference(*parts))


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def _settled(quota: ScriptedQuota, world: World) -> list[RowVerdict]:
    await world.settlements.drain(timeout_seconds=5)
    return [verdict for _, verdict in quota.settled]


async def test_a_reserve_without_an_answer_is_retried_once_under_a_new_id() -> None:
    quota = ScriptedQuota(Unavailable("lost"))
    hold = await _world(quota, CHARGED).handler.reserve(_PRINCIPAL, "req_1")
    assert quota.reserved == ["req_1", "req_2"]
    assert hold.request_id == "req_2"


class UnreachableStore:
    """A store of idempotency keys that cannot be reached."""

    async def rename(self, *_: Any) -> None:
        raise Unavailable("The storage is away.")


async def test_a_request_whose_new_id_cannot_be_stored_is_released_and_not_run() -> None:
    """A repeat would look for the ledger row of the previous id, and run a second time."""
    quota, inference = ScriptedQuota(Unavailable("lost")), ScriptedInference(CHARGED)
    world = _over(quota, inference)
    claim = ClaimedKey(cast(Any, UnreachableStore()), IdempotencyKey("acc_1", "key_1", b""), "req_1", set())
    hold = await world.handler.reserve(_PRINCIPAL, "req_1")
    with pytest.raises(Unavailable, match="storage"):
        await world.handler._rename(claim, hold)
    assert await _settled(quota, world) == [RELEASED]
    assert not inference.is_called


async def test_a_reserve_that_is_lost_twice_is_an_outage() -> None:
    quota = ScriptedQuota(Unavailable("lost"), Unavailable("lost"))
    with pytest.raises(Unavailable):
        await _world(quota, CHARGED).handler.reserve(_PRINCIPAL, "req_1")
    assert len(quota.reserved) == 2


async def test_a_denied_reserve_is_not_retried() -> None:
    quota = ScriptedQuota(LimitReached(_RATE_LIMIT))
    with pytest.raises(LimitReached):
        await _world(quota, CHARGED).handler.reserve(_PRINCIPAL, "req_1")
    assert quota.reserved == ["req_1"]


@pytest.mark.parametrize(
    ("part", "settled"),
    [
        (CHARGED, [CHARGED]),
        (RELEASED, [RELEASED]),
        (None, []),
        (InvalidRequest("refused", details=ErrorDetails(verdict=Verdict.RELEASED)), [RELEASED]),
        (Unavailable("cut", details=ErrorDetails(verdict=Verdict.CHARGED)), [CHARGED]),
        (Unavailable("the connection broke"), []),
    ],
)
async def test_a_hold_is_settled_only_by_the_verdict_of_inference(part: Any, settled: list[RowVerdict]) -> None:
    quota = ScriptedQuota()
    world = _world(quota, part)
    hold = await world.handler.reserve(_PRINCIPAL, "req_1")
    if isinstance(part, ServiceError):
        with pytest.raises(type(part)):
            await world.handler.complete(hold, _CHAT, Client())
    else:
        await world.handler.complete(hold, _CHAT, Client())
    assert await _settled(quota, world) == settled


async def test_a_request_whose_call_raises_an_unexpected_error_is_settled_by_its_row() -> None:
    quota, inference = ScriptedQuota(), ScriptedInference(RuntimeError("bug"), rows=[CHARGED])
    world = _over(quota, inference)
    hold = await world.handler.reserve(_PRINCIPAL, "req_1")
    with pytest.raises(RuntimeError):
        await world.handler.complete(hold, _CHAT, Client())
    await until(lambda: bool(quota.settled))
    assert await _settled(quota, world) == [CHARGED]
    assert inference.resolved == [("req_1", None)]


async def test_a_stream_whose_close_fails_is_settled_by_its_row() -> None:
    class Parts:
        async def aclose(self) -> None:
            raise RuntimeError("bug")

    quota, inference = ScriptedQuota(), ScriptedInference(rows=[RELEASED])
    world = _over(quota, inference)
    hold = await world.handler.reserve(_PRINCIPAL, "req_1")
    parts: Any = Parts()
    with pytest.raises(RuntimeError):
        await SettledStream(world.settlements, parts, hold, Client()).aclose()
    await until(lambda: bool(quota.settled))
    assert await _settled(quota, world) == [RELEASED]


class BrokenRenderer(ChatRenderer):
    """A renderer with a bug."""

    def begin(self, request_id: str, now: float) -> None:
        raise RuntimeError("bug")


async def test_a_hold_is_released_if_its_renderer_fails_before_the_call() -> None:
    quota, inference = ScriptedQuota(), ScriptedInference(CHARGED)
    world = _over(quota, inference)
    hold = await world.handler.reserve(_PRINCIPAL, "req_1")
    with pytest.raises(RuntimeError):
        world.handler._begin(hold, SurfaceRequest(_CHAT, BrokenRenderer()))
    assert await _settled(quota, world) == [RELEASED]
    assert not inference.is_called


async def test_a_stream_that_breaks_after_output_is_settled_by_its_verdict() -> None:
    quota = ScriptedQuota()
    world = _world(quota, [b"{}"], Unavailable("cut", details=ErrorDetails(verdict=Verdict.CHARGED)))
    hold = await world.handler.reserve(_PRINCIPAL, "req_1")
    stream = world.handler.stream(hold, _CHAT, Client())
    assert await anext(stream) == [b"{}"]
    with pytest.raises(Unavailable):
        await anext(stream)
    assert await _settled(quota, world) == [CHARGED]


async def test_a_settle_without_an_answer_is_retried() -> None:
    quota = ScriptedQuota()
    world = _world(quota, CHARGED)
    hold = await world.handler.reserve(_PRINCIPAL, "req_1")
    quota._failures = [Unavailable("lost")]
    await world.handler.complete(hold, _CHAT, Client())
    async with asyncio.timeout(2):
        assert await _settled(quota, world) == [CHARGED]


@pytest.mark.parametrize("verdict", [CHARGED, RELEASED])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_request_whose_client_disconnects_is_settled_by_its_row(verdict: RowVerdict, is_stream: bool) -> None:
    quota, inference = ScriptedQuota(), ScriptedInference(rows=[None, Unavailable("away"), verdict])
    world, client = _over(quota, inference), Client()
    hold = await world.handler.reserve(_PRINCIPAL, "req_1")
    stream = world.handler.stream(hold, _CHAT, client)
    call = asyncio.ensure_future(anext(stream) if is_stream else world.handler.complete(hold, _CHAT, client))
    await until(lambda: inference.is_called)

    client.departure = Departure.CLIENT_LEFT
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await stream.aclose()
    await until(lambda: bool(quota.settled))

    assert quota.settled == [("req_1", verdict)]
    assert inference.resolved[:3] == [("req_1", Departure.CLIENT_LEFT)] * 3


async def test_a_stream_closed_before_it_was_read_is_settled_by_its_row() -> None:
    quota, inference = ScriptedQuota(), ScriptedInference(rows=[RELEASED])
    world = _over(quota, inference)
    hold = await world.handler.reserve(_PRINCIPAL, "req_1")

    await world.handler.stream(hold, _CHAT, Client(Departure.KEY_REVOKED)).aclose()
    await until(lambda: bool(quota.settled))

    assert (quota.settled, inference.is_called) == ([("req_1", RELEASED)], False)


async def test_a_stream_closed_after_its_end_is_not_abandoned() -> None:
    quota, inference = ScriptedQuota(), ScriptedInference([b"{}"], CHARGED)
    world = _over(quota, inference)
    hold = await world.handler.reserve(_PRINCIPAL, "req_1")
    stream = world.handler.stream(hold, _CHAT, Client())

    assert [part async for part in stream] == [[b"{}"]]
    await stream.aclose()

    assert await _settled(quota, world) == [CHARGED]
    assert inference.resolved == []


async def test_a_request_without_a_row_in_time_is_left_to_the_sweeper(caplog: pytest.LogCaptureFixture) -> None:
    quota, inference = ScriptedQuota(), ScriptedInference(None)
    world = _over(quota, inference, abandoned_seconds=0.2)
    hold = await world.handler.reserve(_PRINCIPAL, "req_1")

    await world.handler.complete(hold, _CHAT, Client())
    await until(lambda: "The sweeper will close" in caplog.text)

    assert quota.settled == []
    assert len(inference.resolved) == 2


async def test_abandoned_requests_beyond_the_bound_are_left_to_the_sweeper(
    caplog: pytest.LogCaptureFixture,
) -> None:
    quota, inference = ScriptedQuota(), ScriptedInference(None)
    world = _over(quota, inference, abandoned_max=2)
    for number in range(3):
        await world.handler.complete(await world.handler.reserve(_PRINCIPAL, f"req_{number}"), _CHAT, Client())

    assert caplog.text.count("The sweeper will close") == 1
    await world.settlements.drain(timeout_seconds=1)
    await until(lambda: not world.settlements._abandoned)
