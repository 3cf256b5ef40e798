"""Requests with `Idempotency-Key`: run and charged once, and answered again, in both layouts with a real Valkey.

Both layouts have two gateways, between which the tests switch.
"""

import asyncio
import json
import secrets
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
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

pytestmark = pytest.mark.xdist_group("idempotency")

MODEL = "openai/gpt-oss-20b"
CHAT = "/api/v1/chat/completions"
_REQUEST_SECONDS = 4
_LEASE_SECONDS = _REQUEST_SECONDS + 10
_STORED_HEADERS = ("content-type", "cache-control", "x-accel-buffering", "x-request-id", "request-id")
_SLOW_STREAM = "[[standin:slow token_ms=50]] [[standin:tokens count=20]]"
"""A second long."""

_BODIES: dict[str, dict[str, Any]] = {
    CHAT: say("one"),
    "/api/v1/completions": {"model": MODEL, "prompt": "one"},
    "/api/v1/responses": {"model": MODEL, "input": "one"},
    "/api/v1/messages": {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "one"}]},
}


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
        GATEWAY_IDEMPOTENT_ANSWER_BYTES_MAX="100000",
    ) as stack:
        yield stack


@pytest.fixture
async def key(running: Stack) -> Key:
    return await running.create_key()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        yield client


class Caller:
    """Sends requests with one API key and one idempotency key."""

    def __init__(self, stack: Stack, http: httpx.AsyncClient, key: Key, *, path: str = CHAT) -> None:
        self._stack = stack
        self._http = http
        self._key = key
        self._path = path
        self.idempotency_key = secrets.token_hex(8)

    async def send(self, body: dict[str, Any], *, gateway: int = 0, path: str = "", **headers: str) -> httpx.Response:
        url = f"{self._stack.gateways[gateway]}{path or self._path}"
        sent = {**self._key.headers, "idempotency-key": self.idempotency_key, **headers}
        return await self._http.post(url, headers=sent, json=body)


@pytest.fixture
def caller(running: Stack, http: httpx.AsyncClient, key: Key) -> Caller:
    return Caller(running, http, key)


def _redis(stack: Stack) -> "Redis":
    return Redis(unix_socket_path=str(stack.folder / valkey.RESPONSES_SOCKET))


def _code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


async def _charged_once(stack: Stack, key: Key) -> None:
    assert await stack.until_settled(key) == (1, 0)
    assert [row["charged"] for row in stack.ledger(key)] == [1]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", _BODIES)
async def test_a_repeat_gets_the_same_status_bytes_and_headers_and_is_charged_once(
    running: Stack, http: httpx.AsyncClient, key: Key, path: str, stream: bool
) -> None:
    caller = Caller(running, http, key, path=path)
    body = (
        {**_BODIES[path], "stream": stream, "metadata": None} if path == CHAT else {**_BODIES[path], "stream": stream}
    )
    calls = len(await running.journal())
    first = await caller.send(body)
    second = await caller.send(body)
    third = await caller.send(body, gateway=1)
    assert first.status_code == 200, first.text
    assert first.headers["idempotent-replayed"] == "false"
    for repeat in (second, third):
        assert (repeat.status_code, repeat.content) == (200, first.content)
        assert repeat.headers["idempotent-replayed"] == "true"
        assert "x-ratelimit-remaining-requests" not in repeat.headers
        for name in _STORED_HEADERS:
            assert repeat.headers.get(name) == first.headers.get(name), name
    assert len(await running.journal()) == calls + 1
    await _charged_once(running, key)


async def test_a_key_is_for_one_path_body_and_api_key(
    running: Stack, http: httpx.AsyncClient, key: Key, caller: Caller
) -> None:
    first = await caller.send(say("one"))
    for repeat in (
        await caller.send(say("two")),
        await caller.send(say("one", stream=True)),
        await caller.send(say("one"), path="/api/v1/chat"),
    ):
        assert _code(repeat) == (422, "idempotency_key_reused")
    # Aliases are the same path.
    assert (await caller.send(say("one"), path="/v1/chat/completions")).content == first.content
    await _charged_once(running, key)

    other_key = await running.create_key()
    other = Caller(running, http, other_key)
    other.idempotency_key = caller.idempotency_key
    answer = await other.send(say("one"))
    assert (answer.status_code, answer.headers["idempotent-replayed"]) == (200, "false")
    await _charged_once(running, other_key)


