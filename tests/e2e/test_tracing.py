"""One trace per request, from HTTP to Groq, and no user content in any output."""

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.collector import Collector, Exported, running_collector
from tests.e2e.metrics import SERVICES, Metrics, watched_stack
from tests.e2e.stack import Key, Stack, say

CANARY = "canary-08154"
"""As long as the stand-in's pieces, so that a stream of its answer contains it whole."""
THEIRS = "4bf92f3577b34da6a3ce929d0e0e4736"
_INFER = "stack.inference.v1.InferenceService/StreamChatCompletion"
_RESERVE = "stack.quota.v1.QuotaService/Reserve"
_SETTLE = "stack.quota.v1.QuotaService/Settle"
_ASK = "stack.auth.v1.AuthService/Authenticate"
Traced = tuple[Stack, Metrics, Collector]


@pytest.fixture(scope="module")
def traced() -> Iterator[Traced]:
    """Yield a stack that exports every trace, every log record and every metric."""
    with (
        running_collector() as (collector, endpoint),
        watched_stack(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_BSP_SCHEDULE_DELAY="100", LOG_LEVEL="DEBUG") as (
            stack,
            metrics,
        ),
    ):
        yield stack, metrics, collector


async def _stream(stack: Stack, key: Key, **headers: str) -> tuple[str, str]:
    """Return the request's id and everything that was streamed."""
    async with httpx.AsyncClient(base_url=stack.base_url, trust_env=False, timeout=20) as http:
        body = say(f"{CANARY} tell me", stream=True, user=CANARY)
        answer = await http.post("/api/v1/chat", headers={**key.headers, **headers}, json=body)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-request-id"], answer.text


class Trace:
    """The spans of one request, from the first to the last."""

    def __init__(self, spans: list[Exported]) -> None:
        self.spans = sorted(spans, key=lambda one: one.span.start_time_unix_nano)
        self._by_id = {one.span.span_id: one for one in spans}

    @property
    def services(self) -> set[str]:
        """The participating services."""
        return {one.service for one in self.spans}

    def first(self, service: str, name: str) -> Exported:
        """Return a service's first span of a name."""
        return next(one for one in self.spans if (one.service, one.span.name) == (service, name))

    def path(self, one: Exported) -> list[str]:
        """Return the names from the root to a span."""
        above = self._by_id.get(one.span.parent_span_id)
        return [*(self.path(above) if above else []), f"{one.service}: {one.span.name}"]


def _trace_of(collector: Collector, request_id: str) -> Trace:
    """Return a request's trace once it contains the settle at its end."""

    def trace(spans: list[Exported]) -> list[Exported]:
        ids = {one.span.trace_id for one in spans if one.attributes.get("stack.request_id") == request_id}
        return [one for one in spans if one.span.trace_id in ids]

    def is_whole(spans: list[Exported]) -> bool:
        names = {(one.service, one.span.name) for one in trace(spans)}
        return {("gateway", "POST chat"), ("gateway", _SETTLE), ("quota", _SETTLE), ("inference", _INFER)} <= names

    return Trace(trace(collector.until(is_whole)))


@pytest.mark.long
async def test_one_trace_spans_http_every_service_and_groq(traced: Traced) -> None:
    stack, _, collector = traced
    key = await stack.create_key()
    request_id, _ = await _stream(stack, key)
    trace = await asyncio.to_thread(_trace_of, collector, request_id)
    assert trace.services == {"gateway", "auth", "quota", "inference"}
    groq = next(one for one in trace.spans if "gen_ai.request.model" in one.attributes)
    gateway = ["gateway: POST chat"]
    assert trace.path(groq) == [*gateway, f"gateway: {_INFER}", f"inference: {_INFER}", f"inference: {groq.span.name}"]
    assert trace.path(trace.first("quota", "redis")) == [
        *gateway,
        "gateway: reserve",
        f"gateway: {_RESERVE}",
        f"quota: {_RESERVE}",
        "quota: redis",
    ]
    assert trace.path(trace.first("auth", _ASK)) == [
        *gateway,
        "gateway: authenticate",
        f"gateway: {_ASK}",
        f"auth: {_ASK}",
    ]
    assert trace.first("gateway", "POST chat").attributes["http.response.status_code"] == 200
    (row,) = stack.ledger(key)
    served = trace.first("inference", _INFER).attributes
    assert served["gen_ai.usage.output_tokens"] == row["completion_tokens"]
    assert served["stack.charged"] is True


