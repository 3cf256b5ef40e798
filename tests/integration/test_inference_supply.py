"""Inference handles Groq's failures: several keys, retries, fallbacks and limits, against the real stand-in."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import ErrorDetails, NotFound, ServiceError, Unavailable
from services.common.verdict import Verdict
from services.inference.chat import Outcome
from stack.inference.v1 import inference_pb2
from tests.integration.groq_standin.standin_process import QWEN, started
from tests.integration.inference_world import CHARGED, Inference, running, streamed, whole
from tests.integration.raw_upstream import completion, json_answer, raw_upstream
from tests.integration.upstream import OSS, Upstream, dead_address, upstream

__all__ = ["upstream"]


@pytest.fixture
def tag() -> str:
    """Words that occur in no other test's requests."""
    return uuid.uuid4().hex


@pytest.fixture
async def inference(upstream: Upstream, tmp_path: Path) -> AsyncIterator[Inference]:
    """A service with two keys."""
    async with running(upstream.url, tmp_path, keys=("gsk_first", "gsk_other")) as one:
        yield one


@pytest.fixture(scope="module")
def one_key_url() -> Iterator[str]:
    """A stand-in that knows only one of the keys."""
    with started("--api-key", "gsk_other") as (_, url):
        yield url


async def ask(inference: Inference, text: str, request_id: str = "req_1", *, is_stream: bool = False) -> Any:
    """Send a request, streamed or not, and return the verdict."""
    if is_stream:
        return (await inference.stream(streamed(text, request_id)))[-1].verdict
    return (await inference.create(whole(text, request_id))).verdict


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("mode", ["503", "500", "498", "502-html", "reset"])
async def test_a_failure_before_output_is_retried_and_charged_once(
    inference: Inference, upstream: Upstream, tag: str, mode: str, is_stream: bool
) -> None:
    text = f"{tag} [[standin:flaky times=2 status={mode} id={tag}]]"

    assert await ask(inference, text, is_stream=is_stream) == CHARGED

    row = await inference.row("req_1")
    assert (row.outcome, row.charged, row.attempts) == (Outcome.ANSWERED, True, 3)
    assert len(await upstream.entries(text)) == 3
    assert len(await inference.rows()) == 1


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("mode", ["400", "404", "413", "tool_use_failed"])
async def test_a_request_that_groq_refuses_is_sent_once(
    inference: Inference, upstream: Upstream, tag: str, mode: str, is_stream: bool
) -> None:
    text = f"{tag} [[standin:{mode}]]"

    with pytest.raises(ServiceError):
        await ask(inference, text, is_stream=is_stream)

    assert len(await upstream.entries(text)) == 1
    assert (await inference.row("req_1")).attempts == 1


@pytest.mark.parametrize("mode", ["cut after=1", "reset_stream after=1", "error_event after=0 status=503"])
async def test_nothing_is_retried_once_an_event_was_sent(
    inference: Inference, upstream: Upstream, tag: str, mode: str
) -> None:
    text = f"{tag} [[standin:{mode}]]"

    with pytest.raises(Unavailable):
        await ask(inference, text, is_stream=True)

    assert len(await upstream.entries(text)) == 1


@pytest.mark.parametrize("status", ["429", "429-day"])
async def test_a_limited_key_is_replaced_by_the_next_and_not_called(
    inference: Inference, upstream: Upstream, tag: str, status: str
) -> None:
    text = f"{tag} [[standin:flaky times=1 status={status} id={tag}]]"

    for number in range(3):
        await ask(inference, text, f"req_{number}")

    asked = await upstream.entries(text)
    assert [entry["status"] for entry in asked] == [429, 200, 200, 200]
    (limited,) = {entry["key_tail"] for entry in asked[:1]}
    assert limited not in {entry["key_tail"] for entry in asked[1:]}
    assert [(await inference.row(f"req_{number}")).attempts for number in range(3)] == [2, 1, 1]


