"""Auth and the ledger on a Postgres behind PgBouncer in transaction mode."""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.common.db import database
from services.inference.ledger.store import SQLLedgerStore
from services.inference.server import MIGRATIONS, VERSION_TABLE
from tests.contracts.key_store import KeyStoreContract, Stores
from tests.contracts.ledger_store import LedgerStoreContract
from tests.contracts.user_stores import UserStoreContract, World
from tests.e2e.stack import Key, Stack, bare_environment, connector, running_stack, say
from tests.integration.test_auth_stores import migrate_auth, opened_stores, opened_world

_ROOT = Path(__file__).parents[2]
_SECRETS = {"AUTH_KEY_PEPPER": "pepper-of-the-pgbouncer-tests" * 2, "STACK_ADMIN_TOKEN": "admin-token-of-the-tests"}


class TestKeysBehindPgBouncer(KeyStoreContract):
    @pytest.fixture
    async def stores(self, bounced_url: str) -> AsyncIterator[Stores]:
        await migrate_auth(bounced_url)
        async with opened_stores(bounced_url) as stores:
            yield stores


class TestUserStoresBehindPgBouncer(UserStoreContract):
    @pytest.fixture
    async def world(self, bounced_url: str) -> AsyncIterator[World]:
        await migrate_auth(bounced_url)
        async with opened_world(bounced_url) as world:
            yield world


class TestLedgerBehindPgBouncer(LedgerStoreContract):
    @pytest.fixture
    async def store(self, bounced_url: str) -> AsyncIterator[SQLLedgerStore]:
        await database.migrate(bounced_url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
        async with database.open_database(bounced_url, migrations=MIGRATIONS, version_table=VERSION_TABLE) as engine:
            yield SQLLedgerStore(engine)


@pytest.fixture
def bounced_stack(bounced_url: str) -> Iterator[Stack]:
    """Yield the four services with one database, which both may share, through PgBouncer."""
    environment: dict[str, Any] = {**_SECRETS, "AUTH_DATABASE_URL": bounced_url, "INFERENCE_DATABASE_URL": bounced_url}
    for service in ("auth", "inference"):
        migrate = [sys.executable, "-m", f"services.{service}", "migrate"]
        given = {**bare_environment(), **environment, "GROQ_API_KEY": "gsk_none"}
        subprocess.run(migrate, cwd=_ROOT, env=given, check=True, timeout=60)
    with running_stack(**environment) as stack:
        yield stack


async def test_concurrent_chats_and_reads_all_succeed(bounced_stack: Stack) -> None:
    keys = [await bounced_stack.create_key() for _ in range(10)]
    async with aiohttp.ClientSession(connector=connector(60)) as session:
        chats = [_status(session, bounced_stack, key, chat=True) for key in keys for _ in range(20)]
        reads = [_status(session, bounced_stack, key, chat=False) for key in keys for _ in range(20)]
        statuses = Counter(await asyncio.gather(*chats, *reads))
    assert statuses == {200: 400}


async def _status(session: aiohttp.ClientSession, stack: Stack, key: Key, *, chat: bool) -> int:
    url = f"{stack.base_url}/api/v1/{'chat' if chat else 'usage'}"
    body = say("hi") if chat else None
    async with session.request("POST" if chat else "GET", url, headers=key.headers, json=body) as response:
        await response.read()
        return response.status
