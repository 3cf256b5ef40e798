"""The Groq provider against the real stand-in: a separate process, real sockets, every failure mode."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.common.errors import ErrorDetails, InvalidRequest, NotFound, ServiceError, TooLarge, Unavailable
from services.inference.allowance.model import Window
from services.inference.chat import JSONObject
from services.inference.groq.provider import GroqProvider
from tests.integration.upstream import (
    AnyLease,
    Upstream,
    asking,
    batches_of,
    calling,
    dead_address,
    output_of,
    streaming,
    upstream,
)

__all__ = ["upstream"]

REFUSALS: dict[str, tuple[type[ServiceError], str]] = {
    "400": (InvalidRequest, "invalid_request"),
    "401": (Unavailable, "upstream_misconfigured"),
    "403-html": (Unavailable, "upstream_misconfigured"),
    "404": (NotFound, "model_not_found"),
    "413": (TooLarge, "request_too_large"),
    "429": (Unavailable, "upstream_unavailable"),
    "498": (Unavailable, "upstream_unavailable"),
    "500": (Unavailable, "upstream_unavailable"),
    "502-html": (Unavailable, "upstream_unavailable"),
    "503": (Unavailable, "upstream_unavailable"),
    "reset": (Unavailable, "upstream_unavailable"),
}
BROKEN: dict[str, tuple[type[ServiceError], str]] = {
    "error_event after=3 status=400": (InvalidRequest, "tool_use_failed"),
    "error_event after=3 status=503": (Unavailable, "upstream_unavailable"),
    "x_groq_error after=3": (Unavailable, "upstream_unavailable"),
    "cut after=3": (Unavailable, "upstream_cut"),
    "cut after=3 how=end": (Unavailable, "upstream_cut"),
    "reset_stream after=3": (Unavailable, "upstream_cut"),
}


@pytest.fixture
async def provider(upstream: Upstream) -> AsyncIterator[GroqProvider]:
    """A provider with one key."""
    async with calling(upstream.url) as provider:
        yield provider


async def test_a_non_streaming_answer_is_groqs_object(provider: GroqProvider, upstream: Upstream) -> None:
    reply = await provider.complete(asking("one piece"), AnyLease())

    entry = await upstream.entry("one piece")
    assert reply.members["id"] == entry["completion_id"]
    assert reply.members["usage"]["completion_tokens"] == entry["usage"]["completion_tokens"]
    assert reply.members["x_groq"]["id"] == entry["x_groq_id"]
    assert entry["key_tail"] == "_one"


async def test_a_stream_is_every_event_up_to_done(provider: GroqProvider, upstream: Upstream) -> None:
    events = [event for batch in await batches_of(provider, "a stream [[standin:tokens count=9]]") for event in batch]

    entry = await upstream.entry("a stream [[standin:tokens count=9]]")
    assert entry["completed"]
    assert len(events) == entry["events_sent"] - 1, "[DONE] is an event too, but not a chunk"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 9


async def test_events_that_arrive_together_are_one_batch(provider: GroqProvider) -> None:
    text = "[[standin:tokens count=64]] [[standin:burst size=32]]"

    batches = await batches_of(provider, text)

    events = sum(map(len, batches))
    assert events >= 65
    assert max(map(len, batches)) >= 16
    assert all(batches)


async def test_a_stream_split_inside_lines_and_characters_is_parsed_correctly(provider: GroqProvider) -> None:
    whole = output_of(await batches_of(provider, "[[standin:unicode]]"))

    assert output_of(await batches_of(provider, "[[standin:unicode]] [[standin:drip]]")) == whole
    assert whole.encode() != whole.encode("ascii", "ignore")


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("mode", REFUSALS)
async def test_an_error_before_output_is_an_error_of_our_tree(
    provider: GroqProvider, mode: str, is_stream: bool
) -> None:
    text = f"[[standin:{mode}]]"

    with pytest.raises(ServiceError) as raised:
        await (batches_of(provider, text) if is_stream else provider.complete(asking(text), AnyLease()))

    kind, reason = REFUSALS[mode]
    assert isinstance(raised.value, kind)
    assert raised.value.reason == reason


async def test_the_provider_retries_nothing_by_itself(provider: GroqProvider, upstream: Upstream) -> None:
    text = "once [[standin:503]]"

    with pytest.raises(Unavailable):
        await provider.complete(asking(text), AnyLease())

    assert len(await upstream.entries(text)) == 1


async def test_a_rate_limit_sets_retry_after(provider: GroqProvider) -> None:
    with pytest.raises(Unavailable) as raised:
        await provider.complete(asking("[[standin:429 retry_after=7]]"), AnyLease())

    assert raised.value.details == ErrorDetails(retry_after_seconds=7)
    assert "org_" not in raised.value.message


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_refused_connection_is_unavailable_and_not_a_timeout(is_stream: bool) -> None:
    with dead_address() as url:
        async with calling(url) as provider:
            with pytest.raises(Unavailable) as raised:
                await (batches_of(provider, "x") if is_stream else provider.complete(asking("x"), AnyLease()))

    assert raised.value.reason == "upstream_unavailable"


@pytest.mark.parametrize("mode", BROKEN)
async def test_output_before_a_stream_broke_is_delivered_before_the_error(provider: GroqProvider, mode: str) -> None:
    received: list[list[JSONObject]] = []

    with pytest.raises(ServiceError) as raised:
        await batches_of(provider, f"[[standin:{mode}]]", received)

    kind, reason = BROKEN[mode]
    assert isinstance(raised.value, kind)
    assert raised.value.reason == reason
    assert sum(map(len, received)) == 4, "the role and three tokens"


async def test_output_in_one_write_with_the_failure_is_delivered(provider: GroqProvider) -> None:
    received: list[list[JSONObject]] = []

    with pytest.raises(ServiceError):
        await batches_of(provider, "[[standin:error_event]] [[standin:burst size=50]]", received)

    assert sum(map(len, received)) == 4


async def test_a_stream_without_done_is_not_complete(provider: GroqProvider) -> None:
    with pytest.raises(Unavailable) as raised:
        await batches_of(provider, "[[standin:no_done]]")

    assert raised.value.reason == "upstream_cut"


async def test_a_consumer_that_stops_cancels_the_call_at_once(provider: GroqProvider, upstream: Upstream) -> None:
    text = "stop [[standin:slow token_ms=50]] [[standin:tokens count=1000]]"
    async with provider.stream(streaming(text), AnyLease()) as batches:
        await anext(batches)

    entry = await upstream.entry(text)

    assert entry["aborted"]
    assert entry["events_sent"] < 100


async def test_a_cancelled_consumer_cancels_the_call_at_once(provider: GroqProvider, upstream: Upstream) -> None:
    text = "cancel [[standin:hang_stream after=2]]"
    reading = asyncio.create_task(batches_of(provider, text))
    while not [entry for entry in await upstream.entries(text) if entry["events_sent"]]:
        pass

    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)

    assert (await upstream.entry(text))["aborted"]


async def test_a_finished_stream_leaves_the_pool_usable(provider: GroqProvider) -> None:
    for _ in range(3):
        assert output_of(await batches_of(provider, "hello"))
        assert (await provider.complete(asking("hello"), AnyLease())).members["choices"]


async def test_each_lease_calls_with_its_own_key(upstream: Upstream) -> None:
    async with calling(upstream.url, keys=("gsk_first", "gsk_other")) as provider:
        for key in (1, 0, 1):
            await provider.complete(asking("turns"), AnyLease(key))

    assert [entry["key_tail"] for entry in await upstream.entries("turns")] == ["ther", "irst", "ther"]


async def test_a_lease_receives_the_headers_before_the_answer_has_ended(provider: GroqProvider) -> None:
    lease = AnyLease()
    async with provider.stream(streaming("[[standin:slow token_ms=20]]"), lease) as batches:
        assert [one.window for one in lease.observations] == [Window.REQUESTS_PER_DAY, Window.TOKENS_PER_MINUTE]
        await anext(batches)


async def test_the_models_are_groqs_list(provider: GroqProvider) -> None:
    listed = await provider.list_models(AnyLease())

    assert "openai/gpt-oss-20b" in {model["id"] for model in listed}
    assert all(model["object"] == "model" for model in listed)


async def test_with_groq_unavailable_the_models_are_unavailable() -> None:
    with dead_address() as url:
        async with calling(url) as provider:
            with pytest.raises(Unavailable):
                await provider.list_models(AnyLease())


async def test_concurrent_streams_do_not_mix(provider: GroqProvider) -> None:
    counts = range(1, 25)

    streams = await asyncio.gather(*(batches_of(provider, f"[[standin:tokens count={count}]]") for count in counts))

    assert [stream[-1][-1]["usage"]["completion_tokens"] for stream in streams] == list(counts)
