"""No revocation is missed: not by watchers that restart, not when commits overtake each other, on no database."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from services.auth.accounts.former_accounts import FormerAccounts
from services.auth.accounts.model import NewAccount, open_account
from services.auth.accounts.plan_store import SQLPlanStore
from services.auth.accounts.plans import Plan
from services.auth.accounts.store import SQLAccountStore
from services.auth.audit import Actor
from services.auth.db.records import unavailable
from services.auth.db.tables import api_keys
from services.auth.keys.minting import mint
from services.auth.keys.model import KeyId
from services.auth.keys.pepper import Pepper
from services.auth.keys.store import SQLKeyStore
from services.auth.server import MIGRATIONS, VERSION_TABLE
from services.auth.watch import feed as feed_module
from services.auth.watch.feed import Change, ChangeFeed, Changes
from services.common.db import database
from services.common.db.transactions import Transactions
from services.common.runtime.clock import SystemClock, utc_now
from tests.properties.revocation_world import Keys, watch_while

OPERATOR = Actor("operator:test", "")
PEPPER = Pepper(b"revocations")


class Replica:
    """One auth of several: its stores and its feed, over a separate connection pool."""

    def __init__(self, transactions: Transactions) -> None:
        self.keys = SQLKeyStore(transactions)
        self.accounts = SQLAccountStore(transactions, FormerAccounts(PEPPER))
        self.plans = SQLPlanStore(transactions)
        self.feed = ChangeFeed(self.keys, clock=SystemClock())
        self._transactions = transactions

    async def revision_of(self, key_id: KeyId) -> int:
        """Return the revision of a key's last change."""
        async with self._transactions.reading() as connection:
            row = await connection.execute(select(api_keys.c.revision).where(api_keys.c.id == key_id))
            return int(row.scalar_one())


@asynccontextmanager
async def replicas(url: str, *, count: int) -> AsyncIterator[list[Replica]]:
    await database.migrate(url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            engine = await stack.enter_async_context(
                database.open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
            )
            made.append(Replica(Transactions(engine, unavailable=unavailable)))
            await stack.enter_async_context(made[-1].feed.running())
        yield made


async def revoke_all(made: list[Replica], truth: Keys, chance: random.Random, *, keys: int, at_once: int) -> None:
    """Create and revoke keys on random replicas, many at the same time, among other changes."""
    await made[0].accounts.add(NewAccount(open_account("ada@example.com", now=utc_now(SystemClock()))), by=OPERATOR)
    gate = asyncio.Semaphore(at_once)

    async def live(number: int) -> None:
        async with gate:
            one, other, third = (chance.choice(made) for _ in range(3))
            minted = mint(f"key {number}", daily_limit=None, pepper=PEPPER, clock=SystemClock())
            await one.keys.add("ada@example.com", minted.key, by=OPERATOR)
            if chance.random() < 0.1:
                await third.plans.set(Plan("free", number), by=OPERATOR, at=minted.key.created_at)
            await asyncio.sleep(chance.random() * 0.01)
            await _revoke(other, minted.key.id, truth)

    await asyncio.gather(*(live(number) for number in range(keys)))


async def _revoke(replica: Replica, key_id: KeyId, truth: Keys) -> None:
    await replica.keys.revoke(key_id, by=OPERATOR, at=utc_now(SystemClock()))
    replica.feed.notify()
    truth[key_id] = await replica.revision_of(key_id)


class TornStore:
    """A database in memory: commits in the order of their revisions, and reads in two statements, like the real one."""

    def __init__(self, truth: Keys, chance: random.Random) -> None:
        self._truth = truth
        self._chance = chance
        self._revision = 0
        self._writing = asyncio.Lock()

    async def revoke(self, key_id: str) -> None:
        """Commit after a while; those that come meanwhile wait."""
        async with self._writing:
            await self._pause()
            self._revision += 1
            self._truth[key_id] = self._revision

    async def changes_after(self, revision: int | None) -> Changes:
        """Read the current revision, and then the keys, between which anything may be committed; or fail."""
        if self._chance.random() < 0.05:
            raise unavailable()
        present = self._revision
        await self._pause()
        if revision is None:
            return Changes(present, [])
        found = [Change(KeyId(key), at, is_revoked=True) for key, at in self._truth.items() if at > revision]
        return Changes(max([present, *(change.revision for change in found)]), found)

    async def _pause(self) -> None:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))])
async def test_watchers_that_restart_thousands_of_times_miss_none_of_thousands_of_revocations(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So few that watchers often lag behind what is kept in memory.
    monkeypatch.setattr(feed_module, "_RECENT_CHANGES_MAX", 8)
    chance = random.Random(seed)
    truth: Keys = {}
    store = TornStore(truth, chance)
    feeds = [ChangeFeed(store, clock=SystemClock()) for _ in range(2)]

    async def work() -> None:
        for number in range(1500):
            await store.revoke(f"key_{number}")
            chance.choice(feeds).notify()
            await asyncio.sleep(0.002 if number % 100 == 0 else 0)

    async with AsyncExitStack() as stack:
        for feed in feeds:
            await stack.enter_async_context(feed.running())
        watchers = await watch_while(work(), feeds, truth, chance, watchers=6)
    print("\nrestarts:", sum(one.restarts for one in watchers))
    assert sum(one.restarts for one in watchers) > 1000, "hardly any watcher was restarted, so this test shows nothing"


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_two_replicas_on_postgres_and_watchers_that_restart_miss_no_revocation(postgres_url: str) -> None:
    chance = random.Random(1)
    truth: Keys = {}
    async with replicas(postgres_url, count=2) as made:
        work = revoke_all(made, truth, chance, keys=300, at_once=8)
        watchers = await watch_while(work, [one.feed for one in made], truth, chance, watchers=6)
    assert len(truth) == 300
    assert sum(one.restarts for one in watchers) > 100, "hardly any watcher was restarted, so this test shows nothing"


@pytest.mark.timeout(60)
async def test_on_sqlite_watchers_that_restart_miss_no_revocation(tmp_path: Path) -> None:
    chance = random.Random(3)
    truth: Keys = {}
    async with replicas(f"sqlite:///{tmp_path}/auth.db", count=1) as made:
        work = revoke_all(made, truth, chance, keys=100, at_once=8)
        await watch_while(work, [made[0].feed], truth, chance, watchers=4)
    assert len(truth) == 100
