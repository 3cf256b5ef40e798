"""A key's day on a real server, with a real ledger and time that the test advances.

No test waits for ageing: `grow_older` moves back the times at which the existing holds and rows were reserved.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import delete, event, update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.common.errors import Unavailable
from services.common.limits import Scope, Window
from services.common.verdict import RowVerdict, Verdict
from services.inference import chat
from services.inference.chat import CallContext
from services.inference.ledger.store import SQLLedgerStore
from services.inference.ledger.tables import metadata, usage_ledger
from services.inference.ledger.writer import LedgerRow
from services.quota.days import iso_date
from services.quota.holds import (
    Counter,
    Denied,
    Held,
    InitialCounts,
    KeyRef,
    Reservation,
    Settlement,
    Uninitialised,
)
from services.quota.overdue_holds import OverdueHold
from services.quota.redis.scripts import counter_of, entries_of
from services.quota.redis.store import RedisHoldStore, connect
from services.quota.redis.sweep_store import RedisSweepStore
from services.quota.sweeper import DayEntries, Sweeper
from tests.contracts.ledger_store import ROW

KEY, OTHER_KEY = "key_world", "key_world_2"
ACCOUNT = "acc_world"
DAY_SECONDS = 86_400
NOON = 43_200
HOLD_SECONDS = 60.0
OLD_SECONDS = 2 * HOLD_SECONDS
"""Older than a hold's lifetime and the tolerance of `verify`."""
ROUND_SECONDS = 1.0
_READS_MAX = 3
_NO_LIMIT = 1_000


async def noon_offset(client: Any) -> int:
    """Return the clock offset at which it is noon now: no test meets the real midnight."""
    seconds, _ = await client.time()
    return int(NOON - seconds % DAY_SECONDS)


class StoreClock:
    """Redis' clock as this machine's, which it shares, and which has been watched long enough."""

    is_steady = True
    monotonic = staticmethod(time.monotonic)

    def observed_range(self, seconds: float) -> tuple[float, float]:
        """Return the times of the last `seconds`."""
        now = time.time()
        return now - seconds, now


