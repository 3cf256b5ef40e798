"""The store of responses on a real Valkey: lifetime, limits, encryption, deletion and outages."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis import Redis

from services.common.errors import NotFound, Unavailable
from services.common.runtime.clock import SystemClock
from services.inference.responses.encryption import Cipher
from services.inference.responses.store import Limits, RedisResponseStore, connect
from tests.valkey_backend import ValkeyServer, running_valkey

SECRET = "a secret of the tests"
TEXT = b'{"input":"My name is Ada."}'
ACCOUNT, OTHER = "acc_1", "acc_2"
LIMITS = Limits(seconds=60, responses=100, size_bytes=1_000_000, deleted_seconds=60)


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """Yield a server that evicts keys."""
    with running_valkey() as running:
        _make_evicting(running)
        yield running


@pytest.fixture
async def open_store(server: ValkeyServer) -> AsyncIterator[Any]:
    """Yield a function that opens stores with other limits or secrets."""
    async with AsyncExitStack() as stack:

        def open_one(limits: Limits = LIMITS, *secrets: str) -> RedisResponseStore:
            client = connect(server.url)
            stack.push_async_callback(client.aclose)
            return RedisResponseStore(client, Cipher(secrets or [SECRET]), limits, SystemClock())

        yield open_one


@pytest.fixture
def store(open_store: Any) -> RedisResponseStore:
    return open_store()  # type: ignore[no-any-return]


def _make_evicting(server: ValkeyServer, memory: str = "64mb", policy: str = "allkeys-lru") -> None:
    with Redis.from_url(server.url) as client:
        client.config_set("maxmemory", memory)
        client.config_set("maxmemory-policy", policy)


async def _kept(store: RedisResponseStore, count: int, account: str = ACCOUNT) -> list[int]:
    """Return the numbers of the responses `resp_0` to `resp_<count - 1>` that exist."""
    kept = []
    for number in range(count):
        try:
            await store.get(account, f"resp_{number}")
        except NotFound:
            continue
        kept.append(number)
    return kept


async def test_a_response_is_returned_to_its_account_until_it_is_deleted(store: RedisResponseStore) -> None:
    await store.check()
    await store.store(ACCOUNT, "resp_1", TEXT)
    assert await store.get(ACCOUNT, "resp_1") == TEXT
    for name, account in (("resp_1", OTHER), ("resp_2", ACCOUNT)):
        with pytest.raises(NotFound, match=f"Response with id '{name}' not found."):
            await store.get(account, name)
        with pytest.raises(NotFound):
            await store.delete(account, name)
    await store.delete(ACCOUNT, "resp_1")
    with pytest.raises(NotFound):
        await store.get(ACCOUNT, "resp_1")
    with pytest.raises(NotFound):
        await store.delete(ACCOUNT, "resp_1")


async def test_storing_twice_replaces(store: RedisResponseStore, server: ValkeyServer) -> None:
    await store.store(ACCOUNT, "resp_1", TEXT)
    await store.store(ACCOUNT, "resp_1", os.urandom(5_000))
    await store.store(ACCOUNT, "resp_1", TEXT)
    assert await store.get(ACCOUNT, "resp_1") == TEXT
    with Redis.from_url(server.url) as client:
        index: Any = client.zrange("responses:{acc_1}:index", 0, -1, withscores=True)
        size = client.strlen("responses:{acc_1}:one:resp_1")
    assert index[0] == (b"bytes", size)
    assert [name for name, _ in index[1:]] == [f"resp_1 {size}".encode()]


async def test_the_oldest_responses_are_dropped_beyond_the_number(open_store: Any) -> None:
    store = open_store(Limits(seconds=60, responses=3, size_bytes=1_000_000, deleted_seconds=60))
    for number in range(5):
        await store.store(ACCOUNT, f"resp_{number}", TEXT)
        await store.store(OTHER, f"resp_{number}", TEXT)
        await asyncio.sleep(0.002)
    assert await _kept(store, 5) == [2, 3, 4]
    assert await _kept(store, 5, OTHER) == [2, 3, 4]
    await store.delete(ACCOUNT, "resp_3")
    await store.store(ACCOUNT, "resp_5", TEXT)
    assert await _kept(store, 6) == [2, 4, 5]


async def test_the_oldest_responses_are_dropped_beyond_the_bytes(open_store: Any) -> None:
    store = open_store(Limits(seconds=60, responses=100, size_bytes=10_000, deleted_seconds=60))
    for number in range(5):
        await store.store(ACCOUNT, f"resp_{number}", os.urandom(4_000))
        await asyncio.sleep(0.002)
    assert await _kept(store, 5) == [3, 4]
    await store.store(ACCOUNT, "resp_5", os.urandom(20_000))
    assert await _kept(store, 6) == [5]


@pytest.mark.long
async def test_a_response_expires_and_no_longer_counts(open_store: Any, server: ValkeyServer) -> None:
    store = open_store(Limits(seconds=1, responses=2, size_bytes=1_000_000, deleted_seconds=60))
    await store.store(ACCOUNT, "resp_0", TEXT)
    await asyncio.sleep(0.7)
    await store.store(ACCOUNT, "resp_1", TEXT)
    assert await _kept(store, 2) == [0, 1]
    await asyncio.sleep(0.5)
    assert await _kept(store, 2) == [1]
    await store.store(ACCOUNT, "resp_2", TEXT)
    assert await _kept(store, 3) == [1, 2]
    with Redis.from_url(server.url) as client:
        assert client.zcard("responses:{acc_1}:index") == 3
    await asyncio.sleep(1.3)
    with Redis.from_url(server.url) as client:
        assert client.dbsize() == 0


async def test_without_its_index_a_response_does_not_exist(store: RedisResponseStore, server: ValkeyServer) -> None:
    """Redis may evict an index. The responses in it must not stay beyond the limits of the account."""
    await store.store(ACCOUNT, "resp_0", TEXT)
    with Redis.from_url(server.url) as client:
        client.delete("responses:{acc_1}:index")
        await store.store(ACCOUNT, "resp_1", TEXT)
        assert await _kept(store, 2) == [1]
        assert not client.exists("responses:{acc_1}:one:resp_0")


async def test_redis_holds_no_plaintext(store: RedisResponseStore, server: ValkeyServer) -> None:
    await store.store(ACCOUNT, "resp_1", TEXT * 2_000)  # Large enough for a thread.
    assert await store.get(ACCOUNT, "resp_1") == TEXT * 2_000
    with Redis.from_url(server.url) as client:
        dump = b"".join(client.dump(name) for name in client.keys("*"))
        assert b"Ada" not in dump
        assert b"input" not in dump


async def test_a_record_in_the_place_of_another_is_not_returned(
    store: RedisResponseStore, server: ValkeyServer
) -> None:
    await store.store(ACCOUNT, "resp_1", TEXT)
    await store.store(OTHER, "resp_1", TEXT)
    with Redis.from_url(server.url) as client:
        client.set("responses:{acc_2}:one:resp_1", client.get("responses:{acc_1}:one:resp_1"))
    with pytest.raises(NotFound):
        await store.get(OTHER, "resp_1")


async def test_secrets_rotate(open_store: Any, caplog: pytest.LogCaptureFixture) -> None:
    await open_store(LIMITS, "the old secret").store(ACCOUNT, "resp_1", TEXT)
    assert await open_store(LIMITS, "the new secret", "the old secret").get(ACCOUNT, "resp_1") == TEXT
    with pytest.raises(NotFound):
        await open_store(LIMITS, "the new secret").get(ACCOUNT, "resp_1")
    assert "INFERENCE_RESPONSES_SECRETS" in caplog.text


async def test_a_deleted_account_has_nothing_and_stores_nothing(
    store: RedisResponseStore, server: ValkeyServer
) -> None:
    for number in range(3):
        await store.store(ACCOUNT, f"resp_{number}", TEXT)
    await store.store(OTHER, "resp_0", TEXT)
    await store.delete_account(ACCOUNT)
    with Redis.from_url(server.url) as client:
        assert {name.decode() for name in client.keys("responses:{acc_1}*")} == {"responses:{acc_1}:deleted"}
        assert 0 < client.ttl("responses:{acc_1}:deleted") <= LIMITS.deleted_seconds
    with pytest.raises(NotFound, match="The account was deleted"):
        await store.store(ACCOUNT, "resp_9", TEXT)
    assert await _kept(store, 1, OTHER) == [0]


async def test_an_outage_is_unavailable_and_ends_with_it(store: RedisResponseStore, server: ValkeyServer) -> None:
    await store.store(ACCOUNT, "resp_1", TEXT)
    server.stop()
    for call in (
        store.check(),
        store.store(ACCOUNT, "resp_2", TEXT),
        store.get(ACCOUNT, "resp_1"),
        store.delete(ACCOUNT, "resp_1"),
        store.delete_account(ACCOUNT),
    ):
        with pytest.raises(Unavailable) as raised:
            await call
        assert raised.value.reason == "response_storage_unavailable"
    server.start()
    _make_evicting(server)
    await store.check()
    assert await store.get(ACCOUNT, "resp_1") == TEXT


@pytest.mark.parametrize(("memory", "policy"), [("64mb", "noeviction"), ("0", "allkeys-lru"), ("0", "noeviction")])
async def test_a_redis_that_must_not_evict_is_refused(
    store: RedisResponseStore, server: ValkeyServer, caplog: pytest.LogCaptureFixture, memory: str, policy: str
) -> None:
    _make_evicting(server, memory, policy)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await store.check()
    assert "It must not be the Redis of quota" in caplog.text
    _make_evicting(server)
    await store.check()


async def test_a_full_redis_evicts_and_stores_on(open_store: Any, server: ValkeyServer) -> None:
    store = open_store(Limits(seconds=60, responses=100_000, size_bytes=100_000_000, deleted_seconds=60))
    with Redis.from_url(server.url) as client:
        used: int = client.info("memory")["used_memory"]
    _make_evicting(server, str(used + 2_000_000))
    await store.check()
    for number in itertools.count():
        await store.store(f"acc_{number % 20}", f"resp_{number}", os.urandom(40_000))
        if number == 200:
            break
    assert await store.get(f"acc_{number % 20}", f"resp_{number}")
    with Redis.from_url(server.url) as client:
        assert client.info("stats")["evicted_keys"] > 0
