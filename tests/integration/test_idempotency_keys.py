"""Idempotency keys on a real Valkey and a real ledger: claims, races, leases, limits, eviction, rotation, deletion."""

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from services.common.db import database
from services.common.errors import FailedPrecondition, Throttled, Unavailable
from services.common.runtime.clock import SystemClock
from services.inference.chat import Outcome
from services.inference.idempotency.keys import KeysByKind, StoredIdempotencyKeys
from services.inference.idempotency.model import Claimant, ClaimedKey, State
from services.inference.idempotency.store import RecordLimits, RedisRecordStore
from services.inference.ledger.store import SQLLedgerStore
from services.inference.ledger.writer import LedgerRow
from services.inference.responses.encryption import Cipher
from services.inference.responses.store import Limits, RedisResponseStore, connect
from services.inference.server import MIGRATIONS, VERSION_TABLE
from tests.contracts.ledger_store import ROW
from tests.valkey_backend import ValkeyServer, running_valkey

ACCOUNT = "acc_1"
ANSWER = b"the answer of Ada"
_RECORDS = RecordLimits(seconds=60, records=1_000, lease_seconds=30)
_ANSWERS = Limits(seconds=60, responses=1_000, size_bytes=1_000_000, deleted_seconds=60)


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """Yield a server that evicts only keys with a time to live."""
    with running_valkey() as running:
        _configure(running)
        yield running


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SQLLedgerStore]:
    url = f"sqlite:///{tmp_path}/ledger.db"
    opened = database.open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE, reuse_port=False)
    async with opened as engine:
        yield SQLLedgerStore(engine)


@pytest.fixture
async def open_keys(server: ValkeyServer, ledger: SQLLedgerStore) -> AsyncIterator[Any]:
    """Yield a function that opens keys with other limits or secrets, as another replica of inference would."""
    async with AsyncExitStack() as stack:

        def open_one(
            *secrets: str,
            records: RecordLimits = _RECORDS,
            answers: Limits = _ANSWERS,
            prefix: str = "idempotency",
        ) -> StoredIdempotencyKeys:
            client = connect(server.url)
            stack.push_async_callback(client.aclose)
            cipher = Cipher(secrets or ["a secret of the tests"])
            answer_store = RedisResponseStore(client, cipher, answers, SystemClock(), prefix=prefix)
            record_store = RedisRecordStore(client, cipher, records, prefix=prefix)
            return StoredIdempotencyKeys(record_store, answer_store, ledger)

        yield open_one


@pytest.fixture
def keys(open_keys: Any) -> StoredIdempotencyKeys:
    return open_keys()  # type: ignore[no-any-return]


def _configure(server: ValkeyServer, memory: str = "64mb", policy: str = "volatile-lru") -> None:
    with Redis.from_url(server.url) as client:
        client.config_set("maxmemory", memory)
        client.config_set("maxmemory-policy", policy)


def _key(name: str = "a", account: str = ACCOUNT) -> ClaimedKey:
    return ClaimedKey(account, hashlib.sha256(name.encode()).digest())


def _claimant(request_id: str, body: str = "body") -> Claimant:
    return Claimant(request_id, "key_1", hashlib.sha256(body.encode()).digest())


def _first(request_id: str) -> Claimant:
    """Return a first request with an implicit key."""
    return replace(_claimant(request_id), replaces=True)


async def _record(ledger: SQLLedgerStore, request_id: str, *, charged: bool) -> None:
    outcome = Outcome.ANSWERED if charged else Outcome.UPSTREAM_FAILED
    row: LedgerRow = replace(ROW, request_id=request_id, charged=charged, outcome=outcome)
    await ledger.insert([row])


