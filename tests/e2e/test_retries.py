"""Automatic retries of SDKs with keys that deduplicate them: charged once, in both layouts with a real Valkey."""

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from typing import Any

import anthropic
import httpx
import openai
import pytest
from redis import Redis

from services.local import valkey
from tests.e2e.console.browser import PASSWORD, Browser, secret_of
from tests.e2e.stack import Key, Stack, running_stack, say

pytestmark = [pytest.mark.xdist_group("retries"), pytest.mark.long]

MODEL = "openai/gpt-oss-20b"
CHAT = "/v1/chat/completions"
COUNT = "x-stainless-retry-count"
_REQUEST_SECONDS = 4
_SLOW: Any = [{"role": "user", "content": "[[standin:slow headers_ms=2500]] one"}]
_SLOW_STREAM: Any = [{"role": "user", "content": "[[standin:slow headers_ms=2500]] [[standin:tokens count=20]]"}]
"""SDKs repeat the request of a stream only before its first event."""


@pytest.fixture(
    scope="module", params=[pytest.param(2, id="workers"), pytest.param(0, id="services", marks=pytest.mark.long)]
)
def running(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Yield a stack with two gateways that keeps answers. Tests may kill its second Valkey and its second gateway."""
    with running_stack(
        gateways=2,
        workers=request.param,
        stores_responses=True,
        REQUEST_TIMEOUT_SECONDS=str(_REQUEST_SECONDS),
        GATEWAY_INVALID_REQUESTS_PER_SECOND="0",
    ) as stack:
        yield stack


@pytest.fixture
async def key(running: Stack) -> Key:
    return await running.create_key(deduplicate_retries=True)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        yield client


class Sent:
    """The retry counts of an SDK's requests, and its HTTP client."""

    def __init__(self, http_client: Callable[..., Any]) -> None:
        self.counts: list[str] = []
        hooks: Any = {"request": [self._note]}
        self.http: Any = http_client(event_hooks=hooks, trust_env=False)

    async def _note(self, request: Any) -> None:
        self.counts.append(request.headers[COUNT])


def _openai(url: str, key: Key, sent: Sent, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key.secret, http_client=sent.http, **options)


async def _ask(stack: Stack, http: httpx.AsyncClient, key: Key, text: str, *counts: str, **more: str) -> httpx.Response:
    """Send a request with retry counts to a gateway."""
    headers = [*key.headers.items(), *((COUNT, count) for count in counts), *more.items()]
    return await http.post(f"{stack.base_url}{CHAT}", headers=headers, json=say(text))


def _code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


async def _charges(stack: Stack, key: Key) -> list[int]:
    """Return what each ledger row of a key is charged, and check that its counter agrees."""
    charged, held = await stack.until_settled(key)
    rows = [row["charged"] for row in stack.ledger(key)]
    assert (charged, held) == (sum(rows), 0)
    return rows


@pytest.mark.parametrize("stream", [False, True])
async def test_openais_package_gets_the_answer_of_the_request_that_timed_out(
    running: Stack, key: Key, stream: bool
) -> None:
    """A retry while the request runs gets a 409, and the next one, after `retry-after`, the answer."""
    sent, calls = Sent(openai.DefaultAsyncHttpxClient), len(await running.journal())
    async with _openai(running.base_url, key, sent, timeout=1, max_retries=5) as gpt:
        if stream:
            events = await gpt.chat.completions.create(model=MODEL, messages=_SLOW_STREAM, stream=True)
            tokens = [event.choices[0].delta.content async for event in events if event.choices]
            assert sum(1 for token in tokens if token) == 20
        else:
            answer = await gpt.chat.completions.create(model=MODEL, messages=_SLOW)
            assert answer.choices[0].message.content
    assert sent.counts[:2] == ["0", "1"]
    assert len(await running.journal()) == calls + 1
    assert await _charges(running, key) == [1]


async def test_anthropics_package_gets_the_answer_of_the_request_that_timed_out(running: Stack, key: Key) -> None:
    sent, calls = Sent(anthropic.DefaultAsyncHttpxClient), len(await running.journal())
    claude = anthropic.AsyncAnthropic(
        base_url=running.base_url, api_key=key.secret, http_client=sent.http, timeout=1, max_retries=5
    )
    async with claude:
        answer = await claude.messages.create(model=MODEL, messages=_SLOW, max_tokens=100)
    assert answer.content
    assert sent.counts[:2] == ["0", "1"]
    assert len(await running.journal()) == calls + 1
    assert await _charges(running, key) == [1]


async def test_without_the_property_each_retry_runs_and_is_charged(running: Stack) -> None:
    key, sent = await running.create_key(), Sent(openai.DefaultAsyncHttpxClient)
    async with _openai(running.base_url, key, sent, timeout=1, max_retries=1) as gpt:
        with pytest.raises(openai.APITimeoutError):
            await gpt.chat.completions.create(model=MODEL, messages=_SLOW)
    assert sent.counts == ["0", "1"]
    assert await _charges(running, key) == [1, 1]


async def test_a_request_of_a_killed_gateway_is_charged_once(running: Stack, key: Key) -> None:
    """Retries wait for the ledger. With four services, inference has charged the request, whose answer is gone."""
    has_services = "gateway-2" in running.names
    gateway, sent = "gateway-2" if has_services else "stack-2", Sent(openai.DefaultAsyncHttpxClient)
    async with _openai(running.gateways[1], key, sent, timeout=10, max_retries=20) as gpt:
        asking = asyncio.create_task(gpt.chat.completions.create(model=MODEL, messages=_SLOW))
        await asyncio.sleep(0.7)
        running.kill(gateway)
        running.start(gateway)
        await running.until_ready(gateway)
        if has_services:
            with pytest.raises(openai.APIStatusError) as raised:
                await asking
            assert raised.value.status_code == 410
            assert running.ledger(key)[0]["request_id"] in str(raised.value)
        else:
            assert (await asking).choices[0].message.content
    assert sent.counts[:3] == ["0", "1", "2"]
    # The hold of the killed gateway is settled later, by quota's sweeper.
    assert sum(row["charged"] for row in running.ledger(key)) == 1


@pytest.mark.parametrize("counts", [(), ("0",), ("one",), ("-1",), ("1", "1")])
async def test_identical_first_requests_all_run_and_are_all_charged(
    running: Stack, http: httpx.AsyncClient, key: Key, counts: tuple[str, ...]
) -> None:
    text = "[[standin:slow headers_ms=200]] one"
    answers = await asyncio.gather(*(_ask(running, http, key, text, *counts) for _ in range(2)))
    answers.append(await _ask(running, http, key, text, *counts))
    assert [(one.status_code, one.headers["idempotent-replayed"]) for one in answers] == [(200, "false")] * 3
    assert len({one.headers["x-request-id"] for one in answers}) == 3
    # A retry gets the answer of the last one.
    retry = await _ask(running, http, key, text, "1")
    assert (retry.content, retry.headers["idempotent-replayed"]) == (answers[-1].content, "true")
    assert await _charges(running, key) == [1, 1, 1]


async def test_a_retry_runs_after_a_release_and_without_a_record(
    running: Stack, http: httpx.AsyncClient, key: Key
) -> None:
    text = f"[[standin:flaky times=3 status=500 id={key.id}]]"
    assert (await _ask(running, http, key, text, "0")).status_code >= 500
    answers = [await _ask(running, http, key, text, count) for count in ("1", "2")]
    assert [(one.status_code, one.headers["idempotent-replayed"]) for one in answers] == [(200, "false"), (200, "true")]
    assert answers[0].content == answers[1].content
    assert Counter(await _charges(running, key))[1] == 1

    other = await _ask(running, http, key, "two", "1")
    assert (other.status_code, other.headers["idempotent-replayed"]) == (200, "false")
    assert sum(await _charges(running, key)) == 2


async def test_retries_at_once_run_once(running: Stack, http: httpx.AsyncClient, key: Key) -> None:
    text = "[[standin:slow headers_ms=500]] one"
    answers = await asyncio.gather(*(_ask(running, http, key, text, "1") for _ in range(5)))
    assert Counter(one.status_code for one in answers) == {200: 1, 409: 4}
    refused = next(one for one in answers if one.status_code == 409)
    assert _code(refused) == (409, "idempotent_request_running")
    assert int(refused.headers["retry-after"]) >= 1
    assert "that this one retries" in refused.json()["error"]["message"]
    assert await _charges(running, key) == [1]


async def test_another_key_has_no_records_until_the_property_is_set(running: Stack, http: httpx.AsyncClient) -> None:
    key = await running.create_key()
    for count in ("0", "1"):
        assert "idempotent-replayed" not in (await _ask(running, http, key, "one", count)).headers
    assert (await http.get(f"{running.base_url}/v1/key", headers=key.headers)).json()["deduplicate_retries"] is False
    await running.set_deduplication(key.id, deduplicate_retries=True)
    async with asyncio.timeout(5):
        while "idempotent-replayed" not in (first := await _ask(running, http, key, "two", "0")).headers:
            await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        while (retry := await _ask(running, http, key, "two", "1")).headers.get("idempotent-replayed") != "true":
            await asyncio.sleep(0.05)
    assert retry.content == first.content
    assert (await http.get(f"{running.base_url}/v1/key", headers=key.headers)).json()["deduplicate_retries"] is True


async def test_an_explicit_key_takes_precedence(running: Stack, http: httpx.AsyncClient, key: Key) -> None:
    one, two = ({"idempotency-key": name} for name in ("one", "two"))
    first = await _ask(running, http, key, "one", "0", **one)
    assert (await _ask(running, http, key, "one", "0", **one)).content == first.content
    other = await _ask(running, http, key, "one", "1", **two)
    assert other.headers["idempotent-replayed"] == "false"
    implicit = await _ask(running, http, key, "one", "1")
    assert implicit.headers["idempotent-replayed"] == "false"
    assert await _charges(running, key) == [1, 1, 1]


async def test_without_its_valkey_requests_run_unrecorded(running: Stack, http: httpx.AsyncClient, key: Key) -> None:
    running.kill(valkey.RESPONSES)
    try:
        for count in ("0", "1"):
            answer = await _ask(running, http, key, "one", count)
            assert (answer.status_code, "idempotent-replayed" in answer.headers) == (200, False)
    finally:
        running.start(valkey.RESPONSES)
        await running.until_ready(valkey.RESPONSES)
    assert await _charges(running, key) == [1, 1]


async def test_records_and_answers_are_deleted_with_their_account(running: Stack, http: httpx.AsyncClient) -> None:
    async with Browser(running) as browser:
        assert (await browser.sign_up(f"{secrets.token_hex(6)}@example.com")).status_code == 200
        key = Key("", secret_of((await browser.submit("/keys", "/keys", {"name": "laptop"})).text))
        facts = (await http.get(f"{running.base_url}/v1/key", headers=key.headers)).json()
        await running.set_deduplication(facts["id"], deduplicate_retries=True)
        with closing(Redis(unix_socket_path=str(running.folder / valkey.RESPONSES_SOCKET))) as redis:
            before = set(redis.keys("retries:*"))
            async with asyncio.timeout(5):
                while "idempotent-replayed" not in (await _ask(running, http, key, "one")).headers:
                    await asyncio.sleep(0.05)
            added = set(redis.keys("retries:*")) - before
            assert len(added) >= 4
            asked = await _ask_playground(browser, facts["id"])
            assert (asked.status_code, "idempotent-replayed" in asked.headers) == (200, False)
            assert set(redis.keys("retries:*")) - before == added
            assert "deleted" in (await browser.submit("/account", "/account/delete", {"password": PASSWORD})).text
            assert set(redis.keys("retries:*")) & added <= {b"retries:accounts"}


async def _ask_playground(browser: Browser, key_id: str) -> httpx.Response:
    csrf = re.search(r'data-csrf="(\w+)"', (await browser.get("/playground")).text)
    assert csrf
    headers = {"x-csrf-token": csrf[1], "stack-key-id": key_id, "origin": browser.origin}
    return await browser.client.post("/playground/chat", headers=headers, json=say("two", stream=True))


async def test_without_stored_responses_the_property_has_no_effect(stack: Stack, http: httpx.AsyncClient) -> None:
    key = await stack.create_key(deduplicate_retries=True)
    for count in ("0", "1"):
        answer = await _ask(stack, http, key, "one", count)
        assert (answer.status_code, "idempotent-replayed" in answer.headers) == (200, False)
    assert await _charges(stack, key) == [1, 1]