class StoreLedger:
    """Quota's view of the ledger, on the real store in this process."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Store rows in `engine`'s database."""
        self.store = SQLLedgerStore(engine)
        self.is_down = False
        self._engine = engine

    async def close_unknown(self, holds: Sequence[OverdueHold]) -> list[RowVerdict]:
        """Return each request's verdict, in order; one without a row gets an `unknown` row."""
        self._check()
        contexts = [
            CallContext(one.request_id, one.account_id, one.key_id, iso_date(one.day), one.reserved_at) for one in holds
        ]
        return await self.store.close_unknown(contexts)

    async def count_charged(self, counters: Sequence[Counter], *, reserved_before: float | None = None) -> list[int]:
        """Return charged rows, in order; with a time only those reserved before it."""
        return await self._count(counters, (), reserved_before)

    async def count_charged_without(
        self, counter: Counter, request_ids: Sequence[str], *, reserved_before: float
    ) -> int:
        """Return the charged rows of a counter that were reserved before a time, without those of some requests."""
        (count,) = await self._count([counter], request_ids, reserved_before)
        return count

    async def _count(
        self, counters: Sequence[Counter], excluded: Sequence[str], reserved_before: float | None
    ) -> list[int]:
        self._check()
        keys = [(one.key_id, iso_date(one.day)) for one in counters if one.key_id]
        accounts = [(one.account_id, iso_date(one.day)) for one in counters if not one.key_id]
        store = self.store
        of_keys = iter(await store.count_charged(keys, reserved_before=reserved_before, excluded=excluded))
        of_accounts = iter(
            await store.count_charged_of_accounts(accounts, reserved_before=reserved_before, excluded=excluded)
        )
        return [next(of_keys if one.key_id else of_accounts) for one in counters]

    async def grow_older(self, seconds: float) -> None:
        """Move back the times at which all rows were reserved."""
        reserved_at = usage_ledger.c.reserved_at
        async with self._engine.begin() as connection:
            await connection.execute(update(usage_ledger).values(reserved_at=reserved_at - seconds))

    async def clear(self) -> None:
        """Remove all rows."""
        async with self._engine.begin() as connection:
            await connection.execute(delete(usage_ledger))

    def _check(self) -> None:
        if self.is_down:
            raise Unavailable("the ledger is away", reason="ledger_unavailable")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All data of a server, and how much it had been aged by then."""

    dumps: dict[bytes, bytes]
    aged_seconds: float


@dataclass
class HoldWorld:
    """A counter's day in both records, and the steps of gateways, inference and sweepers on it.

    The counter is that of one key, or that of an account with two keys.
    """

    client: Any
    holds: RedisHoldStore
    store: RedisSweepStore
    ledger: StoreLedger
    sweeper: Sweeper
    day: int
    reserved_at: dict[str, float] = field(default_factory=dict)
    """The dispatched requests; by id."""
    aged_seconds: float = 0
    scope: Scope = Scope.KEY
    """Whose limit is checked. The other one only counts."""

    @property
    def counter(self) -> Counter:
        """The counter whose limit is checked."""
        return Counter(ACCOUNT, KEY if self.scope is Scope.KEY else "", self.day)

    @property
    def counters(self) -> list[Counter]:
        """The counters of the account and its keys."""
        key_ids = (KEY, "") if self.scope is Scope.KEY else (KEY, OTHER_KEY, "")
        return [Counter(ACCOUNT, key_id, self.day) for key_id in key_ids]

    def key_of(self, request_id: str) -> str:
        """Return the key of a request: in an account with two keys, every second request has the second."""
        is_other = self.scope is Scope.ACCOUNT and request_id[-1] in "13579"
        return OTHER_KEY if is_other else KEY

    async def clear(self) -> None:
        """Clear both records."""
        await self.client.flushall()
        await self.ledger.clear()
        self.reserved_at, self.aged_seconds = {}, 0

    async def reserve(
        self, request_id: str, *, limit: int = 10, initial_count: int | None = None
    ) -> Held | Denied | Uninitialised:
        """Hold a slot, with an initial count when one is given; other counters start at the ledger's count."""
        others = [one for one in self.counters if one != self.counter]
        initial_counts: InitialCounts = {}
        with suppress(Unavailable):
            initial_counts = dict(zip(others, await self.ledger.count_charged(others), strict=True))
        if initial_count is not None:
            initial_counts[self.counter] = initial_count
        limits = (limit, None) if self.scope is Scope.KEY else (_NO_LIMIT, limit)
        reserve_item = Reservation(request_id, self.key_of(request_id), ACCOUNT, *limits)
        (outcome,) = await self.holds.reserve([reserve_item], initial_counts)
        assert isinstance(outcome, Held | Denied | Uninitialised)
        if isinstance(outcome, Held):
            self.reserved_at[request_id] = outcome.reserved_at
        return outcome

    async def initialise(self, initial_counts: InitialCounts, *, limit: int) -> None:
        """Initialise counters and hold nothing: the initial count fills their limit."""
        reserve_items = [Reservation("req_initial", one.key_id, ACCOUNT, limit) for one in initial_counts if one.key_id]
        outcomes = await self.holds.reserve(reserve_items, initial_counts)
        assert all(isinstance(outcome, Denied) for outcome in outcomes)

    async def hold(self, *request_ids: str, limit: int = 10) -> None:
        """Hold a slot for each request, which must be free; a new counter starts at 0."""
        for request_id in request_ids:
            assert isinstance(await self.reserve(request_id, limit=limit, initial_count=0), Held)

    async def commit_row(self, request_id: str, *, is_charged: bool = True) -> None:
        """Commit inference's row of a request."""
        outcome = chat.Outcome.ANSWERED if is_charged else chat.Outcome.UPSTREAM_FAILED
        row = replace(
            ROW,
            request_id=request_id,
            key_id=self.key_of(request_id),
            account_id=ACCOUNT,
            day=iso_date(self.day),
            reserved_at=self.reserved_at[request_id],
            charged=is_charged,
            outcome=outcome,
        )
        await self.ledger.store.insert([row])

    async def find(self, request_id: str) -> LedgerRow:
        """Return a request's row."""
        row = await self.ledger.store.find(request_id)
        assert row is not None, f"{request_id} has no row"
        return row

    async def settle(self, request_id: str, verdict: Verdict = Verdict.CHARGED) -> bool | None:
        """Close a hold as a gateway does."""
        (closed,) = await self.holds.settle([Settlement(request_id, ACCOUNT, self.day, verdict)])
        return closed

    async def charge(self, *request_ids: str) -> None:
        """Run requests normally: hold, row, settle."""
        for request_id in request_ids:
            await self.hold(request_id)
            await self.commit_row(request_id)
            assert await self.settle(request_id)

    async def entries(self) -> tuple[int, set[str]] | None:
        """Return the counter and the ids of the holds; None when there is no counter."""
        fields = {name.decode(): value.decode() for name, value in (await self.client.hgetall(self._name)).items()}
        holds = {name: value for name, value in fields.items() if ":" not in name}
        for name in (counter_of(one) for one in self.counters):
            held = sum(f" {name} 1" in f"{value} " for value in holds.values())
            assert int(fields.get(f"{name}:held", 0)) == held, f"{name} does not have the sum of its holds"
        name = counter_of(self.counter)
        return (int(fields[name]), set(holds)) if name in fields else None

    async def day_entries(self, counter: Counter | None = None) -> DayEntries | None:
        """Return a counter as the sweeper reads it; None when there is none."""
        name = counter or self.counter
        found = [one async for batch in self.store.entries(Window.DAY) for one in batch if one.counter == name]
        return found[0] if found else None

    async def differences(self) -> list[Counter]:
        """Return the counters that differ from the ledger."""
        charged = {one.counter: one.charged async for batch in self.store.entries(Window.DAY) for one in batch}
        rows = await self.ledger.count_charged(self.counters)
        expected = dict(zip(self.counters, rows, strict=True))
        return [one for one in self.counters if charged.get(one, expected[one]) != expected[one]]

    async def counts(self) -> tuple[int, int]:
        """Return the counter and how many holds there are."""
        entries = await self.entries()
        assert entries is not None, "the key has no counter"
        return entries[0], len(entries[1])

    async def charged_rows(self) -> int:
        """Return the ledger's charged rows; retried when a busy machine delays the database."""
        for _ in range(_READS_MAX - 1):
            with suppress(Unavailable):
                return (await self.ledger.count_charged([self.counter]))[0]
        return (await self.ledger.count_charged([self.counter]))[0]

    async def grow_older(self, seconds: float = OLD_SECONDS) -> None:
        """Advance the time for all existing data."""
        self.aged_seconds += seconds
        self.reserved_at = {one: at - seconds for one, at in self.reserved_at.items()}
        await self._age_holds(seconds)
        await self.ledger.grow_older(seconds)

    async def set_counter(self, charged: int) -> None:
        """Write a counter directly, as only a bug would."""
        await self.client.hset(self._name, counter_of(self.counter), charged)

    async def snapshot(self) -> Snapshot:
        """Return all data of the server."""
        names = await self.client.keys("*")
        return Snapshot({name: await self.client.dump(name) for name in names}, self.aged_seconds)

    async def roll_back(self, snapshot: Snapshot) -> None:
        """Restore the server's data from a snapshot, like a replica that had fallen behind."""
        await self.client.flushall()
        for name, dump in snapshot.dumps.items():
            await self.client.restore(name, 0, dump)
        await self._age_holds(self.aged_seconds - snapshot.aged_seconds)

    @property
    def _name(self) -> str:
        return f"{entries_of(ACCOUNT)}:{self.day}"

    async def _age_holds(self, seconds: float) -> None:
        # The result of the last sweep belongs to another time.
        self.sweeper = sweeper_of(self.store, self.ledger, hold_seconds=self.sweeper._hold_seconds)
        for name in await self.client.keys("quota:*"):
            if name.endswith(b":holds"):
                for member, score in await self.client.zrange(name, 0, -1, withscores=True):
                    await self.client.zadd(name, {member: score - seconds * 1000})
            if b":account:" not in name:
                continue
            for request_id, fact in (await self.client.hgetall(name)).items():
                if b":" not in request_id:
                    at_ms, _, rest = fact.decode().partition(" ")
                    await self.client.hset(name, request_id, f"{int(at_ms) - round(seconds * 1000)} {rest}")


