"""Inference end to end: whatever happens to a request, its row agrees with the stand-in's journal."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.common.errors import (
    DeadlineExceeded,
    ErrorDetails,
    InvalidRequest,
    NotFound,
    ServiceError,
    TooLarge,
    Unavailable,
)
from services.common.rpc import json_codec
from services.common.rpc.status import rpc_errors
from services.inference.chat import Outcome, Usage, UsageSource
from services.inference.ledger.writer import LedgerRow
from stack.inference.v1 import inference_pb2, usage_pb2
from tests.integration.inference_world import (
    CHARGED,
    DAY,
    NO_VERDICT,
    Inference,
    chat,
    context,
    running,
    streamed,
    whole,
)
from tests.integration.upstream import OSS, Upstream, upstream

__all__ = ["upstream"]


@pytest.fixture
async def inference(upstream: Upstream, tmp_path: Path) -> AsyncIterator[Inference]:
    """A service with default settings and an empty ledger."""
    async with running(upstream.url, tmp_path) as one:
        yield one


def assert_agrees(row: LedgerRow, entry: dict[str, Any]) -> None:
    """Compare a row with the upstream's own counts."""
    usage = entry["usage"]
    assert (row.upstream_id, row.upstream_model, row.stream) == (entry["x_groq_id"], entry["model"], entry["stream"])
    assert row.usage == Usage(
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        total_tokens=usage["total_tokens"],
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        reasoning_tokens=(usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0),
        source=UsageSource.REPORTED,
    )


def text_of(messages: list[Any]) -> str:
    """Return the text of a stream."""
    chunks = [chunk for message in messages for chunk in message.chunks]
    return "".join(choice.delta.content_text for chunk in chunks for choice in chunk.choices)


MARKED = ["plain", "[[standin:cached tokens=8]]", "[[standin:reasoning tokens=5]]", "[[standin:tool_call]]"]


@pytest.mark.parametrize("text", MARKED)
async def test_a_non_streaming_answer_is_charged_with_groqs_own_count(
    inference: Inference, upstream: Upstream, text: str
) -> None:
    text = f"whole {text}"
    answer = await inference.create(whole(text, model="llama-3.1-8b-instant"))

    row = (await inference.store.find("req_1")) or pytest.fail("the row must be there before the answer")
    assert answer.verdict == CHARGED
    assert_agrees(row, await upstream.entry(text))
    assert (row.outcome, row.charged, row.refund_reason) == (Outcome.ANSWERED, True, "")
    assert (row.model, answer.completion.model) == ("llama-3.1-8b-instant", "llama-3.1-8b-instant")
    assert answer.completion.id == "chatcmpl-1"
    assert "x_groq" not in answer.completion.extra_json
    assert (row.account_id, row.key_id, row.day, row.reserved_at) == ("acc_1", "key_1", DAY, 1_785_672_000.123)


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("text", [*MARKED, *(f"[[standin:usage only={place}]]" for place in ("x_groq", "top", "last"))])
async def test_a_stream_is_charged_with_groqs_own_count_once(
    inference: Inference, upstream: Upstream, text: str, include_usage: bool
) -> None:
    text = f"stream {include_usage} {text}"
    messages = await inference.stream(streamed(text, include_usage=include_usage))

    row = (await inference.store.find("req_1")) or pytest.fail("the row must be there before the verdict")
    assert_agrees(row, await upstream.entry(text))
    assert (row.outcome, row.charged) == (Outcome.ANSWERED, True)
    assert [message.verdict for message in messages] == [NO_VERDICT] * (len(messages) - 1) + [CHARGED]
    chunks = [chunk for message in messages for chunk in message.chunks]
    assert {chunk.id for chunk in chunks} == {"chatcmpl-1"}
    assert [not chunk.choices for chunk in chunks].count(True) == include_usage
    assert row.time_to_first_token_ms >= 1


