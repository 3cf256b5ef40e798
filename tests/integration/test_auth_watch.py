"""WatchKeys: every change is reported within a second, and silence means that the state is unknown."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from services.common.rpc.types import StreamCall
from stack.auth.v1 import auth_pb2
from tests.backends import execute
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, AuthProcess, auth_client, run_auth, running_auth

SETTINGS = {"STACK_ADMIN_TOKEN": ADMIN_TOKEN, "AUTH_KEY_PEPPER": PEPPER}
HEARTBEAT_SECONDS_MAX = 1.0
REVOCATION_SECONDS_MAX = 1.0


@pytest.fixture
def postgres_settings(tmp_path: Path, postgres_url: str) -> dict[str, str]:
    """Settings of a service over a migrated Postgres database."""
    settings = {**SETTINGS, "AUTH_DATABASE_URL": postgres_url}
    assert run_auth(tmp_path, settings, "migrate").returncode == 0
    return settings


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[AuthProcess]:
    with running_auth(tmp_path, SETTINGS) as service:
        yield service


@pytest.fixture
def on_postgres(tmp_path: Path, postgres_settings: dict[str, str]) -> Iterator[AuthProcess]:
    with running_auth(tmp_path, postgres_settings) as service:
        yield service


async def test_a_watch_begins_with_a_heartbeat_and_receives_one_every_half_second(on_sqlite: AuthProcess) -> None:
    async with auth_client(on_sqlite.target) as client:
        watch = client.auth.WatchKeys(auth_pb2.WatchKeysRequest())
        first = await _next(watch)
        started = time.monotonic()
        heartbeats = [await _next(watch) for _ in range(3)]

    assert [(beat.revision, beat.changed_key_id) for beat in (first, *heartbeats)] == [(0, "")] * 4
    assert 1.2 < time.monotonic() - started < 3 * HEARTBEAT_SECONDS_MAX


async def test_a_watch_that_resumes_during_concurrent_changes_misses_none(on_sqlite: AuthProcess) -> None:
    async with auth_client(on_sqlite.target) as client:
        changes = asyncio.gather(*(client.new_key(f"user{number}@example.com") for number in range(20)))
        heard: list[auth_pb2.WatchKeysResponse] = []
        # Every third event the connection breaks, while changes go on.
        while len(heard) < 20:
            watch = client.auth.WatchKeys(auth_pb2.WatchKeysRequest(after_revision=len(heard)))
            heard += [await _next_change(watch) for _ in range(min(3, 20 - len(heard)))]
            watch.cancel()
        created = await changes

    assert [event.revision for event in heard] == list(range(1, 21))
    assert {event.changed_key_id for event in heard} == {answer.key.id for answer in created}


async def test_two_processes_over_one_postgres_receive_each_others_changes(
    tmp_path: Path, postgres_settings: dict[str, str]
) -> None:
    with running_auth(tmp_path, postgres_settings) as here, running_auth(tmp_path, postgres_settings) as there:
        async with auth_client(here.target) as changing, auth_client(there.target) as watching:
            created = await changing.new_key("ada@example.com")
            watch = watching.auth.WatchKeys(auth_pb2.WatchKeysRequest(after_revision=1))
            assert (await _next(watch)).revision == 1

            await changing.revoke(created.key.id)
            answered = time.monotonic()
            event = await _next_change(watch)

            assert time.monotonic() - answered < REVOCATION_SECONDS_MAX
            assert (event.revision, event.changed_key_id) == (2, created.key.id)
            verdict = await watching.authenticate(created.secret)
            assert verdict.denial.reason == auth_pb2.DENIAL_REASON_REVOKED


@pytest.mark.long
async def test_while_the_database_hangs_there_is_no_heartbeat_and_no_denial(
    on_postgres: AuthProcess, postgres_url: str
) -> None:
    async with auth_client(on_postgres.target) as client:
        created = await client.new_key("ada@example.com")
        watch = client.auth.WatchKeys(auth_pb2.WatchKeysRequest())
        await _next(watch)

        async with _locked(postgres_url):
            started = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await client.authenticate(created.secret)
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
            assert time.monotonic() - started < 1.5, "a caller must not hang with the database"
            # One may have been in transit before the lock was taken.
            assert await _received_within(watch, 1.5 * HEARTBEAT_SECONDS_MAX) <= 1

    async with auth_client(on_postgres.target) as client:
        assert (await client.authenticate(created.secret)).principal.key_id == created.key.id
        assert (await _next(client.auth.WatchKeys(auth_pb2.WatchKeysRequest()))).revision == 1


async def test_when_the_database_is_available_again_calls_are_answered(
    on_postgres: AuthProcess, postgres_server: str, postgres_url: str
) -> None:
    database = make_url(postgres_url).database
    async with auth_client(on_postgres.target) as client:
        created = await client.new_key("ada@example.com")
        watch = client.auth.WatchKeys(auth_pb2.WatchKeysRequest())
        await _next(watch)

        execute(postgres_server, f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        execute(postgres_server, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await client.authenticate(created.secret)
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        execute(postgres_server, f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")

        # More than can have been in transit before.
        assert [(await _next(watch)).revision for _ in range(3)] == [1, 1, 1]
        assert (await client.authenticate(created.secret)).principal.key_id == created.key.id


async def test_sigterm_ends_a_watch_at_once_and_exits_with_0(on_sqlite: AuthProcess) -> None:
    async with auth_client(on_sqlite.target) as client:
        watch = client.auth.WatchKeys(auth_pb2.WatchKeysRequest())
        await _next(watch)

        started = time.monotonic()
        code = await asyncio.to_thread(on_sqlite.terminate)

        assert code == 0
        assert time.monotonic() - started < 2, "the watch delayed the drain until its grace period ended"
        assert await _code_at_its_end(watch) is grpc.StatusCode.OK


async def _next(watch: StreamCall) -> auth_pb2.WatchKeysResponse:
    return await asyncio.wait_for(_read(watch), 5)


async def _read(watch: StreamCall) -> auth_pb2.WatchKeysResponse:
    event = await watch.read()
    assert isinstance(event, auth_pb2.WatchKeysResponse), "the watch ended"
    return event


async def _next_change(watch: StreamCall) -> auth_pb2.WatchKeysResponse:
    while not (event := await _next(watch)).changed_key_id:
        pass
    return event


async def _received_within(watch: StreamCall, seconds: float) -> int:
    """Count events until the time is up, then cancel the watch."""
    count = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                await _read(watch)
                count += 1
    except TimeoutError:
        return count


async def _code_at_its_end(watch: StreamCall) -> grpc.StatusCode:
    while await watch.read() is not grpc.aio.EOF:
        pass
    return await watch.code()


@asynccontextmanager
async def _locked(url: str) -> AsyncIterator[None]:
    """Hold a lock behind which every read of keys waits."""
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    try:
        async with engine.begin() as connection:
            await connection.execute(text("LOCK TABLE key_revision IN ACCESS EXCLUSIVE MODE"))
            yield
    finally:
        await engine.dispose()
