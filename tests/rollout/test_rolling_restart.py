"""Every replica of every service is restarted, one after the other, without an error for any client."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.backends import fresh_database
from tests.e2e.stack import Stack, bare_environment, stack_folder, started
from tests.forked import run_module
from tests.rollout.moving_stack import MovingStack, Names
from tests.rollout.traffic import traffic

pytestmark = [pytest.mark.xdist_group("rollout"), pytest.mark.timeout(400), pytest.mark.long]

_ROOT = Path(__file__).parents[2]
_IS_WHOLE = os.environ.get("ROLLOUT") == "whole"
_RATE, _STREAMS, _TOKENS = (200, 100, 30) if _IS_WHOLE else (15, 10, 10)
"""Requests a second, concurrent streams, and their length; on a machine shared with the suite, the short form."""
_PAUSE_SECONDS = 1.0
"""Time between the start of a replica and the stop of the next one. Callers do not know the new address yet: gRPC looks
for it when the next one leaves."""
_SERVICES = ("auth", "quota", "inference", "gateway")
_SETTINGS = {
    "DRAIN_SECONDS": "5" if _IS_WHOLE else "1",
    "GRACE_SECONDS": "20",
    "AUTH_KEY_PEPPER": "pepper-of-the-rollout-tests-" + "0" * 32,
    "STACK_ADMIN_TOKEN": "admin-token-of-the-rollout-tests",
}
_STOP_SECONDS = 25


@pytest.fixture(scope="module")
def cluster(postgres_server: str) -> Iterator[Stack]:
    """Yield two replicas of each service over one Postgres and one Valkey."""
    with ExitStack() as stack:
        databases = [stack.enter_context(fresh_database(postgres_server)) for _ in range(2)]
        folder = stack.enter_context(stack_folder())
        urls = {"AUTH_DATABASE_URL": databases[0], "INFERENCE_DATABASE_URL": databases[1]}
        environment = {**_SETTINGS, **urls}
        for service in ("auth", "inference"):
            done = run_module(f"services.{service}", "migrate", environment=bare_environment() | environment)
            assert done.returncode == 0, done.stderr
        names = Names()
        stack.enter_context(names.running())
        cluster = MovingStack(folder, names, environment=environment)
        stack.enter_context(started(cluster))
        yield cluster


async def _restart(cluster: Stack, name: str) -> float:
    """Restart one replica gracefully; return how long it took to stop."""
    began = time.monotonic()
    code = await asyncio.to_thread(cluster.stop, name, within_seconds=_STOP_SECONDS)
    assert code == 0, f"{name} ended with {code}: {cluster.log(name)[-2000:]}"
    stopped = time.monotonic() - began
    cluster.start(name)
    await cluster.until_ready(name)
    return stopped


async def test_a_rolling_restart_of_every_service_drops_no_request(cluster: Stack) -> None:
    key = await cluster.create_key(daily_limit=1_000_000)
    async with traffic(cluster.gateways, key, rate=_RATE, streams=_STREAMS, stream_tokens=_TOKENS) as running:
        for service in _SERVICES:
            for number in (1, 2):
                await asyncio.sleep(_PAUSE_SECONDS)
                seconds = await _restart(cluster, f"{service}-{number}")
                print(f"{service}-{number} stopped in {seconds:.1f} s; {dict(running.answers)} so far")
                assert not running.failures, f"{service}-{number}: {running.failures[:5]}"
    charged, held = await cluster.until_settled(key)
    answers = running.answers.total()
    print(f"{dict(running.answers)} whole answers, {len(running.failures)} failures, {charged} charged")
    assert running.failures == []
    assert (charged, held) == (answers, 0)
    assert await _verify(cluster) == ""


async def _verify(cluster: Stack) -> str:
    """Return the discrepancies reported by `stackctl verify`; empty when the records agree."""
    environment = {**bare_environment(), **_SETTINGS, "QUOTA_TARGET": cluster.settings.quota_listen}
    done = await asyncio.to_thread(run_module, "services.cli", "verify", environment=environment)
    return "" if done.returncode == 0 else done.stdout + done.stderr


async def test_a_draining_gateway_asks_persistent_clients_to_reconnect(cluster: Stack) -> None:
    key = await cluster.create_key()
    async with httpx.AsyncClient(base_url=cluster.base_url, trust_env=False, timeout=10) as client:
        before = await client.get("/api/v1/models", headers=key.headers)
        stopping = asyncio.create_task(_restart(cluster, "gateway-1"))
        async with asyncio.timeout(1):
            while (await client.get("/readyz")).status_code == 200:
                await asyncio.sleep(0.02)
        during = await client.get("/api/v1/models", headers=key.headers)
    await stopping
    assert (before.status_code, before.headers.get("connection")) == (200, None)
    assert (during.status_code, during.headers.get("connection")) == (200, "close")
