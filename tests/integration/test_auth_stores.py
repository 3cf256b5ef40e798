"""The SQL stores keep the contract on both databases."""

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, event, func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.auth.accounts.former_accounts import FormerAccounts
from services.auth.accounts.plan_event_store import SQLPlanEventStore
from services.auth.accounts.plan_store import SQLPlanStore
from services.auth.accounts.store import SQLAccountStore
from services.auth.db.records import SQLAuditLog, unavailable
from services.auth.db.tables import api_keys, former_accounts, key_revision, metadata, throttles
from services.auth.identities.store import SQLIdentityStore
from services.auth.keys.model import NewKey
from services.auth.keys.pepper import Pepper
from services.auth.keys.store import SQLKeyStore
from services.auth.mail.store import SQLMailQueue
from services.auth.server import MIGRATIONS, VERSION_TABLE
from services.auth.sessions.store import SQLExpiredRows, SQLRateLimitStore, SQLSessionStore
from services.auth.sessions.token_store import SQLOneTimeTokenStore
from services.auth.totp.store import SQLTOTPStore
from services.auth.watch.feed import Change
from services.common.concurrency.priority_lock import PriorityLock
from services.common.db import database
from services.common.db.transactions import Transactions
from services.common.errors import Unavailable
from tests.backends import fresh_database, run_apart
from tests.contracts.identity_stores import IdentityStoreContract
from tests.contracts.key_store import NOW, OPERATOR, PEPPER, KeyStoreContract, Stores, new_key
from tests.contracts.user_stores import ManualClock, UserStoreContract, World

FORMER = FormerAccounts(PEPPER)


@pytest.fixture(scope="session")
def migrated_database(postgres_server: str) -> Iterator[str]:
    """Yield the URL of a database with the schema, as a template to copy."""
    with fresh_database(postgres_server) as url:
        run_apart(migrate_auth(url))
        yield url


@pytest.fixture
def postgres_copy(postgres_server: str, migrated_database: str) -> Iterator[str]:
    """Yield the URL of a separate database with the schema."""
    with fresh_database(postgres_server, like=migrated_database) as url:
        yield url


class TestStoresOnSQLite(KeyStoreContract):
    @pytest.fixture
    async def stores(self, tmp_path: Path) -> AsyncIterator[Stores]:
        async with opened_stores(f"sqlite:///{tmp_path}/auth.db") as stores:
            yield stores


class TestStoresOnPostgres(KeyStoreContract):
    @pytest.fixture
    async def stores(self, postgres_copy: str) -> AsyncIterator[Stores]:
        async with opened_stores(postgres_copy) as stores:
            yield stores


class TestUserStoresOnSQLite(UserStoreContract, IdentityStoreContract):
    @pytest.fixture
    async def world(self, tmp_path: Path) -> AsyncIterator[World]:
        async with opened_world(f"sqlite:///{tmp_path}/auth.db") as world:
            yield world


class TestUserStoresOnPostgres(UserStoreContract, IdentityStoreContract):
    @pytest.fixture
    async def world(self, postgres_copy: str) -> AsyncIterator[World]:
        async with opened_world(postgres_copy) as world:
            yield world


async def test_the_migrations_make_the_tables_that_the_code_expects_on_sqlite(tmp_path: Path) -> None:
    assert await _differences(f"sqlite:///{tmp_path}/auth.db") == []


async def test_the_migrations_make_the_tables_that_the_code_expects_on_postgres(postgres_url: str) -> None:
    assert await _differences(postgres_url) == []


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/auth.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.mark.long
async def test_an_account_of_ten_thousand_keys_can_be_moved_to_a_plan_and_deleted(url: str) -> None:
    """Within the deadline of a write, which blocks other revocations."""
    keys = [new_key().key for _ in range(10_000)]
    async with _opened(url) as engine:
        transactions = Transactions(engine, unavailable=unavailable)
        stores = Stores(SQLAccountStore(transactions, FORMER), store := SQLKeyStore(transactions), store)
        account = await stores.account()
        async with engine.begin() as connection:
            await connection.execute(insert(api_keys), [_row(key, account.id) for key in keys])

        await stores.accounts.set_plan(account.id, "free", by=OPERATOR, at=NOW)
        await stores.accounts.delete(account.id, by=OPERATOR, at=NOW)

        reported = await stores.changes.changes_after(0)
        async with engine.connect() as connection:
            kept = select(func.count(api_keys.c.revision.distinct())).where(api_keys.c.revoked_at == NOW)
            assert await connection.scalar(kept) == len(keys), "a key is still active, or its change has no revision"
    assert reported.changes == [Change(None, reported.revision)], (
        "so many changes are not reported individually, which takes too long"
    )


