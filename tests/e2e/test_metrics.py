"""Operators' view: every service's metrics, right after requests of every kind."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.metrics import SERVICES, Metrics, watched_stack
from tests.e2e.stack import Key, Stack, say

CANARY = "xyzzy-canary-4711"
Watched = tuple[Stack, Metrics]


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """Yield a stack whose metrics are served."""
    with watched_stack(QUOTA_RECONCILE_SECONDS="0.2") as running:
        yield running


async def _chat(stack: Stack, key: Key, **members: object) -> httpx.Response:
    async with httpx.AsyncClient(base_url=stack.base_url, trust_env=False, timeout=20) as http:
        return await http.post("/api/v1/chat", headers=key.headers, json={**say(CANARY), **members})


@pytest.mark.long
async def test_counts_agree_with_the_ledger(watched: Watched) -> None:
    stack, metrics = watched
    key = await stack.create_key(daily_limit=3)
    before = {name: metrics.value(name) for name in ("stack_chats_total", "stack_tokens_total")}
    statuses = [(await _chat(stack, key, stream=stream)).status_code for stream in (False, True, False, False)]
    assert statuses == [200, 200, 200, 429]
    await stack.until_settled(key)
    rows = stack.ledger(key)
    tokens = sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)
    counted = sum(metrics.value("stack_tokens_total", kind=kind) for kind in ("prompt", "completion"))
    assert metrics.value("stack_chats_total", charged="true") - before["stack_chats_total"] == len(rows) == 3
    assert counted - before["stack_tokens_total"] == tokens > 0
    assert metrics.value("stack_quota_settlements_total", verdict="charged") >= 3
    # A reserve that took too long is retried, and denied again.
    assert metrics.value("stack_quota_reservations_total", outcome="denied") >= 1
    assert metrics.value("stack_http_request_duration_seconds_count", route="chat", status="200") >= 3
    assert metrics.value("stack_http_request_duration_seconds_count", route="chat", status="429") == 1


@pytest.mark.long
async def test_latencies_and_requests_in_progress_are_exported(watched: Watched) -> None:
    stack, metrics = watched
    key = await stack.create_key()
    for stream in (False, True):
        assert (await _chat(stack, key, stream=stream)).status_code == 200
    for name in (
        "stack_gateway_admission_seconds_count",
        "stack_gateway_time_to_first_event_seconds_count",
        "stack_time_to_first_token_seconds_count",
        "stack_chat_duration_seconds_count",
        "stack_ledger_commit_seconds_count",
        "stack_quota_batch_items_count",
        "stack_upstream_calls_total",
        "stack_key_look_ups_total",
    ):
        assert metrics.value(name) > 0, f"{name} exports nothing"
    for service in ("quota", "inference"):
        assert metrics.value("stack_rpc_multiplexed_streams", service=service) == 1, "each call is an RPC of its own"
    assert metrics.value("stack_upstream_key_usable", key="1") == 1
    assert metrics.value("stack_key_watch_up") == 1
    # A sweep or a reconciliation may have an RPC of its own at any one moment.
    async with asyncio.timeout(10):
        while metrics.value("stack_rpc_in_flight") != 1:  # the gateway's watch of keys
            await asyncio.sleep(0.05)
    assert metrics.value("stack_http_requests_in_flight") == 0
    assert metrics.value("stack_gateway_streams_open") == 0
    assert metrics.value("stack_ledger_rows_waiting") == 0


@pytest.mark.long
async def test_a_request_in_progress_and_the_age_of_its_hold_are_visible(watched: Watched) -> None:
    stack, metrics = watched
    key = await stack.create_key()
    asking = asyncio.ensure_future(_chat(stack, key, **say("[[standin:slow headers_ms=3000]]")))
    async with asyncio.timeout(2.5):
        while await asyncio.to_thread(metrics.value, "stack_quota_oldest_hold_age_seconds") < 0.2:
            await asyncio.sleep(0.05)
        assert await asyncio.to_thread(metrics.value, "stack_http_requests_in_flight") == 1
    assert (await asking).status_code == 200


async def test_no_label_contains_a_value_chosen_by_a_caller(watched: Watched) -> None:
    """Each value of a label creates a permanent series: a caller that could choose values would exhaust memory."""
    stack, metrics = watched
    key = await stack.create_key()
    await _chat(stack, key, model=CANARY, user=CANARY)
    async with httpx.AsyncClient(base_url=stack.base_url, trust_env=False, headers=key.headers) as http:
        for path in (f"/{CANARY}", f"/api/v1/{CANARY}", f"/api/v1/models/{CANARY}", f"/api/v1/usage/{CANARY}"):
            await http.get(path, headers={"user-agent": CANARY})
        await http.request(CANARY.upper().replace("-", ""), "/api/v1/chat")
    reported = "".join(metrics.text(service) for service in SERVICES)
    for secret in (CANARY, CANARY.upper(), key.secret, key.id, "tester@example.com"):
        assert secret not in reported
    assert len(list(metrics.label_values())) < 100
