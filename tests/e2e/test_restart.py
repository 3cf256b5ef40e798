"""A killed service is restarted and the others reconnect; nothing else has to be restarted."""

import asyncio
import signal
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.stack import Key, Stack, running_stack, say

_BACK_SECONDS = 10
"""Far more than necessary, for a busy machine."""


@pytest.fixture(scope="module")
def broken_repeatedly() -> Iterator[Stack]:
    """Yield one stack for all tests here."""
    with running_stack() as running:
        yield running


@pytest.fixture
async def own_stack(broken_repeatedly: Stack) -> Stack:
    """Yield the complete stack, whatever the test before has stopped."""
    await broken_repeatedly.repair()
    return broken_repeatedly


async def _ask(stack: Stack, key: Key) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        return await client.post(f"{stack.base_url}/api/v1/chat", headers=key.headers, json=say("hi"))


async def _until_answered(stack: Stack, key: Key) -> None:
    async with asyncio.timeout(_BACK_SECONDS):
        while (await _ask(stack, key)).status_code != 200:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("name", "code"),
    [("quota", "quota_unavailable"), ("inference", "inference_unavailable"), ("valkey", "quota_unavailable")],
)
async def test_an_outage_is_a_503_and_ends_when_the_killed_process_is_restarted(
    own_stack: Stack, name: str, code: str
) -> None:
    key = await own_stack.create_key()
    assert (await _ask(own_stack, key)).status_code == 200
    own_stack.kill(name)
    response = await _ask(own_stack, key)
    assert response.status_code == 503, response.text
    assert response.json()["error"]["code"] == code
    assert response.headers["retry-after"]
    own_stack.start(name)
    await _until_answered(own_stack, key)


async def test_with_auth_down_an_unknown_key_is_503_and_never_401_until_auth_is_restarted(own_stack: Stack) -> None:
    known, unseen = await own_stack.create_key(), await own_stack.create_key()
    assert (await _ask(own_stack, known)).status_code == 200
    own_stack.kill("auth")
    assert (await _ask(own_stack, known)).status_code == 200, "a key confirmed in the last 5 s is still accepted"
    response = await _ask(own_stack, unseen)
    assert response.status_code == 503, response.text
    assert response.json()["error"]["code"] == "auth_unavailable"
    own_stack.start("auth")
    await _until_answered(own_stack, unseen)


async def test_a_killed_gateway_answers_after_its_restart(own_stack: Stack) -> None:
    key = await own_stack.create_key()
    assert (await _ask(own_stack, key)).status_code == 200
    own_stack.kill("gateway-1")
    own_stack.start("gateway-1")
    await own_stack.until_ready("gateway-1")
    assert (await _ask(own_stack, key)).status_code == 200


async def test_without_groq_the_answer_is_503_and_nothing_is_charged(own_stack: Stack) -> None:
    key = await own_stack.create_key()
    own_stack.kill("groq-standin")
    response = await _ask(own_stack, key)
    assert response.status_code == 503, response.text
    assert response.json()["error"]["code"] == "upstream_unavailable"
    assert await own_stack.until_settled(key) == (0, 0)
    assert [(row["outcome"], row["charged"]) for row in own_stack.ledger(key)] == [("upstream_failed", 0)]


async def test_every_service_ends_with_exit_code_0_on_sigterm(own_stack: Stack) -> None:
    for name in ("gateway-1", "quota", "inference", "auth"):
        assert own_stack.stop(name) == 0, own_stack.log(name)
        own_stack.start(name)
    await own_stack.until_ready("gateway-1", "quota", "inference", "auth")


async def test_charges_survive_a_kill_of_valkey(own_stack: Stack) -> None:
    key = await own_stack.create_key(daily_limit=2)
    assert (await _ask(own_stack, key)).status_code == 200
    assert await own_stack.until_settled(key) == (1, 0)
    own_stack.kill("valkey")
    own_stack.start("valkey")
    await _until_answered(own_stack, key)
    await own_stack.until_settled(key)
    assert (await _ask(own_stack, key)).status_code == 429


async def test_an_emptied_valkey_grants_no_slot_twice(own_stack: Stack) -> None:
    key = await own_stack.create_key(daily_limit=2)
    for _ in range(2):
        assert (await _ask(own_stack, key)).status_code == 200
    await own_stack.until_settled(key)
    client = own_stack.redis()
    client.flushall()
    client.close()
    assert (await _ask(own_stack, key)).status_code == 429, "the counter is initialised from the ledger"


async def test_a_frozen_valkey_is_unavailable_within_the_timeout_and_recovers(own_stack: Stack) -> None:
    key = await own_stack.create_key()
    assert (await _ask(own_stack, key)).status_code == 200
    own_stack.signal("valkey", signal.SIGSTOP)
    async with asyncio.timeout(6):
        assert (await _ask(own_stack, key)).status_code == 503
    own_stack.signal("valkey", signal.SIGCONT)
    await _until_answered(own_stack, key)


@pytest.mark.long
async def test_a_stopping_inference_takes_no_longer_than_its_grace_period(own_stack: Stack) -> None:
    """Calls, detached requests and rows share one grace period: a pod that takes longer is killed with its rows."""
    own_stack.stop("inference")
    own_stack.start("inference", GRACE_SECONDS="2")
    await own_stack.until_ready("inference")
    key = await own_stack.create_key()
    await _until_answered(own_stack, key)
    body = say("[[standin:slow headers_ms=30000]]")
    async with httpx.AsyncClient(trust_env=False, timeout=1) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(f"{own_stack.base_url}/api/v1/chat", headers=key.headers, json=body)
    began = time.monotonic()
    assert await asyncio.to_thread(own_stack.stop, "inference") == 0
    assert 1.5 < time.monotonic() - began < 3.5