@pytest.mark.parametrize("statements_before", [1, 2, 3])
async def test_a_change_committed_during_a_read_is_reported_now_or_by_the_next_read(
    tmp_path: Path, statements_before: int
) -> None:
    """A watch that resumes from the revision of a read must have received all changes before it."""
    async with _opened(f"sqlite:///{tmp_path}/auth.db") as engine:
        transactions = Transactions(engine, unavailable=unavailable)
        stores = Stores(SQLAccountStore(transactions, FORMER), store := SQLKeyStore(transactions), store)
        await stores.account()
        first, second = await stores.key(), await stores.key()
        await stores.keys.revoke(first.key.id, by=OPERATOR, at=NOW)  # At revision 3: there is something to read.
        _commit_amid(engine, statements_before, tmp_path / "auth.db", second.key.id)

        read = await stores.changes.changes_after(2)
        rest = await stores.changes.changes_after(read.revision)

    reported = {(change.key_id, change.revision) for change in [*read.changes, *rest.changes]}
    assert reported == {(first.key.id, 3), (None, 4), (second.key.id, 5)}, "a change was skipped"
    assert all(change.revision <= read.revision for change in read.changes)


def _commit_amid(engine: AsyncEngine, statements_before: int, file: Path, key_id: str) -> None:
    """Have a plan changed at revision 4 and a key at 5, after so many statements, by another connection."""
    executed = itertools.count(1)

    @event.listens_for(engine.sync_engine, "after_cursor_execute")
    def commit(*_: object) -> None:
        if next(executed) == statements_before:
            with contextlib.closing(sqlite3.connect(file)) as other, other:
                other.execute("UPDATE key_revision SET revision = 5, all_keys_revision = 4")
                other.execute("UPDATE api_keys SET revision = 5 WHERE id = ?", (key_id,))


@pytest.mark.long
async def test_an_attacks_leftovers_are_removed_in_steps_between_which_a_key_is_revoked(url: str) -> None:
    rows = [{"subject": f"{number:064}", "tries": 1, "window_ends_at": NOW} for number in range(100_000)]
    lasting = {"subject": "lasting", "tries": 1, "window_ends_at": NOW + timedelta(hours=1)}
    async with _opened(url) as engine:
        transactions = Transactions(engine, unavailable=unavailable)
        stores = Stores(SQLAccountStore(transactions, FORMER), store := SQLKeyStore(transactions), store)
        await stores.account()
        minted = await stores.key()
        async with engine.begin() as connection:
            await connection.execute(insert(throttles), [*rows, lasting])

        removing = asyncio.ensure_future(SQLExpiredRows(transactions).remove_expired(NOW))
        await stores.keys.revoke(minted.key.id, by=OPERATOR, at=NOW)
        assert not removing.done(), "the revocation waited for all of them"
        await removing

        async with engine.connect() as connection:
            left = list(await connection.scalars(select(throttles.c.subject)))
    assert left == ["lasting"]


