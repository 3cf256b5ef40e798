"""How long after its revocation a key can still be used.

Most of it runs on one cluster: two auths on one Postgres, and four gateways, each with one auth to call and to watch.
The fourth is behind a proxy that can block its watch.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from services.common import checksummed_token
from services.common.rpc.channel import open_channel
from services.local.supervisor.child import Program
from stack.auth.v1 import accounts_pb2, accounts_pb2_grpc
from tests.backends import fresh_database
from tests.e2e import floods
from tests.e2e.auth_proxy import Remote
from tests.e2e.callers import Caller, Listener
from tests.e2e.stack import Key, Stack, bare_environment, connector, say, stack_folder, started
from tests.forked import run_module

_ROOT = Path(__file__).parents[2]
_CALLS, _STREAMS = 200, 20
_TOKENS = 60
_STREAM = f"[[standin:slow token_ms=100]] [[standin:tokens count={_TOKENS}]]"
"""Six seconds long: on a slow machine all callers and streams together take three to begin."""
_LONG_STREAM = "[[standin:slow token_ms=100]] [[standin:tokens count=70]]"
"""Seven seconds long."""
_FLOOD = 10_000
_UNKNOWN_LOOK_UPS_MAX = 500
"""A hundred in each ten seconds, and those in progress when the first were found unknown."""


@dataclass(frozen=True)
class Cluster:
    """A stack and the proxy in front of its last gateway's auth."""

    stack: Stack
    proxy: Remote

    @property
    def direct(self) -> list[str]:
        """Addresses of the gateways that reach auth without the proxy."""
        return [f"{gateway}/api/v1/chat" for gateway in self.stack.gateways[:3]]

    @property
    def proxied(self) -> str:
        """Address of the gateway behind the proxy."""
        return f"{self.stack.gateways[3]}/api/v1/chat"


@pytest.fixture(scope="module")
def cluster(postgres_server: str) -> Iterator[Cluster]:
    """Yield a cluster."""
    with fresh_database(postgres_server) as database, stack_folder() as folder:
        environment = {
            "AUTH_DATABASE_URL": database,
            "AUTH_KEY_PEPPER": "pepper-of-the-revocation-tests-" + "0" * 32,
            "STACK_ADMIN_TOKEN": "admin-token-of-the-revocation-tests",
        }
        done = run_module("services.auth", "migrate", environment=bare_environment() | environment)
        assert done.returncode == 0, done.stderr
        stack = Stack(folder, gateways=4, auths=2, environment=environment)
        _give_each_gateway_its_auth(stack)
        with started(stack):
            yield Cluster(stack, Remote(stack.socket("auth-proxy")))


def _give_each_gateway_its_auth(stack: Stack) -> None:
    proxy, auth = stack.socket("auth-proxy"), stack.socket("auth-2")
    stack.add(Program("auth-proxy", (sys.executable, "-m", "tests.e2e.auth_proxy", proxy, auth)))
    for number, name in enumerate(("auth-1", "auth-2", "auth-1", "auth-proxy"), start=1):
        stack.own[f"gateway-{number}"] = {"AUTH_TARGET": stack.socket(name)}


@pytest.mark.long
async def test_keys_of_a_suspended_account_are_refused_within_one_second_on_every_gateway(stack: Stack) -> None:
    email = "suspended@example.com"
    key = await stack.create_account_key(email)
    async with (
        httpx.AsyncClient(trust_env=False, timeout=10) as client,
        open_channel(stack.settings.auth_listen) as channel,
    ):
        accounts = accounts_pb2_grpc.AccountServiceStub(channel)

        async def ask(gateway: str) -> tuple[int, str]:
            response = await client.post(f"{gateway}/api/v1/chat", headers=key.headers, json=say("hi"))
            return response.status_code, response.text

        async def stream() -> str:
            body = say(_STREAM, stream=True)
            return (await client.post(f"{stack.base_url}/api/v1/chat", headers=key.headers, json=body)).text

        assert {(await ask(gateway))[0] for gateway in stack.gateways} == {200}
        streaming = asyncio.create_task(stream())
        await asyncio.sleep(1)
        await accounts.SuspendAccount(accounts_pb2.SuspendAccountRequest(account=email), metadata=stack.admin_metadata)
        suspended_at = time.monotonic()
        streamed = await streaming
        ended_seconds = time.monotonic() - suspended_at
        assert "or its account suspended" in streamed
        assert "[DONE]" not in streamed
        await asyncio.sleep(max(0.0, 1 - ended_seconds))
        for gateway in stack.gateways:
            status, text = await ask(gateway)
            assert status == 401
            assert "The account of this API key is suspended" in text
        await accounts.ResumeAccount(accounts_pb2.ResumeAccountRequest(account=email), metadata=stack.admin_metadata)
        await asyncio.sleep(1)
        assert {(await ask(gateway))[0] for gateway in stack.gateways} == {200}
        assert "[DONE]" in await stream(), "the gateway forgets that streams of the key were ended"
    print(f"\nthe stream ended {ended_seconds:.2f} s after the suspension")
    assert ended_seconds < 1.5