async def test_a_stream_without_usage_is_charged_by_an_estimate(inference: Inference) -> None:
    text = "[[standin:usage only=none]] [[standin:tokens count=6]]"

    await inference.stream(streamed(text))

    row = await inference.row("req_1")
    assert (row.charged, row.usage.source, row.usage.completion_tokens) == (True, UsageSource.ESTIMATED, 6)


async def test_events_that_arrive_together_are_sent_in_one_message(inference: Inference) -> None:
    messages = await inference.stream(streamed("[[standin:tokens count=64]] [[standin:burst size=64]]"))

    assert sum(len(message.chunks) for message in messages) >= 65
    assert len(messages) <= 10


FAILURES: dict[str, tuple[type[ServiceError], Outcome, str]] = {
    "400": (InvalidRequest, Outcome.REFUSED, "invalid_request"),
    "404": (NotFound, Outcome.REFUSED, "model_not_found"),
    "413": (TooLarge, Outcome.REFUSED, "request_too_large"),
    "tool_use_failed": (InvalidRequest, Outcome.REFUSED, "tool_use_failed"),
    "401": (Unavailable, Outcome.UPSTREAM_FAILED, "upstream_misconfigured"),
    "429": (Unavailable, Outcome.UPSTREAM_FAILED, "upstream_busy"),
    "503": (Unavailable, Outcome.UPSTREAM_FAILED, "upstream_unavailable"),
    "reset": (Unavailable, Outcome.UPSTREAM_FAILED, "upstream_unavailable"),
}


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("mode", FAILURES)
async def test_a_failure_before_output_costs_nothing_and_is_recorded(
    inference: Inference, upstream: Upstream, mode: str, is_stream: bool
) -> None:
    kind, outcome, reason = FAILURES[mode]
    text = f"failure {is_stream} [[standin:{mode}]]"

    with pytest.raises(kind) as raised:
        await (inference.stream(streamed(text)) if is_stream else inference.create(whole(text)))

    assert raised.value.details.verdict == "released"
    row = (await inference.store.find("req_1")) or pytest.fail("the row must be there before the error")
    assert (row.outcome, row.charged, row.refund_reason) == (outcome, False, reason)
    assert (row.usage, row.stream, row.time_to_first_token_ms) == (Usage(), is_stream, 0)
    last = (await upstream.entries(text))[-1]
    assert row.upstream_id == ("" if mode == "reset" else last["x_groq_id"])


@pytest.mark.parametrize("mode", ["cut after=3", "error_event after=3", "x_groq_error after=3", "reset_stream after=3"])
async def test_a_stream_cut_after_output_is_charged_by_an_estimate(
    inference: Inference, upstream: Upstream, mode: str
) -> None:
    text = f"cut [[standin:{mode}]] [[standin:tokens count=20]]"
    messages: list[Any] = []

    with pytest.raises(ServiceError) as raised:
        await inference.stream(streamed(text), received=messages)

    assert raised.value.details.verdict == "charged"
    assert text_of(messages)
    row = (await inference.store.find("req_1")) or pytest.fail("the row must be there before the error")
    assert (row.outcome, row.charged, row.refund_reason) == (Outcome.CUT, True, "")
    assert (row.usage.source, row.usage.completion_tokens) == (UsageSource.ESTIMATED, 3)
    assert row.upstream_id == (await upstream.entry(text))["x_groq_id"]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_request_without_output_at_its_total_deadline_costs_nothing(
    upstream: Upstream, tmp_path: Path, is_stream: bool
) -> None:
    text = f"deadline {is_stream} [[standin:hang]]"
    async with running(upstream.url, tmp_path, total_timeout_seconds=0.3) as inference:
        with pytest.raises(DeadlineExceeded) as raised:
            await (inference.stream(streamed(text)) if is_stream else inference.create(whole(text)))

        assert raised.value.details.verdict == "released"
        row = await inference.row("req_1")
    assert (row.outcome, row.charged, row.refund_reason) == (Outcome.TIMED_OUT, False, "deadline_exceeded")
    assert (await upstream.entry(text))["aborted"]


