"""Refused requests are summed up, sent once a second, kept while quota is unavailable, and bounded."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import pytest

from services.common.errors import InvalidRequest, ServiceError, Unavailable
from services.gateway.http.errors import HTTPError
from services.gateway.keys import refusals
from services.gateway.keys.refusals import Refusals, RefusedRequests
from services.gateway.metrics import REFUSALS_DROPPED
from services.gateway.requests.types import CountedKey
from tests.unit.gateway.auth_client import ManualClock

_KEY, _OTHER = CountedKey("key_1", "acc_1"), CountedKey("key_2", "acc_1")
_INVALID = HTTPError(400, "wrong", "invalid_request_error", code="invalid_type")
_NO_CODE = HTTPError(400, "wrong", "invalid_request_error")
_LIMITED = HTTPError(429, "too many", "rate_limit_exceeded", code="rate_limit_exceeded")


class ScriptedRecord:
    """Keeps what is recorded, or fails."""

    def __init__(self) -> None:
        self.calls: list[list[RefusedRequests]] = []
        self.error: ServiceError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def record(self, refused: Sequence[RefusedRequests]) -> None:
        await self.gate.wait()
        if self.error:
            raise self.error
        self.calls.append(list(refused))

    @property
    def counts(self) -> Counter[tuple[str, int, str]]:
        """All numbers by key, status and code."""
        counts: Counter[tuple[str, int, str]] = Counter()
        for one in (one for call in self.calls for one in call):
            counts[one.key.key_id, one.status, one.code] += one.count
        return counts


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def record() -> ScriptedRecord:
    return ScriptedRecord()


@pytest.fixture
def counted(record: ScriptedRecord, clock: ManualClock) -> Refusals:
    return Refusals(record, clock)


@pytest.fixture
async def running(counted: Refusals, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Refusals]:
    """A counter that sends every 10 ms."""
    monkeypatch.setattr(refusals, "_SEND_SECONDS", 0.01)
    task = asyncio.create_task(counted.run())
    yield counted
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _dropped() -> float:
    return float(REFUSALS_DROPPED._value.get())


async def _until(record: ScriptedRecord, total: int) -> None:
    async with asyncio.timeout(5):
        while record.counts.total() < total:
            await asyncio.sleep(0.005)


async def test_refusals_of_the_same_reason_are_one_number(
    counted: Refusals, record: ScriptedRecord, clock: ManualClock
) -> None:
    for error in (_INVALID, _INVALID, _NO_CODE, _LIMITED):
        counted.count(_KEY, error)
    counted.count(_OTHER, _INVALID)
    clock.seconds += 4
    await counted.drain(timeout_seconds=1)
    assert record.calls == [
        [
            RefusedRequests(_KEY, 400, "invalid_type", 2, 4.0),
            RefusedRequests(_KEY, 400, "", 1, 4.0),
            RefusedRequests(_KEY, 429, "rate_limit_exceeded", 1, 4.0),
            RefusedRequests(_OTHER, 400, "invalid_type", 1, 4.0),
        ]
    ]
    await counted.drain(timeout_seconds=1)
    assert len(record.calls) == 1, "nothing is sent twice, and nothing is no call"


async def test_refusals_of_an_outage_keep_their_time(
    counted: Refusals, record: ScriptedRecord, clock: ManualClock
) -> None:
    for _ in range(3):
        counted.count(_KEY, _INVALID)
        clock.seconds += 3_600
    await counted.drain(timeout_seconds=1)
    assert [one.age_seconds for one in record.calls[0]] == [10_800, 7_200, 3_600]


async def test_they_are_sent_in_the_background_and_again_after_an_outage(
    running: Refusals, record: ScriptedRecord
) -> None:
    running.count(_KEY, _INVALID)
    await _until(record, 1)
    record.error = Unavailable("away", reason="quota_unavailable")
    running.count(_KEY, _INVALID)
    await asyncio.sleep(0.05)
    running.count(_KEY, _INVALID)
    record.error = None
    await _until(record, 3)
    running.count(_OTHER, _LIMITED)
    await _until(record, 4)
    assert record.counts == {("key_1", 400, "invalid_type"): 3, ("key_2", 429, "rate_limit_exceeded"): 1}


async def test_what_quota_rejects_is_dropped_and_counted_as_that(running: Refusals, record: ScriptedRecord) -> None:
    before = _dropped()
    record.error = InvalidRequest("no")
    running.count(_KEY, _INVALID)
    running.count(_KEY, _INVALID)
    async with asyncio.timeout(5):
        while _dropped() < before + 2:
            await asyncio.sleep(0.005)
    record.error = None
    running.count(_OTHER, _INVALID)
    await _until(record, 1)
    assert record.counts == {("key_2", 400, "invalid_type"): 1}


async def test_memory_is_bounded_and_what_is_beyond_it_is_counted_as_dropped(
    counted: Refusals, record: ScriptedRecord
) -> None:
    before = _dropped()
    for number in range(10_500):
        counted.count(CountedKey(f"key_{number}", "acc_1"), _INVALID)
    counted.count(CountedKey("key_0", "acc_1"), _INVALID)  # A number that waits grows nevertheless.
    assert _dropped() == before + 500
    for _ in range(11):
        await counted.drain(timeout_seconds=1)
    assert [len(call) for call in record.calls] == [1_000] * 10
    assert record.counts.total() == 10_001


async def test_a_quota_that_hangs_delays_the_end_by_a_bounded_time(counted: Refusals, record: ScriptedRecord) -> None:
    record.gate.clear()
    counted.count(_KEY, _INVALID)
    async with asyncio.timeout(1):
        await counted.drain(timeout_seconds=0.05)
    assert not record.calls