async def test_a_revoked_key_is_refused_within_one_second_on_every_gateway(stack: Stack) -> None:
    key = await stack.create_key()
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:

        async def status(gateway: str) -> int:
            response = await client.post(f"{gateway}/api/v1/chat", headers=key.headers, json=say("hi"))
            return response.status_code

        assert [await status(gateway) for gateway in stack.gateways] == [200] * len(stack.gateways)
        await stack.revoke_key(key)
        revoked_at = time.monotonic()
        for gateway in stack.gateways:
            while await status(gateway) != 401:
                assert time.monotonic() - revoked_at < 1, f"{gateway} still answers a revoked key"
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_key_that_is_revoked_while_its_body_arrives_starts_no_request(stack: Stack, is_stream: bool) -> None:
    key = await stack.create_key()
    body = json.dumps(say("hi", stream=is_stream)).encode()

    async def slow_body() -> AsyncIterator[bytes]:
        yield body[:-1]
        await stack.revoke_key(key)
        await asyncio.sleep(1.2)
        yield body[-1:]

    async with (
        aiohttp.ClientSession(headers=key.headers) as session,
        session.post(f"{stack.base_url}/api/v1/chat", data=slow_body()) as answer,
    ):
        summary = (answer.status, (await answer.json())["error"]["code"])

    assert summary == (401, "invalid_api_key")


async def test_a_key_works_at_once_after_its_creation(stack: Stack) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        for gateway in stack.gateways * 3:
            key = await stack.create_key()
            response = await client.post(f"{gateway}/api/v1/chat", headers=key.headers, json=say("hi"))
            assert response.status_code == 200, response.text


@dataclass(frozen=True)
class Slowest:
    """How long after the revocation's answer something was still possible, in seconds."""

    admitted: float
    """When the last answered request began; negative when that was before the revocation."""
    refused: float
    """When the last caller received its first refusal."""
    ended: float
    """The last stream ended."""
    answer: float = 0
    """Duration of the slowest answer before."""


async def _revoke_in_use(
    cluster: Cluster, key: Key, urls: list[str], *, calls: int, streams: int, text: str, swallow: bool = False
) -> Slowest:
    """Revoke a key while it is in use, and wait until all of its users are refused."""
    callers = [Caller(urls[number % len(urls)], key) for number in range(calls)]
    listeners = [Listener(urls[number % len(urls)], key, text) for number in range(streams)]
    async with (
        aiohttp.ClientSession(connector=connector(calls + streams)) as session,
        asyncio.timeout(60),
        asyncio.TaskGroup() as tasks,
    ):
        for caller in callers:
            tasks.create_task(caller.call(session))
        await asyncio.gather(*(caller.answered.wait() for caller in callers))
        for one in listeners:
            tasks.create_task(one.listen(session))
        await asyncio.gather(*(one.heard.wait() for one in listeners))
        if swallow:
            await cluster.proxy.block_watches()
        await cluster.stack.revoke_key(key, at="auth-1")
        revoked_at = asyncio.get_running_loop().time()
    for one in listeners:
        one.assert_cut()
    assert all("has been revoked" in caller.error["message"] for caller in callers)
    return Slowest(
        admitted=max((caller.admitted_at for caller in callers), default=revoked_at) - revoked_at,
        refused=max((caller.refused_at for caller in callers), default=revoked_at) - revoked_at,
        ended=max((one.ended_at for one in listeners), default=revoked_at) - revoked_at,
        answer=max((caller.slowest_seconds for caller in callers), default=0),
    )


@pytest.mark.long
async def test_under_200_callers_and_20_live_streams_on_three_gateways_a_revocation_takes_at_most_a_second(
    cluster: Cluster,
) -> None:
    """Two of the gateways watch the auth that revokes, one watches the other."""
    stack = cluster.stack
    key = await stack.create_key(daily_limit=100_000)
    slowest = await _revoke_in_use(cluster, key, cluster.direct, calls=_CALLS, streams=_STREAMS, text=_STREAM)
    print(f"\nthree gateways, {_CALLS} calls, {_STREAMS} streams: {slowest}")
    assert slowest.admitted <= 1
    # Two hundred callers wait for their turn on a busy machine, whatever the result.
    assert slowest.refused <= max(1, slowest.answer), "a refusal took longer than a second, and longer than any answer"
    assert slowest.ended <= 1
    charged, _ = await stack.until_settled(key)
    rows = stack.ledger(key)
    assert charged == len(rows) == sum(row["charged"] for row in rows), "requests in flight are accounted for exactly"
    streams = [(row["completion_tokens"], row["usage_source"]) for row in rows if row["stream"]]
    assert streams == [(_TOKENS, "reported")] * _STREAMS, "cancelled streams are read to their end"