async def test_an_answer_is_kept_for_its_key_and_body(keys: StoredIdempotencyKeys) -> None:
    assert (await keys.claim(_key(), _claimant("req_1"))).state is State.CLAIMED
    running = await keys.claim(_key(), _claimant("req_2"))
    assert (running.state, running.request_id) == (State.RUNNING, "req_1")
    await keys.complete(_key(), "req_1", ANSWER)
    found = await keys.claim(_key(), _claimant("req_3"))
    assert (found.state, found.request_id, found.content) == (State.COMPLETED, "req_1", ANSWER)
    other_body = await keys.claim(_key(), _claimant("req_4", "other"))
    assert (other_body.state, other_body.content) == (State.MISMATCHED, b"")
    for other in (_key("b"), _key(account="acc_2")):
        assert (await keys.claim(other, _claimant("req_5"))).state is State.CLAIMED


async def test_of_claims_at_once_by_two_replicas_one_runs(open_keys: Any) -> None:
    replicas = [open_keys(), open_keys()]
    claims = await asyncio.gather(
        *(replicas[number % 2].claim(_key(), _claimant(f"req_{number}")) for number in range(100))
    )
    assert Counter(claim.state for claim in claims) == {State.CLAIMED: 1, State.RUNNING: 99}
    assert len({claim.request_id for claim in claims}) == 1


async def test_a_first_request_with_an_implicit_key_always_runs_and_a_retry_finds_the_last_one(
    keys: StoredIdempotencyKeys,
) -> None:
    for number in range(3):
        assert (await keys.claim(_key(), _first(f"req_{number}"))).state is State.CLAIMED
    retry = await keys.claim(_key(), _claimant("req_3"))
    assert (retry.state, retry.request_id) == (State.RUNNING, "req_2")
    # A request whose record was replaced changes nothing of it.
    await keys.complete(_key(), "req_1", b"another answer")
    await keys.release(_key(), "req_0")
    await keys.complete(_key(), "req_2", ANSWER)
    retry = await keys.claim(_key(), _claimant("req_4"))
    assert (retry.state, retry.request_id, retry.content) == (State.COMPLETED, "req_2", ANSWER)
    assert (await keys.claim(_key(), _first("req_5"))).state is State.CLAIMED
    await keys.release(_key(), "req_5")
    assert (await keys.claim(_key(), _claimant("req_6"))).state is State.CLAIMED


async def test_first_requests_at_once_all_run_and_leave_one_record(open_keys: Any, server: ValkeyServer) -> None:
    replicas = [open_keys(), open_keys()]
    claims = await asyncio.gather(
        *(replicas[number % 2].claim(_key(), _first(f"req_{number}")) for number in range(50))
    )
    assert Counter(claim.state for claim in claims) == {State.CLAIMED: 50}
    with Redis.from_url(server.url) as client:
        assert client.hlen("idempotency:{acc_1}:records") == 1
        assert client.zcard("idempotency:{acc_1}:expiries") == 1


async def test_a_first_request_replaces_a_record_of_a_previous_secret(open_keys: Any) -> None:
    await open_keys("the old secret").claim(_key(), _claimant("req_1"))
    rotated = open_keys("the new secret", "the old secret")
    assert (await rotated.claim(_key(), _first("req_2"))).state is State.CLAIMED
    assert (await rotated.claim(_key(), _claimant("req_3"))).request_id == "req_2"


async def test_implicit_keys_take_no_room_of_explicit_ones(open_keys: Any, server: ValkeyServer) -> None:
    limits = replace(_RECORDS, records=2)
    keys = KeysByKind(open_keys(records=limits), open_keys(records=limits, prefix="retries"))
    for name in ("a", "b"):
        for is_implicit in (False, True):
            claim = await keys.claim(replace(_key(name), is_implicit=is_implicit), _claimant(f"req_{name}"))
            assert claim.state is State.CLAIMED
    for is_implicit in (False, True):
        with pytest.raises(Throttled):
            await keys.claim(replace(_key("c"), is_implicit=is_implicit), _claimant("req_c"))
    # Replacing a record needs no room.
    again = await keys.claim(replace(_key("a"), is_implicit=True), _first("req_d"))
    assert again.state is State.CLAIMED
    await keys.complete(replace(_key("a"), is_implicit=True), "req_d", ANSWER)
    assert (await keys.claim(_key("a"), _claimant("req_e"))).state is State.RUNNING
    with Redis.from_url(server.url) as client:
        assert client.exists("retries:{acc_1}:records", "retries:{acc_1}:one:req_d") == 2


