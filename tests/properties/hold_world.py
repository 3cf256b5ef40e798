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
from services.common.verdict import Verdict
from services.inference import chat
from services.inference.chat import CallContext
from services.inference.ledger.store import SQLLedgerStore
from services.inference.ledger.tables import metadata, usage_ledger
from services.inference.ledger.writer import LedgerRow
from services.quota.days import iso_date
from services.quota.holds import Denied, Held, InitialCounts, KeyDay, Reservation, Settlement, Uninitialised
from services.quota.overdue_holds import OverdueHold
from services.quota.redis.scripts import entries_of
from services.quota.redis.store import RedisHoldStore, connect
from services.quota.redis.sweep_store import RedisSweepStore
from services.quota.sweeper import DayEntries, Sweeper
from tests.contracts.ledger_store import ROW

KEY = "key_world"
ACCOUNT = "acc_world"
DAY_SECONDS = 86_400
NOON = 43_200
HOLD_SECONDS = 60.0
OLD_SECONDS = 2 * HOLD_SECONDS
"""Older than a hold's lifetime and the tolerance of `verify`."""
ROUND_SECONDS = 1.0
_READS_MAX = 3


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

    async def close_unknown(self, holds: Sequence[OverdueHold]) -> list[Verdict]:
        """Return each request's verdict, in order; one without a row gets an `unknown` row."""
        self._check()
        contexts = [
            CallContext(one.request_id, one.account_id, one.key_id, iso_date(one.day), one.reserved_at) for one in holds
        ]
        return [Verdict(verdict.value) for verdict in await self.store.close_unknown(contexts)]

    async def count_charged(self, key_days: Sequence[KeyDay], *, reserved_before: float | None = None) -> list[int]:
        """Return charged rows, in order; with a time only those reserved before it."""
        self._check()
        names = [(one.key_id, iso_date(one.day)) for one in key_days]
        return await self.store.count_charged(names, reserved_before=reserved_before)

    async def count_charged_without(
        self, key_day: KeyDay, request_ids: Sequence[str], *, reserved_before: float
    ) -> int:
        """Return the charged rows of a key's day that were reserved before a time, without those of some requests."""
        self._check()
        name = key_day.key_id, iso_date(key_day.day)
        (count,) = await self.store.count_charged([name], reserved_before=reserved_before, excluded=request_ids)
        return count

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
    """One key's day in both records, and the steps of gateways, inference and sweepers on it."""

    client: Any
    holds: RedisHoldStore
    store: RedisSweepStore
    ledger: StoreLedger
    sweeper: Sweeper
    day: int
    reserved_at: dict[str, float] = field(default_factory=dict)
    """The dispatched requests; by id."""
    aged_seconds: float = 0

    @property
    def key_day(self) -> KeyDay:
        """The key and its day."""
        return KeyDay(KEY, self.day)

    async def clear(self) -> None:
        """Clear both records."""
        await self.client.flushall()
        await self.ledger.clear()
        self.reserved_at, self.aged_seconds = {}, 0

    async def reserve(
        self, request_id: str, *, limit: int = 10, initial_count: int | None = None
    ) -> Held | Denied | Uninitialised:
        """Hold a slot, with an initial count when one is given."""
        reserve_item = Reservation(request_id, KEY, ACCOUNT, limit)
        (outcome,) = await self.holds.reserve(
            [reserve_item], {} if initial_count is None else {self.key_day: initial_count}
        )
        assert isinstance(outcome, Held | Denied | Uninitialised)
        if isinstance(outcome, Held):
            self.reserved_at[request_id] = outcome.reserved_at
        return outcome

    async def initialise(self, initial_counts: InitialCounts, *, limit: int) -> None:
        """Initialise counters and hold nothing: the initial count fills their limit."""
        reserve_items = [Reservation("req_initial", one.key_id, ACCOUNT, limit) for one in initial_counts]
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
            key_id=KEY,
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
        (closed,) = await self.holds.settle([Settlement(request_id, KEY, self.day, verdict)])
        return closed

    async def charge(self, *request_ids: str) -> None:
        """Run requests normally: hold, row, settle."""
        for request_id in request_ids:
            await self.hold(request_id)
            await self.commit_row(request_id)
            assert await self.settle(request_id)

    async def entries(self) -> tuple[int, set[str]] | None:
        """Return the counter and the ids of the holds; None when there is no counter."""
        found = {name.decode(): value for name, value in (await self.client.hgetall(self._name)).items()}
        if not found:
            return None
        charged = int(found.pop("charged"))
        found.pop("limit")
        return charged, set(found)

    async def day_entries(self) -> DayEntries | None:
        """Return the key's day as the sweeper reads it; None when there is none."""
        found = [one async for batch in self.store.entries() for one in batch if one.key_day == self.key_day]
        return found[0] if found else None

    async def counts(self) -> tuple[int, int]:
        """Return the counter and how many holds there are."""
        entries = await self.entries()
        assert entries is not None, "the key has no counter"
        return entries[0], len(entries[1])

    async def charged_rows(self) -> int:
        """Return the ledger's charged rows; retried when a busy machine delays the database."""
        for _ in range(_READS_MAX - 1):
            with suppress(Unavailable):
                return (await self.ledger.count_charged([self.key_day]))[0]
        return (await self.ledger.count_charged([self.key_day]))[0]

    async def grow_older(self, seconds: float = OLD_SECONDS) -> None:
        """Advance the time for all existing data."""
        self.aged_seconds += seconds
        self.reserved_at = {one: at - seconds for one, at in self.reserved_at.items()}
        await self._age_holds(seconds)
        await self.ledger.grow_older(seconds)

    async def set_counter(self, charged: int) -> None:
        """Write a counter directly, as only a bug would."""
        await self.client.hset(self._name, "charged", charged)

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
        return f"{entries_of(KEY)}:{self.day}"

    async def _age_holds(self, seconds: float) -> None:
        # The result of the last sweep belongs to another time.
        self.sweeper = sweeper_of(self.store, self.ledger, hold_seconds=self.sweeper._hold_seconds)
        for name in await self.client.keys("quota:*"):
            if name.endswith(b":deadlines"):
                for member, score in await self.client.zrange(name, 0, -1, withscores=True):
                    await self.client.zadd(name, {member: score - seconds * 1000})
                continue
            for request_id, fact in (await self.client.hgetall(name)).items():
                if request_id not in (b"charged", b"limit"):
                    at_ms, _, account_id = fact.decode().partition(" ")
                    await self.client.hset(name, request_id, f"{int(at_ms) - round(seconds * 1000)} {account_id}")


@asynccontextmanager
async def opened_world(url: str, database: Path) -> AsyncIterator[HoldWorld]:
    """Yield an empty world at noon on a server and a SQLite file."""
    client = connect(url, timeout_seconds=10)
    try:
        async with opened_ledger(database) as ledger:
            offset = await noon_offset(client)
            holds = RedisHoldStore(client, hold_seconds=HOLD_SECONDS, clock_offset_seconds=offset)
            (status,) = await holds.status([KEY])
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
