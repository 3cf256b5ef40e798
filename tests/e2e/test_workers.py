"""Two workers on one machine, each with all four services, over the same SQLite files and the same Valkey."""

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from operator import le
from pathlib import Path

import aiohttp
import pytest

from services.common.errors import FailedPrecondition
from services.common.rpc.channel import open_channel
from services.common.rpc.status import rpc_errors
from stack.auth.v1 import accounts_pb2, accounts_pb2_grpc, audit_pb2, audit_pb2_grpc, keys_pb2, keys_pb2_grpc
from tests.e2e.accounting import account_of
from tests.e2e.callers import Caller, Listener
from tests.e2e.concurrent_load import ask, check_limit_under_load
from tests.e2e.stack import (
    EMAIL,
    Key,
    Stack,
    bare_environment,
    connector,
    running_stack,
    stack_folder,
    started,
)
from tests.forked import run_module
from tests.ports import free_port

pytestmark = pytest.mark.xdist_group("workers")

_SHORT_TIMES = {
    "REQUEST_TIMEOUT_SECONDS": "2",
    "QUOTA_HOLD_SECONDS": "3",
    "QUOTA_SWEEP_SECONDS": "0.2",
    "QUOTA_RECONCILE_SECONDS": "0.5",
}
"""Holds of a killed worker are closed within seconds."""
_STREAM = "[[standin:slow token_ms=50]] [[standin:tokens count=60]]"
"""Three seconds long."""
_STREAMS = 20
_KEYS, _ROTATED = 200, 40
_CHANGES_AT_ONCE = 16
"""On a busy disk a commit can take 100 ms, and a change that waits for five seconds is refused with a retry."""
_ALL_KEYS = keys_pb2.ListKeysRequest(email=EMAIL, page_size=1_000)
_LIMIT, _ASKERS = 600, 40


@pytest.fixture(scope="module")
def two() -> Iterator[Stack]:
    """Yield two workers; every test leaves them running."""
    with running_stack(workers=2, GRACE_SECONDS="5") as stack:
        yield stack


@pytest.fixture
def short_holds() -> Iterator[Stack]:
    """Yield two workers that may be killed."""
    with stack_folder() as folder:
        stack = Stack(folder, gateways=2, workers=2, environment=_SHORT_TIMES)
        with started(stack):
            yield stack


@pytest.mark.long
async def test_of_1200_concurrent_requests_through_two_workers_exactly_1000_are_answered(two: Stack) -> None:
    await check_limit_under_load(two, requests=1_200, limit=1_000)


async def test_a_key_revoked_at_one_worker_is_refused_by_the_other_within_a_second_and_its_stream_ends(
    two: Stack,
) -> None:
    for revoked_at, gateway in (("auth-1", two.gateways[1]), ("auth-2", two.gateways[0])):
        key, url = await two.create_key(), f"{gateway}/api/v1/chat"
        caller, listener = Caller(url, key), Listener(url, key, _STREAM)
        async with aiohttp.ClientSession() as session, asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(caller.call(session))
            tasks.create_task(listener.listen(session))
            await asyncio.gather(caller.answered.wait(), listener.heard.wait())
            await two.revoke_key(key, at=revoked_at)
            at = asyncio.get_running_loop().time()
        print(f"\nrefused after {caller.refused_at - at:.3f} s, ended after {listener.ended_at - at:.3f} s")
        assert caller.refused_at - at <= 1
        assert listener.ended_at - at <= 1
        listener.assert_cut()