async def test_a_stream_at_its_total_deadline_after_output_is_charged(upstream: Upstream, tmp_path: Path) -> None:
    text = "deadline [[standin:hang_stream after=4]]"
    async with running(upstream.url, tmp_path, total_timeout_seconds=0.5) as inference:
        with pytest.raises(DeadlineExceeded) as raised:
            await inference.stream(streamed(text))

        row = await inference.row("req_1")
    assert raised.value.details.verdict == "charged"
    assert (row.outcome, row.charged, row.usage.source) == (Outcome.TIMED_OUT, True, UsageSource.ESTIMATED)


async def test_a_caller_that_disconnects_during_a_stream_is_charged_exactly(
    inference: Inference, upstream: Upstream
) -> None:
    text = "leaver [[standin:slow token_ms=5]] [[standin:tokens count=40]]"
    call = inference.chat.StreamChatCompletion(streamed(text))
    await call.read()
    call.cancel()

    row = await inference.row("req_1")

    entry = await upstream.entry(text)
    assert entry["completed"], "Groq must be read to the end"
    assert_agrees(row, entry)
    assert (row.outcome, row.charged, row.usage.completion_tokens) == (Outcome.CLIENT_LEFT, True, 40)


@pytest.mark.parametrize("leaves_by", ["cancel", "deadline"])
async def test_a_caller_that_disconnects_before_its_answer_is_charged_exactly(
    inference: Inference, upstream: Upstream, leaves_by: str
) -> None:
    text = f"impatient {leaves_by} [[standin:slow headers_ms=400]]"
    call = inference.chat.CreateChatCompletion(whole(text), timeout=0.2 if leaves_by == "deadline" else None)
    while not await upstream.entries(text):
        pass
    if leaves_by == "cancel":
        call.cancel()
    with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
        await call

    row = await inference.row("req_1")

    assert_agrees(row, await upstream.entry(text))
    assert (row.outcome, row.charged) == (Outcome.CLIENT_LEFT, True)


async def test_a_shutdown_waits_for_detached_requests(upstream: Upstream, tmp_path: Path) -> None:
    text = "shutdown [[standin:slow token_ms=5]] [[standin:tokens count=40]]"
    async with running(upstream.url, tmp_path) as inference:
        call = inference.chat.StreamChatCompletion(streamed(text))
        await call.read()
        call.cancel()

    async with running(upstream.url, tmp_path) as inference:
        row = await inference.store.find("req_1")
    assert row is not None
    assert_agrees(row, await upstream.entry(text))


async def test_a_direct_caller_gets_a_row_that_counts_against_no_key(inference: Inference, upstream: Upstream) -> None:
    asked = chat("direct")

    await inference.create(inference_pb2.CreateChatCompletionRequest(chat=asked))
    await inference.stream(inference_pb2.StreamChatCompletionRequest(chat=asked))

    rows = await inference.rows()
    assert len({row["request_id"] for row in rows}) == 2
    assert {(row["account_id"], row["key_id"], bool(row["charged"])) for row in rows} == {("", "", True)}
    assert sorted(row["upstream_id"] for row in rows) == sorted(
        entry["x_groq_id"] for entry in await upstream.entries("direct")
    )


async def test_concurrent_requests_each_have_their_own_row(inference: Inference, upstream: Upstream) -> None:
    def text(number: int) -> str:
        return f"concurrent [[standin:tokens count={number}]]"

    numbers = range(1, 31)
    await asyncio.gather(
        *(
            inference.stream(streamed(text(number), f"req_{number}"))
            if number % 2
            else inference.create(whole(text(number), f"req_{number}"))
            for number in numbers
        )
    )

    for number in numbers:
        row = await inference.row(f"req_{number}")
        assert_agrees(row, await upstream.entry(text(number)))
        assert row.usage.completion_tokens == number
    assert await inference.store.count_charged([("key_1", DAY)]) == [30]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_answer_whose_row_cannot_be_written_has_no_verdict_and_the_row_follows(
    upstream: Upstream, tmp_path: Path, is_stream: bool
) -> None:
    async with running(upstream.url, tmp_path, ledger_wait_seconds=0.1) as inference:
        await inference.execute("ALTER TABLE usage_ledger RENAME TO away")

        if is_stream:
            verdict = (await inference.stream(streamed("row away")))[-1].verdict
        else:
            verdict = (await inference.create(whole("row away"))).verdict

        assert verdict == NO_VERDICT
        await inference.execute("ALTER TABLE away RENAME TO usage_ledger")
        assert (await inference.row("req_1")).charged


