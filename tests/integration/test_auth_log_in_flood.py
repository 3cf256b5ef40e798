"""Under a flood of log-ins keys are looked up, watches receive heartbeats, and operators can revoke."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
from grpc import StatusCode, aio

from stack.auth.v1 import auth_pb2, keys_pb2
from tests.backends import fresh_database
from tests.integration.auth_api import AuthAPI, auth_api_of, bearer
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, AuthProcess, run_auth, running_auth

_CLIENTS = 200
_LOOK_UPS = 100


@pytest.fixture(params=[pytest.param("sqlite", marks=pytest.mark.long), "postgres"])
def auth(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AuthProcess]:
    settings = {"STACK_ADMIN_TOKEN": ADMIN_TOKEN, "AUTH_KEY_PEPPER": PEPPER}
    if request.param == "sqlite":
        with running_auth(tmp_path, settings) as process:
            yield process
        return
    with fresh_database(request.getfixturevalue("postgres_server")) as url:
        settings["AUTH_DATABASE_URL"] = url
        assert run_auth(tmp_path, settings, "migrate").returncode == 0
        with running_auth(tmp_path, settings) as process:
            yield process


@asynccontextmanager
async def flood(auth_api: AuthAPI) -> AsyncIterator[Counter[StatusCode]]:
    """Let clients from this many addresses try passwords, each again as soon as it is refused."""
    answers: Counter[StatusCode] = Counter()

    async def try_on(client: int) -> None:
        for number in count():
            address = f"10.{client}.{number // 250 % 250}.{number % 250}"
            try:
                await auth_api.log_in(f"x{client}.{number}@example.com", password="a wrong guess", address=address)
            except aio.AioRpcError as exc:
                answers[exc.code()] += 1

    tasks = [asyncio.ensure_future(try_on(client)) for client in range(_CLIENTS)]
    try:
        yield answers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def watched(auth_api: AuthAPI) -> AsyncIterator[list[float]]:
    """Yield the pauses between a watch's events, in seconds, as they come."""
    pauses: list[float] = []

    async def watch() -> None:
        heard_at = time.monotonic()
        async for _ in auth_api.auth.WatchKeys(auth_pb2.WatchKeysRequest()):
            pauses.append(time.monotonic() - heard_at)
            heard_at = time.monotonic()

    task = asyncio.ensure_future(watch())
    try:
        yield pauses
        assert not task.done(), "the watch ended"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.long
async def test_a_flood_of_log_ins_stops_neither_look_ups_nor_heartbeats_nor_revocations(auth: AuthProcess) -> None:
    """Otherwise unauthenticated clients could stop the API: without heartbeats gateways soon trust no cached key."""
    async with auth_api_of(auth.target) as log_ins, auth_api_of(auth.target) as gateway:
        key = await gateway.create_key(await gateway.sign_up("ada@example.com"))
        shown = auth_pb2.AuthenticateRequest(api_key=key.secret)
        async with watched(gateway) as pauses, flood(log_ins) as answers:
            # Each is refused with UNAVAILABLE when the database is too busy for it.
            for _ in range(_LOOK_UPS):
                assert (await gateway.auth.Authenticate(shown)).HasField("principal")
            async with asyncio.timeout(10):
                while len(pauses) < 5:
                    await asyncio.sleep(0.01)
            await gateway.keys.RevokeKey(keys_pb2.RevokeKeyRequest(key_id=key.key.id), metadata=bearer())
            assert (await gateway.auth.Authenticate(shown)).denial.reason == auth_pb2.DENIAL_REASON_REVOKED
    # A gateway treats a second without events as a broken watch; one longer pause is tolerated for a busy machine.
    longest = sorted(pauses)[-2:]
    assert longest[0] < 2, f"the watch was silent for {longest} s"
    assert longest[1] < 5, f"the watch was silent for {longest} s"
    assert answers[StatusCode.RESOURCE_EXHAUSTED] > _CLIENTS, "no client was told to retry: the load was too low"
    assert set(answers) <= {StatusCode.UNAUTHENTICATED, StatusCode.RESOURCE_EXHAUSTED}, dict(answers)
