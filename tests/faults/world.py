"""The stack under fault injection: services or workers, Valkey, the stand-in, and Postgres below the services."""

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from grpc import StatusCode, aio

from services.common.rpc.channel import open_channel
from stack.quota.v1 import quota_pb2, quota_pb2_grpc
from tests.e2e.stack import Key, Stack, bare_environment, stack_folder, started
from tests.faults.postgres import Postgres, running_postgres
from tests.faults.schedule import Layout
from tests.faults.valkey import Valkey
from tests.forked import run_module
from tests.ports import free_port

_ACCOUNT_LIMIT = 10**9
_LIMITS = ("account:tokens:day=1000000000000", "account:tokens:minute=1000000000000", "account:cost:month=$100000000")
HOLD_SECONDS = 3.0
REQUEST_SECONDS = 2
RECOVERED_SECONDS_MAX = 5.0
"""Longest wait until everything works together again after a restart."""
_TIMES = {
    # Under a hold's lifetime.
    "REQUEST_TIMEOUT_SECONDS": str(REQUEST_SECONDS),
    # Occasionally exceeded by a stream that Groq answers later: the client gets 504, the row comes when Groq is done.
    "INFERENCE_FIRST_BYTE_TIMEOUT_SECONDS": "0.6",
    "INFERENCE_IDLE_TIMEOUT_SECONDS": "0.6",
    # The failures that seeds request of Groq must not cool down the one shared key.
    "INFERENCE_KEY_COOLDOWN_SECONDS_MAX": "0",
    "INFERENCE_LEDGER_WAIT_SECONDS": "0.4",
    "GATEWAY_QUOTA_TIMEOUT_SECONDS": "0.6",
    "GATEWAY_AUTH_TIMEOUT_SECONDS": "1",
    "QUOTA_REDIS_TIMEOUT_SECONDS": "0.5",
    "QUOTA_HOLD_SECONDS": str(HOLD_SECONDS),
    "QUOTA_SWEEP_SECONDS": "0.2",
    "QUOTA_RECONCILE_SECONDS": "0.5",
}
_SECRETS = {
    "AUTH_KEY_PEPPER": "a-pepper-for-the-fault-suite-and-nothing-else",
    "STACK_ADMIN_TOKEN": "an-admin-token-for-the-fault-suite",
    "INFERENCE_RESPONSES_SECRETS": "5ec7e7" * 10 + "5ec7",
}


@dataclass(frozen=True, slots=True)
class Row:
    """The columns of a ledger row that the checks read."""

    request_id: str
    key_id: str
    day: str
    reserved_at: float
    stream: bool
    surface: str | None
    """None for a row that the sweeper wrote, which does not know the surface."""
    outcome: str
    charged: bool
    refund_reason: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    usage_source: str
    upstream_id: str
    attempts: int
    charged_tokens: int | None
    """Tokens that count against limits; None means all."""


class World:
    """A running stack whose parts can be broken, and the records of its parts."""

    def __init__(self, stack: Stack, valkey: Valkey, postgres: Postgres | None) -> None:
        self.stack = stack
        self.valkey = valkey
        self._postgres = postgres
        self._paused: set[str] = set()
        self.old_rows = 0
        """Old rows that were added, whether retention has removed them or not."""

    @property
    def has_postgres(self) -> bool:
        """Whether the databases are on Postgres."""
        return self._postgres is not None

    @property
    def postgres(self) -> Postgres:
        """The databases' server."""
        assert self._postgres is not None, "workers keep all in SQLite files"
        return self._postgres

    # Breaking and repairing. Programs are started in the main thread: they end with the thread that started them.

    def pause(self, name: str) -> None:
        """Freeze a program."""
        self._paused.add(name)
        self.stack.signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Resume a frozen program."""
        if name in self._paused:
            self._paused.discard(name)
            self.stack.signal(name, signal.SIGCONT)

    async def repair(self) -> None:
        """Restart everything and wait until it answers."""
        for name in tuple(self._paused):
            self.resume(name)
        if self._postgres is not None:
            self._postgres.resume()
            self._postgres.start()
            await self._postgres.until_it_answers()
        self.valkey.clock.set(0)
        await self.stack.start_missing()

    # Observed state.

    async def rows(self, keys: Sequence[Key]) -> list[Row]:
        """Return the ledger rows of keys."""
        if self._postgres is None:
            return [_row(one) for key in keys for one in await asyncio.to_thread(self.stack.ledger, key)]
        query = f"SELECT {', '.join(Row.__slots__)} FROM usage_ledger WHERE key_id = ANY($1) ORDER BY request_id"
        return [Row(*one) for one in await self._postgres.fetch("ledger", query, [key.id for key in keys])]

    async def clear_journal(self) -> None:
        """Clear the stand-in's journal."""
        async with httpx.AsyncClient(trust_env=False) as client:
            (await client.delete(f"{self.stack.standin_url}/journal")).raise_for_status()

    async def change_model_list(self, kind: str) -> None:
        """Make the stand-in answer this for the model list."""
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.put(f"{self.stack.standin_url}/model-list", params={"answer": kind})
            answer.raise_for_status()

    async def discrepancies(self) -> list[quota_pb2.Discrepancy]:
        """Return the discrepancies that quota reports."""
        async with open_channel(f"unix:{self.stack.folder}/quota-1.sock") as channel:
            quota = quota_pb2_grpc.QuotaServiceStub(channel)
            async with asyncio.timeout(RECOVERED_SECONDS_MAX):
                while True:
                    try:
                        response = await quota.Verify(quota_pb2.VerifyRequest(), timeout=10)
                        return list(response.discrepancies)
                    except aio.AioRpcError as exc:
                        # It may not have reconnected to a part that was just started.
                        if exc.code() is not StatusCode.UNAVAILABLE:
                            raise
                        await asyncio.sleep(0.1)


