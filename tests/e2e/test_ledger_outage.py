"""The outage table's row of the ledger's database: a real Postgres that stops and restarts."""

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import asyncpg
import httpx
import pytest

from tests.e2e.stack import Key, Stack, bare_environment, running_stack, say
from tests.faults.postgres import Postgres, running_postgres
from tests.forked import run_module
from tests.ports import free_port

pytestmark = pytest.mark.xdist_group("outages")


@dataclass(frozen=True)
class World:
    """A stack over a Postgres."""

    stack: Stack
    postgres: Postgres

    async def ask(self, key: Key) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            return await client.post(f"{self.stack.base_url}/api/v1/chat", headers=key.headers, json=say("hi"))

    async def rows(self, key: Key) -> list[asyncpg.Record]:
        return await self.postgres.fetch("ledger", "SELECT * FROM usage_ledger WHERE key_id = $1", key.id)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Yield a stack whose ledger is in Postgres; auth stays on SQLite."""
    with running_postgres(free_port()) as postgres:
        asyncio.run(postgres.until_it_answers())
        asyncio.run(postgres.fetch("postgres", "CREATE DATABASE ledger"))
        url = postgres.url("ledger")
        environment = {**bare_environment(), "INFERENCE_DATABASE_URL": url, "GROQ_API_KEY": "gsk_unused"}
        assert run_module("services.inference", "migrate", environment=environment).returncode == 0
        with running_stack(
            INFERENCE_DATABASE_URL=url,
            INFERENCE_LEDGER_WAIT_SECONDS="0.5",
            INFERENCE_LEDGER_ROWS_MAX="2",
            QUOTA_HOLD_SECONDS="3",
            QUOTA_SWEEP_SECONDS="0.2",
            REQUEST_TIMEOUT_SECONDS="2.5",
        ) as stack:
            yield World(stack, postgres)


@pytest.mark.long
async def test_answers_continue_up_to_the_bound_of_unwritten_rows_and_every_row_is_written_later(world: World) -> None:
    key, unused = await world.stack.create_key(), await world.stack.create_key()
    assert (await world.ask(key)).status_code == 200
    await world.stack.until_settled(key)
    world.postgres.stop_at_once()

    started = time.monotonic()
    assert [(await world.ask(key)).status_code for _ in range(2)] == [200, 200], "answers wait, then are sent"
    assert time.monotonic() - started < 4
    refused = await world.ask(key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "ledger_unavailable")
    first_of_the_day = await world.ask(unused)
    assert (first_of_the_day.status_code, first_of_the_day.json()["error"]["code"]) == (503, "quota_unavailable")

    world.postgres.start()
    await world.postgres.until_it_answers()
    async with asyncio.timeout(10):
        while len(await world.rows(key)) < 3:
            await asyncio.sleep(0.05)
    assert await world.stack.until_settled(key) == (3, 0), "the sweeper charges what was sent without a verdict"
    assert all(row["charged"] and row["usage_source"] == "reported" for row in await world.rows(key))
    assert (await world.ask(unused)).status_code == 200


def test_a_missing_database_is_reported_by_the_migration_in_one_sentence() -> None:
    environment = {
        **os.environ,
        "INFERENCE_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{free_port()}/none",
        "GROQ_API_KEY": "gsk_unused",
    }
    done = run_module("services.inference", "migrate", environment=environment)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "database" in done.stderr
