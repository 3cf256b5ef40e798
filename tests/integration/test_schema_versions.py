"""Schemas and programs of two versions: during a roll-out, and after a rollback."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from services.common.db.database import migrate, open_database
from services.common.errors import StartError
from services.inference.chat import Outcome
from services.inference.ledger.store import SQLLedgerStore
from services.inference.server import MIGRATIONS, VERSION_TABLE
from tests.backends import execute

_ROW = {
    "request_id": "req_1",
    "account_id": "acc_1",
    "key_id": "key_1",
    "day": "2026-08-02",
    "model": "m",
    "upstream_model": "m",
    "stream": False,
    "outcome": "answered",
    "charged": True,
    "refund_reason": "",
    "usage_source": "reported",
    "upstream_id": "",
}
_COLUMNS_OF_0003 = (
    *("reserved_at", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens"),
    *("attempts", "time_to_first_token_ms", "duration_ms"),
)


async def _opens(url: str, *, within_seconds: float) -> bool:
    try:
        async with (
            asyncio.timeout(within_seconds),
            open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE),
        ):
            return True
    except TimeoutError:
        return False


async def test_a_replica_waits_until_the_migration_of_its_version_is_done(postgres_url: str) -> None:
    assert not await _opens(postgres_url, within_seconds=1)

    await migrate(postgres_url, migrations=MIGRATIONS, version_table=VERSION_TABLE)

    assert await _opens(postgres_url, within_seconds=10)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    return f"sqlite:///{tmp_path}/ledger.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.mark.parametrize("surface", [None, "of a later version"])
async def test_rows_of_the_previous_and_of_a_later_version_have_no_surface(url: str, surface: str | None) -> None:
    """The previous version inserts no surface while the next one is rolled out; a later one may know more of them."""
    await migrate(url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
    stored = dict.fromkeys(_COLUMNS_OF_0003, 0) | _ROW
    if surface:
        stored["surface"] = surface
    async with open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE) as engine:
        async with engine.begin() as connection:
            names = ", ".join(stored)
            values = ", ".join(f":{name}" for name in stored)
            await connection.execute(text(f"INSERT INTO usage_ledger ({names}) VALUES ({values})"), stored)
        row = await SQLLedgerStore(engine).find("req_1")

    assert row is not None
    assert (row.outcome, row.surface) == (Outcome.ANSWERED, None)


@pytest.mark.parametrize(("revision", "opens"), [("9999", True), ("0001", False)])
async def test_a_schema_of_a_later_version_is_accepted_and_one_of_an_earlier_version_is_not(
    postgres_url: str, revision: str, opens: bool
) -> None:
    """A replica of the old version that is rescheduled during a roll-out must start."""
    await migrate(postgres_url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
    execute(postgres_url, f"UPDATE {VERSION_TABLE} SET version_num = '{revision}'")

    assert await _opens(postgres_url, within_seconds=10 if opens else 1) is opens


async def test_a_rollback_migrates_nothing_and_serves_on_postgres(postgres_url: str) -> None:
    """The Job of the older version is applied again, over the schema of the newer one."""
    await migrate(postgres_url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
    execute(postgres_url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")

    await migrate(postgres_url, migrations=MIGRATIONS, version_table=VERSION_TABLE)

    assert await _opens(postgres_url, within_seconds=10)


async def test_a_rollback_migrates_nothing_and_serves_on_sqlite(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    assert await _opens(url, within_seconds=10)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database, database:
        database.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")

    assert await _opens(url, within_seconds=10)

    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database:
        assert database.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchall() == [("9999",)]


async def test_the_url_of_a_hosted_postgres_may_say_sslmode(postgres_url: str) -> None:
    """As in libpq; a server that must encrypt and cannot is refused instead of used without."""
    await migrate(f"{postgres_url}?sslmode=disable", migrations=MIGRATIONS, version_table=VERSION_TABLE)

    assert await _opens(f"{postgres_url}?sslmode=prefer", within_seconds=10)
    with pytest.raises(StartError, match="SSL"):
        await migrate(f"{postgres_url}?sslmode=require", migrations=MIGRATIONS, version_table=VERSION_TABLE)