@contextmanager
def running_world(layout: Layout) -> Iterator[World]:
    """Run a world for the block."""
    running = _running_workers if layout is Layout.WORKERS else _running_services
    with running() as world:
        try:
            yield world
        finally:
            asyncio.run(world.repair())


@contextmanager
def _running_services() -> Iterator[World]:
    with running_postgres(free_port()) as postgres:
        urls = {
            "AUTH_DATABASE_URL": postgres.url("auth"),
            "INFERENCE_DATABASE_URL": postgres.url("ledger"),
        }
        asyncio.run(_create_databases(postgres))
        for service in ("auth", "inference"):
            _migrate(service, urls)
        environment = {**_TIMES, **_SECRETS, **urls, **_extra()}
        with stack_folder() as folder:
            valkey = Valkey(folder)
            stack = Stack(
                folder,
                gateways=2,
                quotas=2,
                environment=environment,
                valkey_options=valkey.options,
                stores_responses=True,
            )
            with _started(stack, valkey):
                yield World(stack, valkey, postgres)


@contextmanager
def _running_workers() -> Iterator[World]:
    environment = {**_TIMES, **_SECRETS, **_extra()}
    with stack_folder() as folder:
        valkey = Valkey(folder)
        stack = Stack(
            folder,
            gateways=2,
            workers=2,
            environment=environment,
            valkey_options=valkey.options,
            stores_responses=True,
        )
        with _started(stack, valkey):
            yield World(stack, valkey, None)


@contextmanager
def _started(stack: Stack, valkey: Valkey) -> Iterator[None]:
    valkey.clock.prepare(stack)
    try:
        with started(stack):
            # All seeds use one account, whose limit would end a long run.
            asyncio.run(stack.set_plan("free", daily_limit=1_000, account_daily_limit=_ACCOUNT_LIMIT, limits=_LIMITS))
            yield
    finally:
        valkey.end_replica()


async def _create_databases(postgres: Postgres) -> None:
    await postgres.until_it_answers()
    for database in ("auth", "ledger"):
        await postgres.fetch("postgres", f"CREATE DATABASE {database}")


def _migrate(service: str, urls: Mapping[str, str]) -> None:
    environment = {**bare_environment(), **_SECRETS, **urls, "GROQ_API_KEY": "gsk_none"}
    done = run_module(f"services.{service}", "migrate", environment=environment)
    assert done.returncode == 0, done.stderr


def _extra() -> dict[str, str]:
    """Return the log level in `FAULT_LOG_LEVEL`, for a closer look at a failing seed."""
    return {"LOG_LEVEL": os.environ.get("FAULT_LOG_LEVEL", "INFO")}


def _row(found: Mapping[str, Any]) -> Row:
    """Return a row of SQLite, which has numbers for booleans."""
    values = {name: found[name] for name in Row.__slots__}
    return Row(**{**values, "stream": bool(found["stream"]), "charged": bool(found["charged"])})
