"""The pipeline: a hold is settled on inference's word only, and a lost reserve is tried once more under a new id."""

import asyncio
import itertools
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from services.common.errors import InvalidRequest, ServiceError, Unavailable
from services.gateway.pipeline import Chat, Completion, Hold, LimitReached, Pipeline, Principal, RateLimit, Verdict

_PRINCIPAL = Principal("key_1", "acc_1", 10, None)
_RATE_LIMIT = RateLimit(10, 0, 1, 86_400)
_CHAT = Chat({"messages": [{"role": "user", "content": "hi"}]}, stream=False)


class Principals:
    """Nobody is asked here."""

    async def authenticate(self, api_key: str, *, address: str = "") -> Principal:
        return _PRINCIPAL


class ScriptedQuota:
    """Fails as told, then answers; remembers what it was asked."""

    def __init__(self, *failures: ServiceError) -> None:
        self._failures = list(failures)
        self.reserved: list[str] = []
        self.settled: list[tuple[str, Verdict]] = []

    async def reserve(self, request_id: str, principal: Principal) -> Hold:
        self.reserved.append(request_id)
        if self._failures:
            raise self._failures.pop(0)
        return Hold(request_id, principal, "2026-11-22", 1, _RATE_LIMIT)

    async def settle(self, hold: Hold, verdict: Verdict) -> None:
        if self._failures:
            raise self._failures.pop(0)
        self.settled.append((hold.request_id, verdict))


class Client:
    """Somebody who waits, or has left."""

    def __init__(self, *, has_left: bool = False) -> None:
        self.has_left = has_left


class ScriptedInference:
    """Answers or fails as told."""

    def __init__(self, *parts: Any) -> None:
        self._parts = parts
        self.left: list[str] = []

    async def note_client_left(self, hold: Hold) -> None:
        self.left.append(hold.request_id)

    async def complete(self, hold: Hold, chat: Chat) -> Completion:
        (part,) = self._parts
        if isinstance(part, Exception):
            raise part
        return Completion(b"{}", part)

    async def stream(self, hold: Hold, chat: Chat) -> AsyncGenerator[Any, None]:
        for part in self._parts:
            if isinstance(part, Exception):
                raise part
            yield part


def _pipeline(quota: ScriptedQuota, *parts: Any) -> Pipeline:
    numbers = itertools.count(2)
    return Pipeline(Principals(), quota, ScriptedInference(*parts), new_request_id=lambda: f"req_{next(numbers)}")


async def _settled(quota: ScriptedQuota, pipeline: Pipeline) -> list[Verdict]:
    await pipeline.drain(timeout_seconds=5)
    return [verdict for _, verdict in quota.settled]


async def test_a_reserve_without_an_answer_is_tried_once_more_under_a_new_id() -> None:
    quota = ScriptedQuota(Unavailable("lost"))
    hold = await _pipeline(quota, Verdict.CHARGED).reserve(_PRINCIPAL, "req_1")
    assert quota.reserved == ["req_1", "req_2"]
    assert hold.request_id == "req_2"


async def test_a_reserve_that_is_lost_twice_is_an_outage() -> None:
    quota = ScriptedQuota(Unavailable("lost"), Unavailable("lost"))
    with pytest.raises(Unavailable):
        await _pipeline(quota, Verdict.CHARGED).reserve(_PRINCIPAL, "req_1")
    assert len(quota.reserved) == 2


async def test_a_denial_is_not_tried_again() -> None:
    quota = ScriptedQuota(LimitReached(_RATE_LIMIT))
    with pytest.raises(LimitReached):
        await _pipeline(quota, Verdict.CHARGED).reserve(_PRINCIPAL, "req_1")
    assert quota.reserved == ["req_1"]


@pytest.mark.parametrize(
    ("part", "settled"),
    [
        (Verdict.CHARGED, [Verdict.CHARGED]),
        (Verdict.RELEASED, [Verdict.RELEASED]),
        (None, []),
        (InvalidRequest("refused", metadata={"verdict": "released"}), [Verdict.RELEASED]),
        (Unavailable("cut", metadata={"verdict": "charged"}), [Verdict.CHARGED]),
        (Unavailable("the connection broke"), []),
        (Unavailable("gibberish", metadata={"verdict": "perhaps"}), []),
    ],
)
async def test_a_hold_is_settled_on_inferences_word_only(part: Any, settled: list[Verdict]) -> None:
    quota = ScriptedQuota()
    pipeline = _pipeline(quota, part)
    hold = await pipeline.reserve(_PRINCIPAL, "req_1")
    if isinstance(part, ServiceError):
        with pytest.raises(type(part)):
            await pipeline.complete(hold, _CHAT, Client())
    else:
        await pipeline.complete(hold, _CHAT, Client())
    assert await _settled(quota, pipeline) == settled


async def test_a_stream_that_breaks_after_output_is_settled_by_its_verdict() -> None:
    quota = ScriptedQuota()
    pipeline = _pipeline(quota, [b"{}"], Unavailable("cut", metadata={"verdict": "charged"}))
    hold = await pipeline.reserve(_PRINCIPAL, "req_1")
    stream = pipeline.stream(hold, _CHAT, Client())
    assert await anext(stream) == [b"{}"]
    with pytest.raises(Unavailable):
        await anext(stream)
    assert await _settled(quota, pipeline) == [Verdict.CHARGED]


async def test_a_settle_without_an_answer_is_repeated() -> None:
    quota = ScriptedQuota()
    pipeline = _pipeline(quota, Verdict.CHARGED)
    hold = await pipeline.reserve(_PRINCIPAL, "req_1")
    quota._failures = [Unavailable("lost")]
    await pipeline.complete(hold, _CHAT, Client())
    async with asyncio.timeout(2):
        assert await _settled(quota, pipeline) == [Verdict.CHARGED]


async def test_a_client_that_left_is_noted_on_the_row_and_charged_all_the_same() -> None:
    quota, inference = ScriptedQuota(), ScriptedInference(Verdict.CHARGED)
    pipeline = Pipeline(Principals(), quota, inference, new_request_id=lambda: "req_2")
    hold = await pipeline.reserve(_PRINCIPAL, "req_1")
    await pipeline.complete(hold, _CHAT, Client(has_left=True))
    assert await _settled(quota, pipeline) == [Verdict.CHARGED]
    assert inference.left == ["req_1"]


async def test_a_hold_whose_client_left_before_the_call_is_released() -> None:
    quota = ScriptedQuota()
    pipeline = _pipeline(quota)
    pipeline.release(await pipeline.reserve(_PRINCIPAL, "req_1"))
    assert await _settled(quota, pipeline) == [Verdict.RELEASED]