@pytest.mark.parametrize("stream", [False, True])
async def test_of_many_requests_at_once_one_runs_and_the_others_get_409(
    running: Stack, key: Key, caller: Caller, stream: bool
) -> None:
    body = say(_SLOW_STREAM, stream=stream)
    answers = await asyncio.gather(*(caller.send(body, gateway=number % 2) for number in range(10)))
    assert Counter(answer.status_code for answer in answers) == {200: 1, 409: 9}
    (first,) = [answer for answer in answers if answer.status_code == 200]
    for answer in answers:
        if answer is not first:
            assert _code(answer)[1] == "idempotent_request_running"
            assert int(answer.headers["retry-after"]) >= 1
            assert first.headers["x-request-id"] in answer.json()["error"]["message"]
    assert (await caller.send(body)).content == first.content
    await _charged_once(running, key)


async def test_a_request_that_is_not_charged_runs_again(running: Stack, key: Key, caller: Caller) -> None:
    body = say(f"[[standin:flaky times=3 status=500 id={key.id}]]")
    failed = await caller.send(body)
    assert failed.status_code >= 500
    answered = await caller.send(body, gateway=1)
    assert (answered.status_code, answered.headers["idempotent-replayed"]) == (200, "false")
    assert (await caller.send(body)).content == answered.content
    assert await running.until_settled(key) == (1, 0)


async def test_a_refused_request_does_not_use_up_its_key(
    running: Stack, http: httpx.AsyncClient, caller: Caller
) -> None:
    assert (await caller.send({"model": MODEL})).status_code == 400
    assert (await caller.send(say("one"))).status_code == 200

    limited = await running.create_key(daily_limit=1)
    first, second = (Caller(running, http, limited) for _ in range(2))
    answer = await first.send(say("one"))
    assert answer.status_code == 200
    for _ in range(2):
        assert (await second.send(say("one"))).status_code == 429
    # A repeat needs no slot.
    assert (await first.send(say("one"))).content == answer.content
    await _charged_once(running, limited)


async def test_a_stream_that_broke_after_output_is_charged_and_replayed(
    running: Stack, key: Key, caller: Caller
) -> None:
    body = say("[[standin:tokens count=9]] [[standin:cut after=3]]", stream=True)
    first = await caller.send(body)
    assert "[DONE]" not in first.text
    assert '"error"' in first.text
    repeat = await caller.send(body)
    assert (repeat.status_code, repeat.content, repeat.headers["idempotent-replayed"]) == (200, first.content, "true")
    await _charged_once(running, key)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_left_in_the_middle_gets_the_whole_answer_later(
    running: Stack, http: httpx.AsyncClient, key: Key, caller: Caller, stream: bool
) -> None:
    body = say(_SLOW_STREAM, stream=stream)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.4):
            await caller.send(body)
    assert _code(await caller.send(body, gateway=1)) == (409, "idempotent_request_running")
    async with asyncio.timeout(10):
        while (answer := await caller.send(body, gateway=1)).status_code == 409:
            await asyncio.sleep(0.1)
    assert (answer.status_code, answer.headers["idempotent-replayed"]) == (200, "true")
    if stream:
        assert answer.text.endswith("data: [DONE]\n\n")
    await _charged_once(running, key)
    assert running.ledger(key)[0]["outcome"] == "answered"


@pytest.mark.long  # It waits until the claim of the killed gateway ends.
async def test_a_killed_gateway_leaves_it_to_the_ledger_whether_a_repeat_runs(
    running: Stack, key: Key, caller: Caller
) -> None:
    """With four services, inference reads the answer to the end: it is charged. A worker takes it down with it."""
    has_services = "gateway-2" in running.names
    gateway = "gateway-2" if has_services else "stack-2"
    body = say(_SLOW_STREAM, stream=True)
    cut = asyncio.create_task(caller.send(body, gateway=1))
    await asyncio.sleep(0.5)
    running.kill(gateway)
    try:
        with pytest.raises(httpx.HTTPError):
            await cut
        repeat = await caller.send(body)
        assert _code(repeat) == (409, "idempotent_request_running")
        async with asyncio.timeout(_LEASE_SECONDS + 5):
            while (repeat := await caller.send(body)).status_code == 409:
                await asyncio.sleep(0.5)
    finally:
        running.start(gateway)
        await running.until_ready(gateway)
    rows = running.ledger(key)
    if has_services:
        assert _code(repeat) == (410, "idempotent_answer_gone")
        assert rows[0]["request_id"] in repeat.json()["error"]["message"]
        assert [row["charged"] for row in rows] == [1]
    else:
        assert (repeat.status_code, repeat.headers["idempotent-replayed"]) == (200, "false")
        assert [(row["outcome"], row["charged"]) for row in rows] == [("unknown", 0), ("answered", 1)]
        assert (await caller.send(body)).content == repeat.content