async def test_with_every_key_limited_groq_is_not_called_and_the_caller_gets_retry_after(
    inference: Inference, upstream: Upstream, tag: str
) -> None:
    with pytest.raises(Unavailable):
        await ask(inference, "[[standin:429-day]]", "req_0")

    with pytest.raises(Unavailable) as raised:
        await ask(inference, tag)

    assert raised.value.reason == "upstream_busy"
    assert 570 <= raised.value.details.retry_after_seconds <= 590, "as long as Groq said"
    assert raised.value.details.verdict == "released"
    assert await upstream.entries(tag) == []
    assert ((await inference.row("req_0")).attempts, (await inference.row("req_1")).attempts) == (2, 0)
    answer = await inference.create(whole(f"{tag} other", "req_2", model=QWEN))
    assert answer.verdict == CHARGED, "limits are of a model"


async def test_a_short_limit_of_the_only_key_is_waited_for(upstream: Upstream, tmp_path: Path, tag: str) -> None:
    text = f"{tag} [[standin:flaky times=1 status=429 id={tag}]]"
    async with running(upstream.url, tmp_path, queue_seconds=5) as inference:
        assert await ask(inference, text) == CHARGED

    first, second = await upstream.entries(text)
    assert (first["status"], second["status"]) == (429, 200)


async def test_a_key_that_groq_rejects_is_skipped(one_key_url: str, tmp_path: Path) -> None:
    async with running(one_key_url, tmp_path, keys=("gsk_wrong", "gsk_other")) as inference:
        for number in range(4):
            assert await ask(inference, "hello", f"req_{number}") == CHARGED

        assert [(await inference.row(f"req_{number}")).attempts for number in range(4)] == [1] * 4
        assert (await inference.chat.ListModels(inference_pb2.ListModelsRequest())).models


async def test_with_every_key_rejected_the_request_is_an_operator_error(one_key_url: str, tmp_path: Path) -> None:
    async with running(one_key_url, tmp_path, keys=("gsk_wrong", "gsk_false")) as inference:
        with pytest.raises(Unavailable) as raised:
            await ask(inference, "hello")

    assert raised.value.reason == "upstream_misconfigured"


async def test_a_fallback_answers_and_the_row_names_it(upstream: Upstream, tmp_path: Path, tag: str) -> None:
    text = f"{tag} [[standin:flaky times=1 status=429-day id={tag}]]"
    async with running(upstream.url, tmp_path, fallbacks={OSS: [QWEN]}) as inference:
        answer = await inference.create(whole(text, model="llama-3.1-8b-instant"))
        row = await inference.row("req_1")
        assert await ask(inference, text, "req_2", is_stream=True) == CHARGED
        second = await inference.row("req_2")

    assert (row.model, row.upstream_model, row.attempts, row.charged) == ("llama-3.1-8b-instant", QWEN, 2, True)
    assert answer.completion.model == "llama-3.1-8b-instant"
    assert (second.upstream_model, second.attempts) == (QWEN, 1), "the first model is known to be limited"
    assert [entry["model"] for entry in await upstream.entries(text)] == [OSS, QWEN, QWEN]


async def test_a_model_that_is_not_allowed_is_not_found_without_calling_groq(
    upstream: Upstream, tmp_path: Path, tag: str
) -> None:
    async with running(upstream.url, tmp_path, allowed=("qwen/*",)) as inference:
        with pytest.raises(NotFound) as raised:
            await ask(inference, tag)
        listed = (await inference.chat.ListModels(inference_pb2.ListModelsRequest())).models

        assert raised.value.reason == "model_not_found"
        assert raised.value.details.code == "model_not_found"
        assert await upstream.entries(tag) == []
        row = await inference.row("req_1")
    assert (row.outcome, row.charged, row.attempts) == (Outcome.REFUSED, False, 0)
    assert listed
    assert all(model.id.startswith("qwen/") for model in listed)


async def test_aliases_are_listed_with_the_data_of_their_models(inference: Inference) -> None:
    models = {model.id: model for model in (await inference.chat.ListModels(inference_pb2.ListModelsRequest())).models}

    assert models["llama-3.1-8b-instant"].context_window == models[OSS].context_window > 0