@pytest.mark.long
async def test_workers_killed_under_load_never_exceed_the_limit_and_everything_is_settled(
    short_holds: Stack,
) -> None:
    key = await short_holds.create_key(daily_limit=_LIMIT)
    load, peak = asyncio.create_task(_ask_until_refused(short_holds, key)), 0
    for killed, used in (("stack", _LIMIT // 4), ("stack-2", _LIMIT // 2)):
        peak = max(peak, await _watch(short_holds, key, partial(le, used)))
        short_holds.kill(killed)
        short_holds.start(killed)
    peak = max(peak, await _watch(short_holds, key, lambda now: load.done()))
    statuses = await load
    account = await account_of(short_holds, key, statuses)
    print(f"\nat most {peak} charged and held at a time; {account}")
    assert peak <= _LIMIT
    account.assert_charges()
    assert statuses[200] <= account.charged <= _LIMIT
    assert _verify(short_holds) == 0
    async with aiohttp.ClientSession() as session:
        for number in range(_LIMIT - account.charged):
            assert (await ask(session, short_holds.gateways[number % 2], key, number))[0] == 200
        assert [(await ask(session, url, key, 1))[0] for url in short_holds.gateways] == [429, 429]
    assert await short_holds.until_settled(key) == (_LIMIT, 0)


async def _watch(stack: Stack, key: Key, is_enough: Callable[[int], bool]) -> int:
    """Return the most that was charged and held together until it was enough."""
    peak = 0
    async with asyncio.timeout(60):
        while True:
            now = sum(await asyncio.to_thread(stack.counters, key))
            peak = max(peak, now)
            if is_enough(now):
                return peak


async def _ask_until_refused(stack: Stack, key: Key) -> Counter[int | str]:
    """Send requests concurrently until the limit is reached; interrupted clients retry."""
    seen: Counter[int | str] = Counter()
    async with aiohttp.ClientSession(connector=connector(_ASKERS)) as session:

        async def one(number: int) -> None:
            while True:
                try:
                    status, _ = await ask(session, stack.gateways[number % 2], key, number)
                except (aiohttp.ClientError, ConnectionError):
                    seen["cut"] += 1
                    await asyncio.sleep(0.02)
                    continue
                seen[status] += 1
                if status == 429:
                    return

        await asyncio.gather(*(one(number) for number in range(_ASKERS)))
    return seen


def _verify(stack: Stack) -> int:
    environment = {**bare_environment(), "QUOTA_TARGET": stack.socket("quota-1")}
    done = run_module("services.cli", "verify", environment=environment)
    print(done.stdout, done.stderr)
    return done.returncode


@pytest.mark.long
def test_sigterm_ends_a_worker_that_is_still_waiting_for_its_database(tmp_path: Path) -> None:
    addresses = {f"{name}_LISTEN": f"127.0.0.1:{free_port()}" for name in ("AUTH", "QUOTA", "INFERENCE")}
    # Without separate ports, its metrics would conflict with any other stack on the machine.
    addresses |= {f"{name}_METRICS_LISTEN": "" for name in ("GATEWAY", "AUTH", "QUOTA", "INFERENCE")}
    own = {
        "DATA_DIR": str(tmp_path),
        "AUTH_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "AUTH_KEY_PEPPER": "p" * 40,
        "STACK_ADMIN_TOKEN": "a" * 40,
        "GROQ_API_KEY": "gsk_none",
    }
    command = [sys.executable, "-m", "services.local.worker"]
    with subprocess.Popen(command, env=bare_environment() | addresses | own, stderr=subprocess.PIPE) as worker:
        assert worker.stderr is not None
        try:
            assert any(b"Cannot connect to the database" in line for line in worker.stderr)
            worker.terminate()
            assert worker.wait(timeout=10) == 128 + signal.SIGTERM
        finally:
            worker.kill()


@pytest.mark.long
@pytest.mark.parametrize("stopped", ["stack-2", "stack"])
async def test_sigterm_during_streams_lets_them_finish_and_ends_with_exit_code_0(two: Stack, stopped: str) -> None:
    key = await two.create_key()
    url = f"{two.gateways[0 if stopped == 'stack' else 1]}/api/v1/chat"
    listeners = [Listener(url, key, f"{key.id} {_STREAM}") for _ in range(_STREAMS)]
    async with aiohttp.ClientSession(connector=connector(_STREAMS)) as session, asyncio.TaskGroup() as tasks:
        for one in listeners:
            tasks.create_task(one.listen(session))
        await asyncio.gather(*(one.heard.wait() for one in listeners))
        code = await asyncio.to_thread(two.stop, stopped, within_seconds=10)
    assert code == 0, two.log(stopped)
    assert [one.events[-1] for one in listeners] == ["[DONE]"] * _STREAMS
    assert two.counters(key) == (_STREAMS, 0), "its holds were settled before it ended"
    account = await account_of(two, key, {200: _STREAMS})
    account.assert_exact()
    assert {row["outcome"] for row in account.rows} == {"answered"}, account
    assert len(account.served) == _STREAMS, account
    two.start(stopped)
    await two.until_ready(stopped)


@pytest.mark.long
async def test_concurrent_changes_at_both_workers_lose_nothing(two: Stack) -> None:
    """Two processes write the one SQLite file: keys, their limits, accounts and the audit log."""
    turns = asyncio.Semaphore(_CHANGES_AT_ONCE)

    async def create(number: int) -> Key:
        async with turns:
            return await two.create_key(at=f"auth-{number % 2 + 1}")

    keys = await asyncio.gather(*(create(number) for number in range(_KEYS)))
    async with open_channel(two.socket("auth-1")) as first, open_channel(two.socket("auth-2")) as second:
        stubs = [keys_pb2_grpc.KeyServiceStub(channel) for channel in (first, second)]
        accounts = [accounts_pb2_grpc.AccountServiceStub(channel) for channel in (first, second)]
        log = audit_pb2_grpc.AuditServiceStub(first)

        async def change(number: int) -> None:
            async with turns:
                limit = keys_pb2.SetKeyLimitRequest(key_id=keys[number].id, daily_limit=number)
                await stubs[number % 2].SetKeyLimit(limit, metadata=two.admin_metadata, timeout=30)
                if number % 2:
                    end = keys_pb2.RevokeKeyRequest(key_id=keys[number].id)
                    await stubs[(number // 2) % 2].RevokeKey(end, metadata=two.admin_metadata, timeout=30)
                account = accounts_pb2.CreateAccountRequest(email=f"person-{number}@example.com")
                await accounts[number % 2].CreateAccount(account, metadata=two.admin_metadata, timeout=30)

        await asyncio.gather(*(change(number) for number in range(_KEYS)))
        listed = [(await one.ListKeys(_ALL_KEYS, metadata=two.admin_metadata, timeout=10)).keys for one in stubs]
        auth_api = [
            (
                await one.ListAccounts(
                    accounts_pb2.ListAccountsRequest(page_size=1_000), metadata=two.admin_metadata, timeout=10
                )
            )
            for one in accounts
        ]
        page = audit_pb2.ListAuditEventsRequest(page_size=1_000)
        events = (await log.ListAuditEvents(page, metadata=two.admin_metadata, timeout=10)).events
    assert [list(one) for one in listed] == [list(listed[0])] * 2
    own = {key.id: number for number, key in enumerate(keys)}
    found = {key.id: key for key in listed[0] if key.id in own}
    assert len(found) == _KEYS
    for key_id, number in own.items():
        assert found[key_id].daily_limit == number
        assert found[key_id].HasField("revoked_at") == (number % 2 == 1)
    emails = {f"person-{number}@example.com" for number in range(_KEYS)}
    assert all(emails <= {account.email for account in one.accounts} for one in auth_api)
    reported = Counter(event.action for event in events if event.target in own)
    assert reported == {"key.created": _KEYS, "key.limit_set": _KEYS, "key.revoked": _KEYS // 2}
    made = {account.id for account in auth_api[0].accounts if account.email in emails}
    assert made <= {event.target for event in events if event.action == "account.created"}


async def test_a_key_that_both_workers_rotate_at_once_is_rotated_once(two: Stack) -> None:
    keys = [await two.create_key() for _ in range(_ROTATED)]
    async with open_channel(two.socket("auth-1")) as first, open_channel(two.socket("auth-2")) as second:
        stubs = [keys_pb2_grpc.KeyServiceStub(channel) for channel in (first, second)]

        async def rotate(key: Key, worker: int) -> str:
            request = keys_pb2.RotateKeyRequest(key_id=key.id)
            try:
                with rpc_errors(unavailable_reason="auth_unavailable"):
                    answer = await stubs[worker].RotateKey(request, metadata=two.admin_metadata, timeout=30)
            except FailedPrecondition:
                return ""
            return str(answer.key.id)

        pairs = await asyncio.gather(*(asyncio.gather(rotate(key, 0), rotate(key, 1)) for key in keys))
        made = [one for pair in pairs for one in pair if one]
        listed = await stubs[0].ListKeys(_ALL_KEYS, metadata=two.admin_metadata, timeout=10)
    assert len(made) == _ROTATED
    assert all("" in pair for pair in pairs)
    replaced = {key.id: key.replaced_by for key in listed.keys}
    assert [replaced[key.id] for key in keys] == made
