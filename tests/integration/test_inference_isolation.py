"""One account's requests, however they end, do not block another account's."""

import asyncio
import contextlib
import gc
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import DeadlineExceeded, NotFound, ServiceError, Throttled, Unavailable
from services.inference.chat import ChatCall, Outcome
from stack.inference.v1 import inference_pb2
from tests.integration.groq_standin.standin_process import QWEN
from tests.integration.inference_world import CHARGED, Inference, chat, context, running, streamed, whole
from tests.integration.raw_upstream import answer, completion, json_answer, raw_upstream
from tests.integration.upstream import OSS, Upstream, upstream

__all__ = ["upstream"]


@pytest.fixture
def tag() -> str:
    """Words that occur in no other test's requests."""
    return uuid.uuid4().hex


def call(inference: Inference, text: str, request_id: str, *, account: str, model: str = OSS, **options: Any) -> Any:
    """Begin a request of an account."""
    where = context(request_id)
    where.account_id = account
    request = inference_pb2.StreamChatCompletionRequest(context=where, chat=chat(text, model=model))
    return _verdict(inference, request, **options)


async def _verdict(inference: Inference, request: inference_pb2.StreamChatCompletionRequest, **options: Any) -> Any:
    return (await inference.stream(request, **options))[-1].verdict


async def until_called(upstream: Upstream, text: str, count: int) -> None:
    """Return when Groq has been called this often."""
    async with asyncio.timeout(10):
        while len(await upstream.entries(text)) < count:
            await asyncio.sleep(0.01)


@pytest.mark.long
async def test_requests_that_time_out_open_no_circuit_for_another_account(
    upstream: Upstream, tmp_path: Path, tag: str
) -> None:
    async with running(upstream.url, tmp_path, first_byte_timeout_seconds=0.1, total_timeout_seconds=2) as inference:
        await call(inference, tag, "req_first", account="acc_normal")
        for round_ in range(2):
            hanging = [
                call(inference, f"{tag} [[standin:hang]]", f"req_{round_}_{number}", account="acc_other")
                for number in range(6)
            ]
            results = await asyncio.gather(*hanging, return_exceptions=True)
            assert all(isinstance(one, DeadlineExceeded) for one in results)

        for number in range(5):
            assert await call(inference, tag, f"req_normal_{number}", account="acc_normal") == CHARGED


@pytest.mark.long
async def test_a_hanging_probe_of_one_account_does_not_block_a_new_account(
    upstream: Upstream, tmp_path: Path, tag: str
) -> None:
    hang = f"{tag} [[standin:hang]]"
    async with running(upstream.url, tmp_path, first_byte_timeout_seconds=0.05, total_timeout_seconds=2) as inference:
        for number in range(12):
            with pytest.raises((DeadlineExceeded, Unavailable)):
                await call(inference, hang, f"req_{number}", account="acc_other")
        assert inference.pool.seconds_until(OSS, "acc_other") > 0, "the circuit is open"
        await asyncio.sleep(inference.pool.seconds_until(OSS, "acc_other"))
        probe = asyncio.create_task(call(inference, hang, "req_probe", account="acc_other"))
        await asyncio.sleep(0.02)

        assert await call(inference, tag, "req_normal", account="acc_newcomer") == CHARGED
        with pytest.raises(DeadlineExceeded):
            await probe


async def test_a_model_blocked_for_the_organisation_leaves_its_key_in_use(tmp_path: Path) -> None:
    blocked = {"error": {"message": "blocked", "type": "x", "code": "model_permission_blocked_org"}}
    answers = [json_answer(blocked, status="403 Forbidden"), answer(b"{}", status="503 Service Unavailable")]
    async with (
        raw_upstream(*answers, json_answer(completion())) as upstream,
        running(upstream.url, tmp_path) as inference,
    ):
        request = inference_pb2.CreateChatCompletionRequest(context=context("req_1"), chat=chat("x", model=QWEN))
        with pytest.raises(NotFound) as raised:
            await inference.create(request)
        assert inference.pool.is_accepted(0)
        other = inference_pb2.CreateChatCompletionRequest(context=context("req_2"), chat=chat("x"))
        reply = await inference.create(other)

    assert (raised.value.reason, raised.value.details.verdict) == ("model_not_found", "released")
    assert reply.verdict == CHARGED, "a failure of Groq is still retried"
    assert len(upstream.bodies) == 3