@pytest.mark.parametrize("is_implicit", [False, True])
async def test_each_kind_of_keys_can_be_disabled(keys: StoredIdempotencyKeys, is_implicit: bool) -> None:
    by_kind = KeysByKind(keys if is_implicit else None, None if is_implicit else keys)
    key = replace(_key(), is_implicit=is_implicit)
    assert (await by_kind.claim(key, _first("req_1"))).state is State.DISABLED
    with pytest.raises(FailedPrecondition):
        await by_kind.release(key, "req_1")
    other = replace(key, is_implicit=not is_implicit)
    assert (await by_kind.claim(other, _first("req_1"))).state is State.CLAIMED


async def test_implicit_keys_expire_and_leave_nothing(open_keys: Any, server: ValkeyServer) -> None:
    seconds = {"seconds": 1}
    keys = open_keys(records=replace(_RECORDS, **seconds), answers=replace(_ANSWERS, **seconds), prefix="retries")
    await keys.claim(_key(account="acc_2"), _first("req_1"))
    await keys.complete(_key(account="acc_2"), "req_1", ANSWER)
    await asyncio.sleep(1.1)
    await keys.claim(_key(), _first("req_2"))
    with Redis.from_url(server.url) as client:
        assert sorted(client.keys("*")) == [
            b"retries:accounts",
            b"retries:{acc_1}:expiries",
            b"retries:{acc_1}:records",
        ]


async def test_a_released_key_can_be_claimed_with_another_body(keys: StoredIdempotencyKeys) -> None:
    await keys.claim(_key(), _claimant("req_1"))
    await keys.release(_key(), "req_other")
    assert (await keys.claim(_key(), _claimant("req_2"))).state is State.RUNNING
    await keys.release(_key(), "req_1")
    assert (await keys.claim(_key(), _claimant("req_3", "other"))).state is State.CLAIMED


async def test_a_repeated_script_finds_its_own_claim(keys: StoredIdempotencyKeys) -> None:
    """A command whose connection broke is sent again: it must not report its own request as another that runs."""
    for _ in range(2):
        assert (await keys.claim(_key(), _claimant("req_1"))).state is State.CLAIMED


async def test_a_renamed_request_keeps_its_key(keys: StoredIdempotencyKeys) -> None:
    await keys.claim(_key(), _claimant("req_1"))
    for _ in range(2):  # A script may run twice.
        await keys.rename(_key(), "req_1", "req_2")
    assert (await keys.claim(_key(), _claimant("req_3"))).request_id == "req_2"
    with pytest.raises(FailedPrecondition):
        await keys.rename(_key(), "req_1", "req_4")
    await keys.complete(_key(), "req_2", ANSWER)
    assert (await keys.claim(_key(), _claimant("req_5"))).content == ANSWER


@pytest.mark.parametrize("charged", [False, True])
async def test_the_ledger_decides_about_a_request_that_ended_without_an_answer(
    keys: StoredIdempotencyKeys, ledger: SQLLedgerStore, charged: bool
) -> None:
    await keys.claim(_key(), _claimant("req_1"))
    await keys.complete(_key(), "req_1", b"")
    # Inference may still be reading Groq's answer.
    assert (await keys.claim(_key(), _claimant("req_2"))).state is State.RUNNING
    await _record(ledger, "req_1", charged=charged)
    claims = await asyncio.gather(*(keys.claim(_key(), _claimant(f"req_{number}")) for number in range(3, 9)))
    expected = {State.GONE: 6} if charged else {State.CLAIMED: 1, State.RUNNING: 5}
    assert Counter(claim.state for claim in claims) == expected