async def test_an_answer_that_was_evicted_or_is_too_large_is_gone_and_not_run_again(
    running: Stack, http: httpx.AsyncClient, key: Key, caller: Caller
) -> None:
    first = await caller.send(say("one"))
    request_id = first.headers["x-request-id"]
    with closing(_redis(running)) as redis:
        assert redis.delete(f"idempotency:{{{key.account_id}}}:one:{request_id}") == 1
    large = Caller(running, http, key)
    answer = await large.send(say("[[standin:big bytes=200000]]"))
    assert (answer.status_code, len(answer.content) > 200_000) == (200, True)
    for one, body in ((caller, say("one")), (large, say("[[standin:big bytes=200000]]"))):
        gone = await one.send(body)
        assert _code(gone) == (410, "idempotent_answer_gone")
        assert "idempotent-replayed" not in gone.headers
    receipt = await http.get(f"{running.base_url}/v1/usage/{request_id}", headers=key.headers)
    assert receipt.json()["charged"] is True
    assert await running.until_settled(key) == (2, 0)


async def test_nothing_of_a_kept_answer_or_its_key_is_readable(running: Stack, caller: Caller) -> None:
    caller.idempotency_key = "order-4711-of-Ada-Lovelace"
    answer = await caller.send(say("My name is Ada Lovelace."))
    text = answer.json()["choices"][0]["message"]["content"]
    with closing(_redis(running)) as redis:
        names: Any = redis.keys("*")
        dump = b"".join(redis.dump(name) or b"" for name in names)
        assert sum(name.startswith(b"idempotency:") for name in names) >= 4
    assert len(dump) > 300
    files = b"".join(path.read_bytes() for path in running.settings.data_dir.rglob("*") if path.is_file())
    logs = "".join(running.log(name) for name in running.names).encode()
    for secret in ("My name is Ada", text, caller.idempotency_key):
        assert secret.encode() not in dump + files + logs


async def test_without_its_valkey_requests_with_a_key_are_refused_uncharged_and_no_others(
    running: Stack, http: httpx.AsyncClient, key: Key, caller: Caller
) -> None:
    running.kill(valkey.RESPONSES)
    try:
        for stream in (False, True):
            refused = await caller.send(say("one", stream=stream))
            assert _code(refused) == (503, "idempotency_unavailable")
            assert "retry-after" in refused.headers
        assert await running.until_settled(key) == (0, 0)
        other = await http.post(f"{running.base_url}{CHAT}", headers=key.headers, json=say("one"))
        assert other.status_code == 200
        assert "idempotent-replayed" not in other.headers
    finally:
        running.start(valkey.RESPONSES)
        await running.until_ready(valkey.RESPONSES)
    assert (await caller.send(say("one"))).status_code == 200
    assert await running.until_settled(key) == (2, 0)


@pytest.mark.long  # It waits until the claim ends.
async def test_a_stream_whose_storage_fails_is_sent_whole_and_never_run_again(
    running: Stack, key: Key, caller: Caller
) -> None:
    body = say(_SLOW_STREAM, stream=True)
    answering = asyncio.create_task(caller.send(body))
    try:
        await asyncio.sleep(0.5)
        assert not answering.done()
        running.kill(valkey.RESPONSES)
        answer = await answering
    finally:
        running.start(valkey.RESPONSES)
        await running.until_ready(valkey.RESPONSES)
    assert answer.text.endswith("data: [DONE]\n\n")
    async with asyncio.timeout(_LEASE_SECONDS + 5):
        while (repeat := await caller.send(body)).status_code == 409:
            await asyncio.sleep(0.5)
    assert _code(repeat) == (410, "idempotent_answer_gone")
    await _charged_once(running, key)


@pytest.mark.parametrize("value", ["", "x" * 256, "a\u00e9", "tab\tbed"], ids=["empty", "long", "latin", "tab"])
async def test_an_invalid_key_is_a_400_that_names_the_header(running: Stack, key: Key, value: str) -> None:
    headers = [*key.headers.items(), ("idempotency-key", value)]
    raw = [(name.encode(), text.encode("latin-1")) for name, text in headers]
    async with httpx.AsyncClient(base_url=running.base_url, trust_env=False) as http:
        answer = await http.post(CHAT, headers=raw, json=say("one"))
        twice = await http.post(CHAT, headers=[*raw[:-1], *[(b"idempotency-key", b"a")] * 2], json=say("one"))
    for refused in (answer, twice):
        assert _code(refused) == (400, "invalid_idempotency_key")
        assert refused.json()["error"]["param"] == "Idempotency-Key"
    assert await running.until_settled(key) == (0, 0)