async def test_a_failure_whose_row_cannot_be_written_has_no_verdict(upstream: Upstream, tmp_path: Path) -> None:
    async with running(upstream.url, tmp_path, ledger_wait_seconds=0.1) as inference:
        await inference.execute("ALTER TABLE usage_ledger RENAME TO away")

        with pytest.raises(Unavailable) as raised:
            await inference.create(whole("[[standin:503]]"))

        assert raised.value.details.verdict is None
        await inference.execute("ALTER TABLE away RENAME TO usage_ledger")


@pytest.mark.parametrize("is_stream", [False, True])
async def test_too_many_unwritten_rows_refuse_requests_before_groq_is_called(
    upstream: Upstream, tmp_path: Path, is_stream: bool
) -> None:
    async with running(upstream.url, tmp_path, ledger_wait_seconds=0.05, ledger_rows_max=1) as inference:
        await inference.execute("ALTER TABLE usage_ledger RENAME TO away")
        await inference.create(whole("fills the house"))
        text = f"never asked {is_stream}"

        with pytest.raises(Unavailable) as raised:
            await (inference.stream(streamed(text, "req_2")) if is_stream else inference.create(whole(text, "req_2")))

        assert (raised.value.reason, raised.value.details.verdict) == ("ledger_unavailable", "released")
        assert await upstream.entries(text) == []
        await inference.execute("ALTER TABLE away RENAME TO usage_ledger")


REFUSED_CONTEXTS: dict[str, tuple[dict[str, Any], str]] = {
    "long id": ({"request_id": "r" * 65}, "request_id"),
    "NUL": ({"key_id": "k\0"}, "key_id"),
    "no day": ({"day": ""}, "day"),
    "odd day": ({"day": "tomorrow"}, "day"),
    "milliseconds": ({"reserved_at": Timestamp(seconds=1_785_672_000_123)}, "reserved_at"),
    "before 1970": ({"reserved_at": Timestamp(seconds=-1)}, "reserved_at"),
}


@pytest.mark.parametrize("case", REFUSED_CONTEXTS)
async def test_a_context_that_the_ledger_cannot_store_is_refused(
    inference: Inference, upstream: Upstream, case: str
) -> None:
    """A row that can never be written would block all later rows."""
    changes, named = REFUSED_CONTEXTS[case]
    request = whole(f"refused {case}")
    for field, value in changes.items():
        if isinstance(value, Timestamp):
            request.context.reserved_at.CopyFrom(value)
        else:
            setattr(request.context, field, value)

    with pytest.raises(InvalidRequest, match=named):
        await inference.create(request)

    assert await upstream.entries(f"refused {case}") == []