@pytest.mark.long
async def test_requests_waiting_for_a_limited_model_hold_no_slot(upstream: Upstream, tmp_path: Path, tag: str) -> None:
    async with running(upstream.url, tmp_path, calls_max=2, queue_seconds=5) as inference:
        with pytest.raises(Unavailable):
            await call(inference, "[[standin:429 retry_after=3]] [[standin:tokens count=1]]", "req_0", account="acc_1")
        waiting = [
            asyncio.create_task(call(inference, f"{tag} waits", f"req_w{number}", account="acc_1"))
            for number in range(10)
        ]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in waiting)

        began = time.monotonic()
        assert await call(inference, tag, "req_other", account="acc_2", model=QWEN) == CHARGED
        assert time.monotonic() - began < 1
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.long
async def test_an_account_that_hangs_in_all_of_its_slots_leaves_slots_for_others(
    upstream: Upstream, tmp_path: Path, tag: str
) -> None:
    hang = f"{tag} [[standin:hang]]"
    async with running(upstream.url, tmp_path, calls_max=8, per_account_max=2, total_timeout_seconds=4) as inference:
        hanging = [
            asyncio.create_task(call(inference, hang, f"req_{number}", account="acc_other")) for number in range(20)
        ]
        await until_called(upstream, hang, 2)
        async with asyncio.timeout(3):
            while len(refused := [task for task in hanging if task.done()]) < 18:
                await asyncio.sleep(0.01)

        began = time.monotonic()
        assert await call(inference, tag, "req_normal", account="acc_normal") == CHARGED
        assert time.monotonic() - began < 1
        assert len(refused) == 18
        assert all(getattr(task.exception(), "reason", "") == "upstream_busy" for task in refused)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)


@pytest.mark.long
@pytest.mark.parametrize("waits_for", ["a key", "a place"])
async def test_a_request_whose_caller_disconnects_while_it_waits_is_never_sent_or_charged(
    upstream: Upstream, tmp_path: Path, tag: str, waits_for: str
) -> None:
    text = f"{tag} never sent"
    async with running(upstream.url, tmp_path, calls_max=1, queue_seconds=5, total_timeout_seconds=5) as inference:
        if waits_for == "a key":
            with pytest.raises(Unavailable):
                await call(inference, "[[standin:429 retry_after=1]]", "req_0", account="acc_1")
            ahead = None
        else:
            ahead = asyncio.create_task(
                call(inference, f"{tag} [[standin:slow headers_ms=600]]", "req_0", account="acc_2")
            )
            await until_called(upstream, f"{tag} [[standin:slow headers_ms=600]]", 1)
        leaving = asyncio.create_task(call(inference, text, "req_1", account="acc_1"))
        await asyncio.sleep(0.2)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        row = await inference.row("req_1")
        if ahead:
            await ahead
        await asyncio.sleep(1.2)

    assert await upstream.entries(text) == []
    assert (row.outcome, row.charged, row.refund_reason) == (Outcome.CLIENT_LEFT, False, "client_left")
    assert (row.attempts, row.duration_ms < 1_000) == (0, True)


async def test_the_bytes_of_requests_in_progress_are_bounded_in_total_and_to_half_per_account(
    upstream: Upstream, tmp_path: Path, tag: str
) -> None:
    hang = f"{tag} {'x' * 40_000} [[standin:hang]]"
    async with running(upstream.url, tmp_path, total_timeout_seconds=1.5, request_bytes_max=130_000) as inference:
        first = asyncio.create_task(call(inference, hang, "req_1", account="acc_1"))
        await until_called(upstream, hang, 1)
        with pytest.raises(Throttled) as own:
            await call(inference, hang, "req_2", account="acc_1")
        second = asyncio.create_task(call(inference, hang, "req_3", account="acc_2"))
        await until_called(upstream, hang, 2)
        third = asyncio.create_task(call(inference, hang, "req_4", account="acc_3"))
        await until_called(upstream, hang, 3)
        with pytest.raises(Unavailable) as all_:
            await call(inference, hang, "req_5", account="acc_4")
        first.cancel()
        with pytest.raises(Unavailable):
            await call(inference, hang, "req_6", account="acc_4"), "an abandoned request holds its bytes still"
        await asyncio.gather(first, second, third, return_exceptions=True)
        await inference.row("req_1")

        assert await call(inference, f"{tag} {'x' * 40_000}", "req_7", account="acc_1") == CHARGED

    assert (own.value.reason, own.value.details.verdict) == ("too_many_bytes_at_once", "released")
    assert (all_.value.reason, all_.value.details.verdict) == ("overloaded", "released")


@pytest.fixture
def without_collections() -> Iterator[None]:
    """Keep reference cycles as a long-running service does: garbage collection runs by object count, not by size."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collections")
@pytest.mark.parametrize("marker", ["400", "503", "hang", "slow headers_ms=300", "cut after=3", "tokens count=3"])
async def test_no_memory_of_a_request_is_kept_after_its_end(
    upstream: Upstream, tmp_path: Path, tag: str, marker: str
) -> None:
    text = f"{tag} [[standin:{marker}]]"
    async with running(
        upstream.url, tmp_path, attempts_max=1, first_byte_timeout_seconds=0.2, total_timeout_seconds=0.5
    ) as inference:
        with contextlib.suppress(ServiceError):
            await inference.stream(streamed(text, "req_0"))
        with contextlib.suppress(ServiceError):
            await inference.create(whole(text, "req_1"))
        left = asyncio.create_task(inference.create(whole(text, "req_2")))
        await until_called(upstream, text, 3)
        left.cancel()
        for number in range(3):
            await inference.row(f"req_{number}")
        await asyncio.sleep(0.1)

        assert [one for one in gc.get_objects() if isinstance(one, ChatCall) and tag in str(one)] == []
