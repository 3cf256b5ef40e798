"""Connections to one Redis: roles, passwords, and error messages when it cannot be used."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import Unavailable
from services.quota.holds import Counter, Held, KeyRef, Reservation
from services.quota.redis.connections import RedisTarget, connect
from services.quota.redis.state import State
from services.quota.redis.store import RedisHoldStore
from tests.tcp_proxy import running_proxy
from tests.valkey_backend import TCPValkey, running_pair

PASSWORD = "a/b#c@d?e f%41:é"

Connect = Callable[..., Any]


@pytest.fixture
async def opened() -> AsyncIterator[Connect]:
    """A function that opens clients, which are closed after the test."""
    async with AsyncExitStack() as stack:

        def open_client(target: RedisTarget | str) -> Any:
            client = connect(target, timeout_seconds=2)
            stack.push_async_callback(client.aclose)
            return client

        yield open_client


def _becomes_replica(old: TCPValkey, new: TCPValkey) -> None:
    old.follow(new)


def _loses_its_primary(old: TCPValkey, new: TCPValkey) -> None:
    with old.client() as client:
        client.config_set("replica-serve-stale-data", "no")
        client.replicaof("127.0.0.1", 1)


@pytest.mark.parametrize("changes", [_becomes_replica, _loses_its_primary])
async def test_no_request_fails_when_the_address_leads_to_another_primary(
    opened: Connect, changes: Callable[[TCPValkey, TCPValkey], None]
) -> None:
    with running_pair() as (old, new), running_proxy(old.port) as proxy:
        client = opened(f"redis://127.0.0.1:{proxy.port}/0")
        store = RedisHoldStore(client, hold_seconds=60)
        await _hold_many(store, "before")
        await asyncio.gather(*(client.ping() for _ in range(4)))  # The sweeper uses separate connections.

        new.follow(None)
        proxy.target = new.port
        changes(old, new)

        await _hold_many(store, "after")
        for _ in range(4):
            await client.set("written", "1")
        with new.client() as redis:
            assert redis.get("written") == b"1"
            held = {name.decode() for key in redis.keys("quota:*:acc_1:*") for name in redis.hkeys(key)}
        assert {f"req_after_{number}" for number in range(8)} <= held


async def test_a_replica_at_the_address_is_reported_once(opened: Connect, caplog: pytest.LogCaptureFixture) -> None:
    with running_pair() as (_, replica):
        client = opened(replica.url)
        store = RedisHoldStore(client, hold_seconds=60)
        for _ in range(5):
            with pytest.raises(Unavailable):
                await _hold(store, "req_1")
        replica.follow(None)
        await _hold(store, "req_1")
    reported = [record for record in caplog.records if record.name == "services.quota.redis.state"]
    assert [record.getMessage() for record in reported] == [
        "Redis is a read-only replica. Wait for the failover, or check QUOTA_REDIS_URL.",
        "Redis is available again.",
    ]
    assert [record.levelno for record in reported] == [logging.ERROR, logging.WARNING]


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[TCPValkey]:
    """A server with a password for the default user or for one called `ada`."""
    server = TCPValkey(tmp_path / "redis", "--requirepass", PASSWORD)
    try:
        server.wait_until_listening()
        with server.client(password=PASSWORD) as client:
            client.execute_command("ACL", "SETUSER", "ada", "on", f">{PASSWORD}", "~*", "+@all")
        yield server
    finally:
        server.end()


async def test_a_password_works_as_written_in_the_url_and_as_a_setting(opened: Connect, locked: TCPValkey) -> None:
    place = f"127.0.0.1:{locked.port}/0"
    # `%41` in a URL is an encoded A.
    in_url = PASSWORD.replace("%41", "%2541")
    for target in (
        RedisTarget(f"redis://:{in_url}@{place}"),
        RedisTarget(f"redis://ada:{in_url}@{place}"),
        RedisTarget(f"redis://{place}", password=PASSWORD),
        RedisTarget(f"redis://{place}", user="ada", password=PASSWORD),
        RedisTarget(f"redis://bob:wrong@{place}", user="ada", password=PASSWORD),
    ):
        client = opened(target)
        await _hold(RedisHoldStore(client, hold_seconds=60), "req_1")
        assert client.state.state is State.OK
        assert PASSWORD not in repr(target)


@pytest.mark.parametrize("password", ["", "wrong"])
async def test_a_wrong_password_is_distinguished_from_an_outage(
    opened: Connect, locked: TCPValkey, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = opened(RedisTarget(locked.url, password=password))
    with pytest.raises(Unavailable):
        await _hold(RedisHoldStore(client, hold_seconds=60), "req_1")
    assert client.state.state is State.REJECTED
    assert "QUOTA_REDIS_PASSWORD" in client.state.message
    assert "wrong" not in caplog.text


async def _hold(store: RedisHoldStore, request_id: str, key_id: str = "key_1") -> None:
    (status,) = await store.status([KeyRef("acc_1", key_id)])
    initial_counts = {Counter("acc_1", key_id, status.day): 0, Counter("acc_1", "", status.day): 0}
    (outcome,) = await store.reserve([Reservation(request_id, key_id, "acc_1", 100)], initial_counts)
    assert isinstance(outcome, Held)


async def _hold_many(store: RedisHoldStore, name: str) -> None:
    """Hold over several connections at the same time."""
    await asyncio.gather(*(_hold(store, f"req_{name}_{number}", f"key_{number}") for number in range(8)))