@pytest.mark.long
async def test_with_a_blocked_watch_refusals_and_ends_of_streams_take_at_most_five_seconds(
    cluster: Cluster,
) -> None:
    """A separate key for each: where a key has live streams, polling for them refuses its calls too."""
    called, streamed, other = [await cluster.stack.create_key(daily_limit=100_000) for _ in range(3)]
    urls = [cluster.proxied]
    async with aiohttp.ClientSession() as session:
        assert await _status(session, cluster.proxied, other) == 200
        try:
            calls, streams = await asyncio.gather(
                _revoke_in_use(cluster, called, urls, calls=20, streams=0, text="", swallow=True),
                _revoke_in_use(cluster, streamed, urls, calls=0, streams=5, text=_LONG_STREAM, swallow=True),
            )
            assert await _status(session, cluster.proxied, other) == 200, "a key that was not revoked still works"
        finally:
            await cluster.proxy.unblock_watches()
    print(f"\nthe watch swallowed: {calls.refused=:.3f} s, {calls.admitted=:.3f} s, {streams.ended=:.3f} s")
    assert calls.refused <= 5
    assert streams.ended <= 5


@pytest.mark.parametrize(("revoked_at", "gateway"), [("auth-1", 1), ("auth-2", 0)])
async def test_a_revocation_at_one_auth_takes_effect_within_a_second_at_a_gateway_that_watches_another(
    cluster: Cluster, revoked_at: str, gateway: int
) -> None:
    key, url = await cluster.stack.create_key(), cluster.direct[gateway]
    async with aiohttp.ClientSession() as session:
        assert await _status(session, url, key) == 200
        await cluster.stack.revoke_key(key, at=revoked_at)
        started = time.monotonic()
        while await _status(session, url, key) != 401:
            assert time.monotonic() - started < 1
        print(f"\nrevoked at {revoked_at}, refused elsewhere after {time.monotonic() - started:.3f} s")


async def _status(session: aiohttp.ClientSession, url: str, key: Key) -> int:
    return (await _answer(session, url, key))[0]


async def _answer(session: aiohttp.ClientSession, url: str, key: Key) -> tuple[int, Any]:
    async with session.post(url, headers=key.headers, json=say("hi")) as response:
        return response.status, await response.json()


@pytest.mark.long
async def test_a_flood_of_invalid_keys_stays_at_the_gateway_and_valid_calls_keep_their_latency(
    cluster: Cluster,
) -> None:
    key = await cluster.stack.create_key()
    unknown = [checksummed_token.mint("sk_stk_") for _ in range(_FLOOD)]
    malformed = [f"{one[:-1]}{'a' if one[-1] != 'a' else 'b'}" for one in unknown]
    async with aiohttp.ClientSession() as session:
        await floods.latencies(session, cluster.proxied, key)  # Opens connections and fills caches.
        before = await floods.latencies(session, cluster.proxied, key)
        first = await floods.flood(session, cluster.proxied, malformed, key, cluster.proxy)
        second = await floods.flood(session, cluster.proxied, unknown, key, cluster.proxy)
    print(f"\nmalformed: {first.summary(before)}\nunknown: {second.summary(before)}")
    assert first.statuses == {401: _FLOOD}
    assert set(second.statuses) == {401, 429}
    assert first.look_ups == 0, "a malformed key was sent to auth"
    assert second.look_ups <= _UNKNOWN_LOOK_UPS_MAX
    for one in (first, second):
        assert floods.p50_p95(one.latencies)[1] < max(0.5, 20 * floods.p50_p95(before)[1])


@pytest.mark.long
async def test_with_auth_frozen_a_known_key_gets_503_after_five_seconds_and_never_401_and_its_stream_continues(
    cluster: Cluster,
) -> None:
    # Five seconds of calls without a pause are more than a day's thousand.
    key, url = await cluster.stack.create_key(daily_limit=1_000_000), cluster.direct[0]
    listener = Listener(url, key, _LONG_STREAM)
    async with aiohttp.ClientSession() as session, asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(listener.listen(session))
        await listener.heard.wait()
        for name in ("auth-1", "auth-2"):
            cluster.stack.signal(name, signal.SIGSTOP)
        frozen_at = time.monotonic()
        try:
            began = frozen_at
            while (answer := await _answer(session, url, key))[0] == 200:
                confirmed_seconds, began = began - frozen_at, time.monotonic()
            refused_seconds = time.monotonic() - frozen_at
        finally:
            for name in ("auth-1", "auth-2"):
                cluster.stack.signal(name, signal.SIGCONT)
        thawed_at = time.monotonic()
        assert (answer[0], answer[1]["error"]["code"]) == (503, "auth_unavailable")
        while await _status(session, url, key) != 200:
            assert time.monotonic() - thawed_at < 1
    print(f"\nauth frozen: {confirmed_seconds=:.3f}, {refused_seconds=:.3f}")
    assert 2 < confirmed_seconds <= 5, "answered from the last confirmation, and no longer than five seconds after it"
    assert refused_seconds < 8
    assert listener.events[-1] == "[DONE]"