@asynccontextmanager
async def opened_world(url: str, database: Path) -> AsyncIterator[HoldWorld]:
    """Yield an empty world at noon on a server and a SQLite file."""
    client = connect(url, timeout_seconds=10)
    try:
        async with opened_ledger(database) as ledger:
            offset = await noon_offset(client)
            holds = RedisHoldStore(client, hold_seconds=HOLD_SECONDS, clock_offset_seconds=offset)
            (status,) = await holds.status([KeyRef(ACCOUNT, KEY)])
            store = RedisSweepStore(client, holds)
            yield HoldWorld(client, holds, store, ledger, sweeper_of(store, ledger), status.day)
    finally:
        await client.aclose()


@asynccontextmanager
async def opened_ledger(database: Path) -> AsyncIterator[StoreLedger]:
    """Yield an empty ledger on a SQLite file, which need not survive a power cut."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{database}")
    event.listen(engine.sync_engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    try:
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        yield StoreLedger(engine)
    finally:
        await engine.dispose()


def sweeper_of(store: RedisSweepStore, ledger: StoreLedger, *, hold_seconds: float = HOLD_SECONDS) -> Sweeper:
    """Return a sweeper whose rounds are run by the test."""
    return Sweeper(
        store,
        ledger,
        StoreClock(),
        hold_seconds=hold_seconds,
        sweep_seconds=ROUND_SECONDS,
        reconcile_seconds=ROUND_SECONDS,
    )