async def _trace_of_a_stream(stack: Stack, key: Key, collector: Collector) -> Trace:
    request_id, _ = await _stream(stack, key)
    return await asyncio.to_thread(_trace_of, collector, request_id)


async def test_a_key_from_the_cache_is_marked_as_such(traced: Traced) -> None:
    stack, _, collector = traced
    key = await stack.create_key()
    # One after the other, since settles within 10 ms share a call and one trace.
    first, second = [await _trace_of_a_stream(stack, key, collector) for _ in range(2)]
    assert first.first("gateway", "authenticate").attributes["stack.key.source"] == "auth"
    assert second.first("gateway", "authenticate").attributes["stack.key.source"] == "cache"
    assert "auth" not in second.services


async def test_requests_that_share_a_batch_to_quota_keep_their_own_traces(traced: Traced) -> None:
    stack, _, collector = traced
    key = await stack.create_key()
    ids = [request_id for request_id, _ in await asyncio.gather(*(_stream(stack, key) for _ in range(20)))]
    for request_id in ids:
        roots = await asyncio.to_thread(_roots_of, collector, request_id)
        assert roots == ["POST chat"]


def _roots_of(collector: Collector, request_id: str) -> list[str]:
    def found(spans: list[Exported]) -> list[Exported]:
        return [
            one
            for one in spans
            if one.service == "gateway"
            and one.attributes.get("stack.request_id") == request_id
            and not one.span.parent_span_id
        ]

    return [one.span.name for one in found(collector.until(lambda spans: bool(found(spans))))]


async def test_a_callers_own_trace_is_linked_and_not_continued(traced: Traced) -> None:
    """A caller that chose our trace ids could mix requests of different users into one."""
    stack, _, collector = traced
    key = await stack.create_key()
    request_id, _ = await _stream(stack, key, traceparent=f"00-{THEIRS}-00f067aa0ba902b7-01")
    root = (await asyncio.to_thread(_trace_of, collector, request_id)).first("gateway", "POST chat").span
    assert root.trace_id.hex() != THEIRS
    assert [link.trace_id.hex() for link in root.links] == [THEIRS]


async def test_a_log_line_has_the_ids_of_its_request_and_trace(traced: Traced) -> None:
    stack, _, collector = traced
    request_id, _ = await _stream(stack, await stack.create_key())
    trace = await asyncio.to_thread(_trace_of, collector, request_id)
    lines = [json.loads(line) for line in stack.log("gateway-1").splitlines() if line.startswith("{")]
    (line,) = [one for one in lines if one["message"] == "request" and one["request_id"] == request_id]
    assert line["trace_id"] == trace.spans[0].span.trace_id.hex()


async def test_no_output_contains_a_prompt_an_answer_or_a_key(traced: Traced) -> None:
    stack, metrics, collector = traced
    key = await stack.create_key()
    request_id, answer = await _stream(stack, key)
    async with httpx.AsyncClient(base_url=stack.base_url, trust_env=False, timeout=20) as http:
        for body in (
            say(CANARY, temperature=CANARY),
            say(f"[[standin:400]] {CANARY}"),
            say(f"[[standin:cut]] {CANARY}"),
        ):
            await http.post("/api/v1/chat", headers=key.headers, json=body)
        await http.post("/api/v1/chat", headers=key.headers, content=f"{{{CANARY}".encode())
        await http.get(f"/api/v1/usage?from={CANARY}", headers=key.headers)
    await asyncio.to_thread(_trace_of, collector, request_id)
    assert CANARY in answer, "the stand-in repeats the prompt, so an answer would be found too"
    secrets = [CANARY.encode(), key.secret.encode()]
    written = {f"metrics of {name}": metrics.text(name).encode() for name in SERVICES}
    written |= {f"span {one.span.name}": one.span.SerializeToString() for one in collector.spans}
    # The stand-in's journal belongs to Groq, not to the product.
    files = [path for path in stack.folder.rglob("*") if path.is_file() and "standin" not in path.name]
    written |= {path.name: path.read_bytes() for path in files}
    assert len(files) > 8, "the logs and databases are among what was searched"
    assert [(name, secret) for name, text in written.items() for secret in secrets if secret in text] == []