async def test_keys_are_looked_up_and_revoked_while_sessions_use_all_their_connections_and_queue_to_write(
    url: str,
) -> None:
    async with _opened(url) as engine, database.open_second_engine(engine, connections=2) as session_engine:
        turns = PriorityLock()
        session_transactions = Transactions(session_engine, unavailable=unavailable, turns=turns, is_urgent=False)
        transactions = Transactions(engine, unavailable=unavailable, turns=turns)
        stores = Stores(SQLAccountStore(transactions, FORMER), store := SQLKeyStore(transactions), store)
        await stores.account()
        minted = await stores.key()
        release = asyncio.Event()
        rate_limits = SQLRateLimitStore(session_engine, session_transactions)

        async def read() -> None:
            async with session_transactions.reading() as connection:
                await connection.execute(select(key_revision))
                await release.wait()

        async def write(number: int) -> None:
            with contextlib.suppress(Unavailable):
                await rate_limits.count(f"{number}", window=timedelta(minutes=1), now=NOW)

        readers = [asyncio.ensure_future(read()) for _ in range(40)]
        writers = [asyncio.ensure_future(write(number)) for number in range(40)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(3):
            assert (await stores.keys.find(minted.key.digest)).key is not None
            await stores.keys.revoke(minted.key.id, by=OPERATOR, at=NOW)
            assert len((await stores.changes.changes_after(1)).changes) == 1
        assert sum(not writer.done() for writer in writers) > 20, "there was no queue"
        release.set()
        # SQLite's pool has a few connections more than configured; the others have waited too long for one.
        await asyncio.gather(*readers, *writers, return_exceptions=True)


async def test_a_deleted_accounts_mailbox_is_kept_as_a_keyed_digest_until_it_expires(tmp_path: Path) -> None:
    async with _opened(f"sqlite:///{tmp_path}/auth.db") as engine:
        transactions = Transactions(engine, unavailable=unavailable)
        stores = Stores(SQLAccountStore(transactions, FORMER), store := SQLKeyStore(transactions), store)
        account = await stores.account()
        await stores.accounts.delete(account.id, by=OPERATOR, at=NOW)
        async with engine.connect() as connection:
            (row,) = (await connection.execute(select(former_accounts))).all()

        for remains in (row.expires_at - timedelta(seconds=1), row.expires_at):
            await SQLExpiredRows(transactions).remove_expired(remains)
            async with engine.connect() as connection:
                left = len((await connection.execute(select(former_accounts))).all())
            assert left == (remains < row.expires_at)

    assert row.digest == PEPPER.digest(f"former account {account.email}")
    assert (row.quota_account_id, row.expires_at) == (account.id, datetime(2026, 8, 2, 1, tzinfo=UTC))


async def test_a_deleted_account_is_recognized_after_its_pepper_was_replaced(tmp_path: Path) -> None:
    async with _opened(f"sqlite:///{tmp_path}/auth.db") as engine:
        transactions = Transactions(engine, unavailable=unavailable)
        keys = SQLKeyStore(transactions)
        stores = Stores(SQLAccountStore(transactions, FORMER), keys, keys)
        first, second = await stores.account(), await stores.account("bob@example.com")
        for account in (first, second):
            await stores.accounts.delete(account.id, by=OPERATOR, at=NOW)

        replaced = FormerAccounts(Pepper(b"new"), accepted=[PEPPER])
        again = await Stores(SQLAccountStore(transactions, replaced), keys, keys).account()
        unknown = FormerAccounts(Pepper(b"new"))
        fresh = await Stores(SQLAccountStore(transactions, unknown), keys, keys).account("bob@example.com")

        assert (await stores.accounts.get(again.id)).quota_account_id == first.id
        assert (await stores.accounts.get(fresh.id)).quota_account_id is None


def _row(key: NewKey, account_id: str) -> dict[str, object]:
    kept = ("id", "name", "prefix", "digest", "pepper_id", "created_at")
    return {"account_id": account_id, "revision": 0, **{column: getattr(key, column) for column in kept}}


async def migrate_auth(url: str) -> None:
    """Bring a database's schema up to date."""
    await database.migrate(url, migrations=MIGRATIONS, version_table=VERSION_TABLE)


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[AsyncEngine]:
    await migrate_auth(url)
    async with database.open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE) as engine:
        yield engine


@asynccontextmanager
async def opened_stores(url: str) -> AsyncIterator[Stores]:
    async with database.open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE) as engine:
        transactions = Transactions(engine, unavailable=unavailable)
        keys = SQLKeyStore(transactions)
        yield Stores(SQLAccountStore(transactions, FORMER), keys, keys)


@asynccontextmanager
async def opened_world(url: str) -> AsyncIterator[World]:
    async with database.open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE) as engine:
        transactions = Transactions(engine, unavailable=unavailable)
        yield World(
            SQLAccountStore(transactions, FORMER),
            SQLKeyStore(transactions),
            SQLSessionStore(transactions),
            SQLOneTimeTokenStore(transactions),
            (SQLRateLimitStore(engine, transactions), SQLRateLimitStore(engine, transactions)),
            SQLPlanStore(transactions),
            SQLPlanEventStore(transactions),
            SQLMailQueue(transactions),
            SQLAuditLog(transactions),
            SQLIdentityStore(transactions),
            SQLTOTPStore(transactions),
            ManualClock(),
        )


async def _differences(url: str) -> list[object]:
    def compare(connection: Connection) -> list[object]:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    await migrate_auth(url)
    async with (
        database.open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE) as engine,
        engine.connect() as connection,
    ):
        return await connection.run_sync(compare)