async def test_answers_and_keys_are_deleted_with_their_account(running: Stack, http: httpx.AsyncClient) -> None:
    async with Browser(running) as browser:
        assert (await browser.sign_up(f"{secrets.token_hex(6)}@example.com")).status_code == 200
        secret = secret_of((await browser.submit("/keys", "/keys", {"name": "laptop"})).text)
        with closing(_redis(running)) as redis:
            before = set(redis.keys("idempotency:*"))
            assert (await Caller(running, http, Key("", secret)).send(say("one"))).status_code == 200
            # The set of accounts is there once any account has used a key.
            added = set(redis.keys("idempotency:*")) - before - {b"idempotency:accounts"}
            assert len(added) == 4
            assert "deleted" in (await browser.submit("/account", "/account/delete", {"password": PASSWORD})).text
            assert set(redis.keys("idempotency:*")) & added == set()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_graceful_stop_keeps_the_answers_of_requests_in_flight(
    running: Stack, key: Key, caller: Caller, stream: bool
) -> None:
    gateway = "gateway-2" if "gateway-2" in running.names else "stack-2"
    body = say("[[standin:slow token_ms=20]] [[standin:tokens count=20]]", stream=stream)
    answering = asyncio.create_task(caller.send(body, gateway=1))
    await asyncio.sleep(0.2)
    running.signal(gateway, signal.SIGTERM)
    try:
        answer = await answering
    finally:
        running.stop(gateway)
        running.start(gateway)
        await running.until_ready(gateway)
    assert answer.status_code == 200
    assert (await caller.send(body)).content == answer.content
    await _charged_once(running, key)


async def test_by_default_the_header_is_ignored(stack: Stack, http: httpx.AsyncClient) -> None:
    key = await stack.create_key()
    caller = Caller(stack, http, key)
    for _ in range(2):
        answer = await caller.send(say("one"))
        assert (answer.status_code, "idempotent-replayed" in answer.headers) == (200, False)
    assert json.loads(answer.content)["object"] == "chat.completion"
    assert await stack.until_settled(key) == (2, 0)


@pytest.mark.long
async def test_openais_and_anthropics_packages_repeat_with_the_same_key_and_wait_for_the_answer(
    running: Stack, key: Key
) -> None:
    """Of two calls at once, one gets a 409, which the packages repeat after `retry-after`, with all headers."""
    sent: list[str] = []

    async def note(request: Any) -> None:
        sent.append(request.headers["idempotency-key"])

    hooks: Any = {"request": [note]}
    gpt = openai.AsyncOpenAI(
        base_url=f"{running.base_url}/v1",
        api_key=key.secret,
        http_client=openai.DefaultAsyncHttpxClient(event_hooks=hooks, trust_env=False),
    )
    claude = anthropic.AsyncAnthropic(
        base_url=running.base_url,
        api_key=key.secret,
        http_client=anthropic.DefaultAsyncHttpxClient(event_hooks=hooks, trust_env=False),
    )
    messages: Any = [{"role": "user", "content": "[[standin:slow headers_ms=700]] one"}]

    async def ask_gpt(**members: Any) -> str:
        headers = {"Idempotency-Key": "one"}
        answer = await gpt.chat.completions.create(model=MODEL, messages=messages, extra_headers=headers, **members)
        return str(answer.id)

    async def ask_claude(tokens: int) -> str:
        headers = {"Idempotency-Key": "two"}
        answer = await claude.messages.create(model=MODEL, messages=messages, max_tokens=tokens, extra_headers=headers)
        return str(answer.id)

    async with gpt, claude:
        assert len(set(await asyncio.gather(ask_gpt(), ask_gpt()))) == 1
        assert len(set(await asyncio.gather(ask_claude(100), ask_claude(100)))) == 1
        assert Counter(sent) == {"one": 3, "two": 3}
        # What cannot succeed is not repeated.
        with pytest.raises(openai.UnprocessableEntityError):
            await ask_gpt(seed=1)
        with pytest.raises(anthropic.UnprocessableEntityError):
            await ask_claude(99)
        assert Counter(sent) == {"one": 4, "two": 4}
    assert await running.until_settled(key) == (2, 0)