async def test_a_charged_request_stays_running_until_its_lease_ends(open_keys: Any, ledger: SQLLedgerStore) -> None:
    """Its gateway may still be sending the answer, which it stores at the end."""
    keys = open_keys(records=replace(_RECORDS, lease_seconds=0.5))
    await keys.claim(_key(), _claimant("req_1"))
    await _record(ledger, "req_1", charged=True)
    assert (await keys.claim(_key(), _claimant("req_2"))).state is State.RUNNING
    await asyncio.sleep(0.6)
    gone = await keys.claim(_key(), _claimant("req_3"))
    assert (gone.state, gone.request_id) == (State.GONE, "req_1")
    await keys.complete(_key(), "req_1", ANSWER)
    assert (await keys.claim(_key(), _claimant("req_4"))).content == ANSWER


async def test_a_request_without_a_row_is_closed_uncharged_when_its_lease_ends(
    open_keys: Any, ledger: SQLLedgerStore
) -> None:
    keys = open_keys(records=replace(_RECORDS, lease_seconds=0.3))
    await keys.claim(_key(), _claimant("req_1"))
    await asyncio.sleep(0.4)
    claims = await asyncio.gather(*(keys.claim(_key(), _claimant(f"req_{number}")) for number in range(2, 8)))
    assert Counter(claim.state for claim in claims) == {State.CLAIMED: 1, State.RUNNING: 5}
    row = await ledger.find("req_1")
    assert row is not None
    assert (row.charged, row.outcome, row.account_id, row.key_id) == (False, Outcome.UNKNOWN, ACCOUNT, "key_1")
    # An answer that comes later does not take the key back, and is not charged.
    await _record(ledger, "req_1", charged=True)
    await keys.complete(_key(), "req_1", ANSWER)
    assert (await keys.claim(_key(), _claimant("req_9"))).state is State.RUNNING
    row = await ledger.find("req_1")
    assert row is not None
    assert row.charged is False


async def test_keys_expire_and_leave_nothing(open_keys: Any, server: ValkeyServer) -> None:
    seconds = {"seconds": 1}
    keys = open_keys(records=replace(_RECORDS, **seconds), answers=replace(_ANSWERS, **seconds))
    for account in (ACCOUNT, "acc_2"):
        await keys.claim(_key(account=account), _claimant(f"req_{account}"))
        await keys.complete(_key(account=account), f"req_{account}", ANSWER)
    await asyncio.sleep(1.1)
    # The account that sends nothing more is removed, too.
    assert (await keys.claim(_key(), _claimant("req_2", "other"))).state is State.CLAIMED
    with Redis.from_url(server.url) as client:
        assert sorted(client.keys("*")) == [
            b"idempotency:accounts",
            b"idempotency:{acc_1}:expiries",
            b"idempotency:{acc_1}:records",
        ]
        assert client.hlen("idempotency:{acc_1}:records") == 1


async def test_an_account_has_a_limited_number_of_keys(open_keys: Any) -> None:
    keys = open_keys(records=replace(_RECORDS, records=2))
    for name in ("a", "b"):
        assert (await keys.claim(_key(name), _claimant(f"req_{name}"))).state is State.CLAIMED
    with pytest.raises(Throttled) as raised:
        await keys.claim(_key("c"), _claimant("req_c"))
    assert raised.value.reason == "too_many_idempotency_keys"
    assert 0 < raised.value.details.retry_after_seconds <= _RECORDS.seconds
    assert (await keys.claim(_key("a"), _claimant("req_d"))).state is State.RUNNING, "repeats need no room"
    assert (await keys.claim(_key("c", "acc_2"), _claimant("req_e"))).state is State.CLAIMED


async def test_answers_beyond_the_bytes_of_an_account_are_gone_and_not_run_again(open_keys: Any) -> None:
    keys = open_keys(answers=replace(_ANSWERS, size_bytes=10_000))
    for name in "abcd":
        await keys.claim(_key(name), _claimant(f"req_{name}"))
        await keys.complete(_key(name), f"req_{name}", os.urandom(4_000))
    states = [(await keys.claim(_key(name), _claimant("req_again"))).state for name in "abcd"]
    assert states == [State.GONE, State.GONE, State.COMPLETED, State.COMPLETED]