@pytest.mark.parametrize(
    ("extra_json", "named"),
    [
        ('{"stream_options": 5}', "stream_options"),
        ('{"model": {}}', "model"),
        ("[]", "extra_json"),
        ("{", "extra_json"),
    ],
)
async def test_members_of_a_wrong_type_are_refused_by_name(inference: Inference, extra_json: str, named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        await inference.create(whole("x", model="", extra_json=extra_json))


async def test_a_request_without_messages_is_refused(inference: Inference) -> None:
    request = inference_pb2.CreateChatCompletionRequest(context=context())

    with pytest.raises(InvalidRequest) as raised:
        await inference.create(request)

    assert raised.value.details == ErrorDetails(param="messages")


async def test_null_members_are_absent_and_the_rpc_decides_on_streaming(
    inference: Inference, upstream: Upstream
) -> None:
    nulls = '{"model": null, "stream_options": null, "stream": %s}'

    answer = await inference.create(whole("nulls 1", model="", extra_json=nulls % "true"))
    messages = await inference.stream(streamed("nulls 2", model="", extra_json=nulls % "false"))

    assert (answer.verdict, messages[-1].verdict) == (CHARGED, CHARGED)
    assert answer.completion.model == "llama-3.1-8b-instant"
    assert [(await upstream.entry(text))["model"] for text in ("nulls 1", "nulls 2")] == [OSS, OSS]


async def test_the_usage_service_reads_what_was_written(inference: Inference) -> None:
    await inference.create(whole("usage"))
    record = (await inference.usage.GetRequest(usage_pb2.GetRequestRequest(request_id="req_1"))).record
    asked = [usage_pb2.KeyDay(key_id="key_1", day=DAY), usage_pb2.KeyDay(key_id="key_2", day=DAY)]
    counted = await inference.usage.CountCharged(usage_pb2.CountChargedRequest(key_days=asked))
    summed = await inference.usage.SummarizeUsage(usage_pb2.SummarizeUsageRequest(key_id="key_1"))

    assert (record.outcome, record.charged, record.usage_source) == ("answered", True, "reported")
    assert record.reserved_at.ToMilliseconds() == 1_785_672_000_123
    assert list(counted.counts) == [1, 0]
    assert [(one.day, one.charged_requests, one.total_tokens) for one in summed.summaries] == [
        (DAY, 1, record.total_tokens)
    ]


async def test_an_unknown_request_is_not_found_and_too_many_keys_are_refused(inference: Inference) -> None:
    with pytest.raises(NotFound), rpc_errors(unavailable_reason="x"):
        await inference.usage.GetRequest(usage_pb2.GetRequestRequest(request_id="req_none"))
    with pytest.raises(InvalidRequest, match="expected 1 to 1,000"), rpc_errors(unavailable_reason="x"):
        await inference.usage.CountCharged(usage_pb2.CountChargedRequest(key_days=[usage_pb2.KeyDay()] * 1_001))


async def test_the_models_are_groqs_own(inference: Inference) -> None:
    response = await inference.chat.ListModels(inference_pb2.ListModelsRequest())
    assert response.default_model == "llama-3.1-8b-instant"

    (model,) = [model for model in response.models if model.id == OSS]
    assert (model.object, model.active, model.context_window) == ("model", True, 131_072)


@pytest.mark.parametrize(
    "marker", ["", "[[standin:unicode]]", "[[standin:reasoning tokens=3]]", "[[standin:tool_call]]"]
)
async def test_an_answer_as_json_equals_the_typed_one(inference: Inference, marker: str) -> None:
    """Gateways request JSON, other services messages: both must receive the same content."""
    answers = []
    for number, wants_json in enumerate((False, True)):
        asked_whole = whole(f"json {marker}", f"req_{number}")
        asked_whole.wants_json = wants_json
        answer = await inference.chat.CreateChatCompletion(asked_whole)
        asked = streamed(f"json {marker}", f"req_s{number}")
        asked.wants_json = wants_json
        parts = [part async for part in inference.chat.StreamChatCompletion(asked)]
        assert all(bool(part.chunks_json) is (wants_json and part.verdict == 0) for part in parts)
        texts = [text for part in parts for text in part.chunks_json or map(json_codec.encode, part.chunks)]
        one_piece = answer.completion_json or json_codec.encode(answer.completion)
        answers.append([_timeless(text) for text in (one_piece, *texts)])
    typed, as_json = answers
    assert as_json == typed


def _timeless(text: bytes) -> dict[str, Any]:
    """Return an answer without the values that differ from one to the next: ids and times."""
    members: dict[str, Any] = msgspec.json.decode(text)
    for name in ("id", "created", "system_fingerprint"):
        members.pop(name, None)
    for usage in (members.get("usage") or {}, (members.get("x_groq") or {}).get("usage") or {}):
        for name in [one for one in usage if one.endswith("_time")]:
            del usage[name]
    for choice in members.get("choices", []):
        for call in choice.get("message", choice.get("delta", {})).get("tool_calls") or ():
            call.pop("id", None)
    return members
