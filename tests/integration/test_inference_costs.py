"""Each row has the cost of its request, by the prices in force when the request ended."""

import logging
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from services.common.errors import ServiceError
from services.common.price_file import read_prices
from services.common.prices import ModelPrice, Prices
from services.inference.chat import CallContext, ChatCall, Outcome, Usage, UsageSource
from services.inference.requests.record import RequestRecord
from stack.inference.v1 import chat_pb2, usage_pb2
from tests.integration.inference_world import DAY, Inference, chat, running, streamed, whole
from tests.integration.raw_upstream import chunk, delta, events, raw_upstream, stream_answer
from tests.integration.upstream import OSS, Upstream, upstream
from tests.unit.inference.manual_clock import ManualClock

__all__ = ["upstream"]

_QWEN = "qwen/qwen3.8-27b"


async def _asked(
    inference: Inference, text: str, request_id: str = "req_1", *, is_stream: bool = False, **more: Any
) -> None:
    if not is_stream:
        await inference.create(whole(text, request_id, **more))
        return
    async for _ in inference.chat.StreamChatCompletion(streamed(text, request_id, **more)):
        pass


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("text", ["cost", "cost [[standin:cached tokens=5]]", "cost [[standin:reasoning tokens=7]]"])
async def test_a_row_has_the_exact_cost_of_groqs_own_counts(
    upstream: Upstream, tmp_path: Path, text: str, is_stream: bool
) -> None:
    text = f"{text} {is_stream}"
    async with running(upstream.url, tmp_path) as inference:
        await _asked(inference, text, is_stream=is_stream, model="llama-3.1-8b-instant")
        row = await inference.row("req_1")

    usage = (await upstream.entry(text))["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    assert row.upstream_model == OSS == "openai/gpt-oss-20b"
    # $0.075, $0.0375 and $0.30 per million tokens (groq_prices.toml).
    nanodollars = (usage["prompt_tokens"] - cached) * 75 + cached * 37.5 + usage["completion_tokens"] * 300
    assert row.cost == ceil(nanodollars / 1000) > 0
    assert cached == (5 if "cached" in text else 0)


async def test_the_model_that_answered_decides_the_price(upstream: Upstream, tmp_path: Path) -> None:
    text = "[[standin:flaky times=1 status=429-day id=cost-of-fallback]]"
    prices = Prices({OSS: ModelPrice(input=1), _QWEN: ModelPrice(input=1_000_000_000)})
    async with running(upstream.url, tmp_path, fallbacks={OSS: [_QWEN]}, prices=prices) as inference:
        await _asked(inference, text)
        row = await inference.row("req_1")

    assert (row.upstream_model, row.cost) == (_QWEN, 1_000 * row.usage.prompt_tokens)


async def test_an_estimated_usage_has_a_cost(upstream: Upstream, tmp_path: Path) -> None:
    async with running(
        upstream.url, tmp_path, prices=Prices({"*": ModelPrice(input=10**6, output=10**6)})
    ) as inference:
        await _asked(inference, "[[standin:usage only=none]]")
        row = await inference.row("req_1")

    assert row.usage.source is UsageSource.ESTIMATED
    assert row.cost == row.usage.total_tokens > 0


async def test_a_refused_request_costs_nothing_even_without_a_price(upstream: Upstream, tmp_path: Path) -> None:
    async with running(upstream.url, tmp_path, prices=Prices({})) as inference:
        with pytest.raises(ServiceError):
            await _asked(inference, "[[standin:400]]")
        row = await inference.row("req_1")

    assert (row.charged, row.cost) == (False, 0)


async def test_a_model_without_a_price_has_no_cost_and_the_operator_can_tell(
    upstream: Upstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def unpriced() -> float:
        return REGISTRY.get_sample_value("stack_ledger_rows_unpriced_total") or 0.0

    before = unpriced()
    with caplog.at_level(logging.WARNING):
        async with running(upstream.url, tmp_path, prices=Prices({_QWEN: ModelPrice(input=1)})) as inference:
            await _asked(inference, "no price")
            await _asked(inference, "no price", "req_2")
            row = await inference.row("req_2")
            record = (await inference.usage.GetRequest(usage_pb2.GetRequestRequest(request_id="req_2"))).record
            (summary,) = (
                await inference.usage.SummarizeUsage(usage_pb2.SummarizeUsageRequest(key_id="key_1"))
            ).summaries

    assert (row.charged, row.cost) == (True, None)
    assert not record.HasField("cost")
    assert not summary.HasField("cost")
    assert unpriced() - before == 2
    warnings = [one for one in caplog.records if "has no price" in one.message]
    assert [one.__dict__["model"] for one in warnings] == [OSS], "once for each model"


async def test_a_change_of_prices_leaves_old_rows_as_they_are(upstream: Upstream, tmp_path: Path) -> None:
    counted = REGISTRY.get_sample_value("stack_cost_microdollars_total") or 0.0
    async with running(upstream.url, tmp_path) as inference:
        await _asked(inference, "old")
        old = await inference.row("req_1")

    async with running(upstream.url, tmp_path, prices=Prices({OSS: ModelPrice(output=10**9)})) as inference:
        await _asked(inference, "new", "req_2")
        new = await inference.row("req_2")
        (summary,) = (await inference.usage.SummarizeUsage(usage_pb2.SummarizeUsageRequest(key_id="key_1"))).summaries
        assert await inference.row("req_1") == old

    assert old.cost == read_prices("").cost(OSS, old.usage)
    assert new.cost == 1_000 * new.usage.completion_tokens
    assert (summary.day, summary.cost) == (DAY, (old.cost or 0) + new.cost)
    assert (REGISTRY.get_sample_value("stack_cost_microdollars_total") or 0.0) - counted == summary.cost


async def test_images_are_priced_if_the_operator_sets_a_price(upstream: Upstream, tmp_path: Path) -> None:
    asked = chat("")
    asked.messages[0].content_parts.items.extend(
        [
            chat_pb2.ContentPart(type="text", text="What is this?"),
            chat_pb2.ContentPart(type="image_url", image_url=chat_pb2.ImageURL(url="https://example.com/1.png")),
            chat_pb2.ContentPart(type="image_url", image_url=chat_pb2.ImageURL(url="https://example.com/2.png")),
        ]
    )
    request = whole("", model=_QWEN)
    request.chat.messages[0].CopyFrom(asked.messages[0])
    async with running(upstream.url, tmp_path, prices=Prices({_QWEN: ModelPrice(image=7 * 10**6)})) as inference:
        await inference.create(request)
        row = await inference.row("req_1")

    assert row.cost == 14


async def test_the_tokens_of_a_failed_call_have_the_price_of_the_failed_model(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    empty = stream_answer(events(chunk(usage=usage)))
    good = stream_answer(events(chunk(delta(content="Hello")), chunk(delta("stop"), usage=usage)))
    prices = Prices({OSS: ModelPrice(input=10**6), _QWEN: ModelPrice(input=10**9)})
    async with (
        raw_upstream(empty, good) as raw,
        running(raw.url, tmp_path, attempts_max=1, fallbacks={OSS: [_QWEN]}, prices=prices) as inference,
    ):
        await _asked(inference, "hello", is_stream=True)
        row = await inference.row("req_1")

    assert (row.attempts, row.upstream_model, row.usage.prompt_tokens) == (2, _QWEN, 14)
    assert row.cost == 7 + 7_000


def test_failed_calls_are_priced_by_their_own_model_and_the_sum_is_rounded_once() -> None:
    prices = Prices({"dear": ModelPrice(input=600_000), "cheap": ModelPrice(input=300_000)})
    context = CallContext("req_1", "acc_1", "key_1", DAY, 0.0)
    record = RequestRecord(
        ChatCall({}, "m", include_usage=False), context, clock=ManualClock(), prices=prices, stream=True
    )
    one = Usage(1, 0, 1, source=UsageSource.REPORTED)

    record.begin_call("dear")
    record.add_failed_attempt("dear", one)
    record.begin_call("cheap")
    row = record.answered_row(one)
    record.begin_call("unpriced")
    unpriced = record.answered_row(one)

    assert (row.outcome, row.usage.prompt_tokens, row.cost) == (Outcome.ANSWERED, 2, 1), "0.6 + 0.3 microdollars"
    assert unpriced.cost is None


@pytest.mark.parametrize(
    ("held", "charged"),
    [((10_000, 5_000), (None, None)), ((3, 5_000), (3, None)), ((10_000, 1), (None, 1))],
    ids=["enough", "too few tokens", "too little cost"],
)
async def test_no_more_is_charged_than_is_held(
    upstream: Upstream, tmp_path: Path, held: tuple[int, int], charged: tuple[int | None, int | None]
) -> None:
    request = whole("held", "req_1", model=OSS)
    request.context.held.tokens, request.context.held.cost = held
    async with running(upstream.url, tmp_path) as inference:
        answer = await inference.create(request)
        row = await inference.row("req_1")

    assert (row.charged_tokens, row.charged_cost) == charged
    assert (answer.amounts.tokens, answer.amounts.cost) == (row.amounts.tokens, row.amounts.cost)
    assert row.amounts.tokens == min(row.usage.total_tokens, held[0])


async def test_an_unknown_cost_is_charged_as_it_is_held(upstream: Upstream, tmp_path: Path) -> None:
    request = whole("held", "req_1", model=OSS)
    request.context.held.tokens, request.context.held.cost = 10_000, 77
    async with running(upstream.url, tmp_path, prices=Prices({})) as inference:
        await inference.create(request)
        row = await inference.row("req_1")

    assert (row.cost, row.charged_cost, row.amounts.cost) == (None, 77, 77)