async def test_a_full_redis_evicts_answers_and_never_a_key(keys: StoredIdempotencyKeys, server: ValkeyServer) -> None:
    with Redis.from_url(server.url) as client:
        used: int = client.info("memory")["used_memory"]
        _configure(server, str(used + 2_000_000))
        for number in range(150):
            key = _key(str(number), f"acc_{number % 20}")
            assert (await keys.claim(key, _claimant(f"req_{number}"))).state is State.CLAIMED
            await keys.complete(key, f"req_{number}", os.urandom(40_000))
        assert client.info("stats")["evicted_keys"] > 50
    claims = [await keys.claim(_key(str(n), f"acc_{n % 20}"), _claimant("req_again")) for n in range(150)]
    counts = Counter(claim.state for claim in claims)
    assert set(counts) == {State.COMPLETED, State.GONE}
    assert counts[State.GONE] > 50


async def test_a_policy_that_may_evict_keys_disables_them(
    open_keys: Any, server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    _configure(server, policy="allkeys-lru")
    assert (await open_keys().claim(_key(), _claimant("req_1"))).state is State.DISABLED
    assert "maxmemory-policy to volatile-lru" in caplog.text
    _configure(server, policy="noeviction")
    with pytest.raises(Unavailable):
        await open_keys().claim(_key(), _claimant("req_1"))


async def test_keys_of_a_previous_secret_are_found(open_keys: Any) -> None:
    old = open_keys("the old secret")
    await old.claim(_key("done"), _claimant("req_1"))
    await old.complete(_key("done"), "req_1", ANSWER)
    await old.claim(_key("running"), _claimant("req_2"))
    rotated = open_keys("the new secret", "the old secret")
    assert (await rotated.claim(_key("done"), _claimant("req_3"))).content == ANSWER
    assert (await rotated.claim(_key("done"), _claimant("req_4", "other"))).state is State.MISMATCHED
    await rotated.complete(_key("running"), "req_2", ANSWER)
    assert (await rotated.claim(_key("running"), _claimant("req_5"))).content == ANSWER
    # A replica that still has the old secret first finds what one with both has claimed, if it has both, too.
    await rotated.claim(_key("rollout"), _claimant("req_8"))
    prepared = open_keys("the old secret", "the new secret")
    assert (await prepared.claim(_key("rollout"), _claimant("req_9"))).state is State.RUNNING
    await rotated.claim(_key("new"), _claimant("req_6"))
    assert (await open_keys("the new secret").claim(_key("new"), _claimant("req_7"))).state is State.RUNNING


async def test_neither_keys_nor_fingerprints_nor_answers_are_readable(
    keys: StoredIdempotencyKeys, server: ValkeyServer
) -> None:
    claimant = _claimant("req_1")
    await keys.claim(_key(), claimant)
    await keys.complete(_key(), "req_1", ANSWER)
    with Redis.from_url(server.url) as client:
        dump = b"".join(name + (client.dump(name) or b"") for name in client.keys("*"))
    for secret in (_key().digest, claimant.fingerprint):
        assert secret not in dump
        assert secret.hex()[:32].encode() not in dump
    assert ANSWER not in dump


async def test_outages_are_unavailable(keys: StoredIdempotencyKeys, server: ValkeyServer) -> None:
    await keys.claim(_key(), _claimant("req_1"))
    server.stop()
    for call in (
        keys.claim(_key(), _claimant("req_2")),
        keys.rename(_key(), "req_1", "req_2"),
        keys.complete(_key(), "req_1", ANSWER),
        keys.release(_key(), "req_1"),
    ):
        with pytest.raises(Unavailable):
            await call
    server.start()
    _configure(server)
    assert (await keys.claim(_key(), _claimant("req_2"))).state is State.RUNNING, "the record survives a restart"