async def test_an_account_beyond_its_concurrent_calls_waits_and_is_not_charged_if_that_is_in_vain(
    upstream: Upstream, tmp_path: Path, tag: str
) -> None:
    text = f"{tag} [[standin:slow headers_ms=300]]"
    async with running(upstream.url, tmp_path, per_account_max=1, queue_seconds=0.1) as inference:
        first = asyncio.create_task(ask(inference, text))
        while not await upstream.entries(text):
            pass

        with pytest.raises(Unavailable) as raised:
            await ask(inference, text, "req_2")

        assert await first == CHARGED
        row = await inference.row("req_2")
    assert raised.value.reason == "upstream_busy"
    assert raised.value.details == ErrorDetails(retry_after_seconds=1, verdict=Verdict.RELEASED)
    assert (row.outcome, row.charged, row.refund_reason) == (Outcome.UPSTREAM_FAILED, False, "upstream_busy")
    assert row.queue_ms is not None
    assert 100 <= row.queue_ms < 300
    assert len(await upstream.entries(text)) == 1


async def test_at_the_total_limit_requests_wait_shortly_and_are_then_unavailable(
    upstream: Upstream, tmp_path: Path, tag: str
) -> None:
    async with running(upstream.url, tmp_path, calls_max=1, queue_seconds=10) as inference:
        verdicts = await asyncio.gather(*(ask(inference, f"{tag} burst", f"req_{n}") for n in range(8)))
    assert verdicts == [CHARGED] * 8

    text = f"{tag} [[standin:slow headers_ms=300]]"
    async with running(upstream.url, tmp_path, calls_max=1) as inference:
        first = asyncio.create_task(ask(inference, text, "req_a", is_stream=True))
        while not await upstream.entries(text):
            pass
        with pytest.raises(Unavailable) as raised:
            await ask(inference, text, "req_b", is_stream=True)
        assert await first == CHARGED
    assert (raised.value.reason, raised.value.details.verdict) == ("upstream_busy", "released")


async def test_an_unavailable_groq_opens_the_circuit_and_is_not_called(tmp_path: Path) -> None:
    with dead_address() as url:
        async with running(url, tmp_path, attempts_max=1) as inference:
            for number in range(12):
                with pytest.raises(Unavailable):
                    await ask(inference, "hello", f"req_{number}")

            attempts = [(await inference.row(f"req_{number}")).attempts for number in range(12)]
    assert attempts == [1] * 10 + [0] * 2


TOO_LARGE = (
    "Rate limit reached for model `m` in organization `org_x` service tier `on_demand` on tokens per minute (TPM): "
    "Limit 6000, Used 1000, Requested 5900. Please try again in 20s. Need more tokens?"
)


async def test_a_request_too_large_for_the_minute_does_not_block_the_key_for_smaller_ones(tmp_path: Path) -> None:
    limited = json_answer(
        {"error": {"message": TOO_LARGE, "type": "tokens", "code": "rate_limit_exceeded"}},
        status="429 Too Many Requests",
        headers="retry-after: 20\r\n",
    )
    large = whole("hello", "req_large")
    large.chat.max_completion_tokens = 5_890
    async with (
        raw_upstream(limited, json_answer(completion())) as upstream,
        running(upstream.url, tmp_path) as inference,
    ):
        with pytest.raises(Unavailable) as raised:
            await inference.create(large)
        other = whole("hello", "req_small")
        other.context.account_id = "acc_other"
        reply = await inference.create(other)
        large.context.request_id = "req_again"
        with pytest.raises(Unavailable):
            await inference.create(large)
        row = await inference.row("req_again")

    assert (raised.value.reason, raised.value.details.verdict) == ("upstream_busy", "released")
    assert reply.verdict == CHARGED
    assert (len(upstream.bodies), row.attempts) == (2, 0), "the large one waits for its time"
