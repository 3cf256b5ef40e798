"""Every client of the matrix; its program runs in a separate environment, against one stack."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from tests.clients.node import npm
from tests.e2e.stack import Key, Stack

_ROOT = Path(__file__).parents[2]
_PROGRAM_SECONDS = 90
_LOG_SECONDS = 5
_COMMON = ("create", "stream", "tools", "tools_streamed", "structured", "wrong_key", "exhausted", "upstream_503", "cut")


@dataclass(frozen=True)
class Client:
    """One version of one client package."""

    name: str
    version: str
    """Prefix of the version that its set pins; the versions of `current` are also ours."""
    environment: str
    """The set in requirements/clients-*.lock, or `node`."""
    program: str
    extra: tuple[str, ...] = ("models",)
    """What it supports in addition to the common scenarios."""

    def __str__(self) -> str:
        """Return the name, for the ids of tests."""
        return self.name

    @property
    def is_node(self) -> bool:
        """Whether the client runs in Node."""
        return self.environment == "node"

    @property
    def command(self) -> list[str]:
        """The interpreter of its program."""
        if self.is_node:
            return [npm.node(), str(npm.FOLDER / self.program)]
        python = _ROOT / ".venv-clients" / self.environment / "bin" / "python"
        return [str(python), "-m", f"tests.clients.programs.{self.program}"]

    @property
    def scenarios(self) -> tuple[str, ...]:
        """The scenarios that its program runs."""
        return (*_COMMON, *self.extra)


CLIENTS = (
    Client("openai-2", "2.54.", "openai2", "openai_package"),
    Client("openai-3", version("openai"), "current", "openai_package"),
    Client("groq-0.37", "0.37.", "groq0", "groq_package"),
    Client("groq-1", version("groq"), "current", "groq_package"),
    Client("langchain-openai", "1.", "openai2", "langchain_openai_package", ("structured_by_tool",)),
    Client("langchain-groq", "1.", "groq0", "langchain_groq_package", ("structured_by_tool",)),
    Client("node-openai", "7.", "node", "openai.js"),
    Client("node-groq-sdk", "1.", "node", "groq.js"),
)


def clients_that(scenario: str) -> list[Client]:
    """Return the clients that support something which not all do."""
    return [client for client in CLIENTS if scenario in client.extra]


@dataclass(frozen=True)
class Run:
    """One client's observations, and the stack's."""

    client: Client
    stack: Stack
    keys: dict[str, Key]
    """The key of each scenario; that of `wrong_key` is unknown to the stack."""
    report: dict[str, Any]
    stderr: str
    chats: tuple[int, ...]
    """The status of every chat request that reached the gateway, in their order."""

    @property
    def version(self) -> str:
        """Which version of the client ran."""
        return str(self.report["version"])

    def seen(self, scenario: str) -> dict[str, Any]:
        """Return the client's observations in a scenario."""
        assert scenario in self.report, self.stderr
        seen: dict[str, Any] = self.report[scenario]
        return seen

    async def ledger(self, scenario: str) -> list[tuple[str, int]]:
        """Return the outcome of each request of a scenario and whether it was charged, once all is settled.

        Redis must agree with the ledger on the charges.
        """
        key = self.keys[scenario]
        charged, _ = await self.stack.until_settled(key)
        rows = [(row["outcome"], row["charged"]) for row in self.stack.ledger(key)]
        assert charged == sum(each for _, each in rows), rows
        return rows


class Matrix:
    """Runs the programs one after another, each once, so that the gateway's log shows which client sent each
    request.
    """

    def __init__(self, stack: Stack) -> None:
        """Run them against `stack`."""
        self._stack = stack
        self._runs: dict[Client, Run] = {}

    def run(self, client: Client) -> Run:
        """Return a client's observations, from its only run."""
        if client not in self._runs:
            self._runs[client] = self._run(client)
        return self._runs[client]

    def _run(self, client: Client) -> Run:
        keys = asyncio.run(self._create_keys(client))
        order = {"base_url": self._stack.base_url, "keys": {name: key.secret for name, key in keys.items()}}
        self._mark(client, "begins")
        done = subprocess.run(
            client.command,
            input=json.dumps(order),
            cwd=_ROOT,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=_PROGRAM_SECONDS,
        )
        self._mark(client, "ends")
        assert done.returncode == 0, done.stderr
        return Run(client, self._stack, keys, json.loads(done.stdout), done.stderr, tuple(self._chats(client)))

    async def _create_keys(self, client: Client) -> dict[str, Key]:
        """Create a key for each scenario, so that each has separate counters and ledger rows."""
        keys = {
            name: await self._stack.create_key(daily_limit=1 if name == "exhausted" else None)
            for name in client.scenarios
            if name != "wrong_key"
        }
        return {**keys, "wrong_key": Key("", "sk_stk_wrong")}

    def _mark(self, client: Client, moment: str) -> None:
        """Leave a marker in the gateway's log, which has one line per request, written after its answer."""
        httpx.get(self._stack.base_url + _mark(client, moment), trust_env=False)
        deadline = time.monotonic() + _LOG_SECONDS
        while _mark(client, moment) not in self._stack.log("gateway-1"):
            assert time.monotonic() < deadline, "the gateway logs no requests"
            time.sleep(0.02)

    def _chats(self, client: Client) -> Iterator[int]:
        lines = self._stack.log("gateway-1").splitlines()
        requests = [json.loads(line) for line in lines if '"path"' in line]
        paths = [request["path"] for request in requests]
        first, last = paths.index(_mark(client, "begins")), paths.index(_mark(client, "ends"))
        return (request["status"] for request in requests[first:last] if request["method"] == "POST")


def _mark(client: Client, moment: str) -> str:
    return f"/{client.name}-{moment}"


def _environment() -> dict[str, str]:
    """Return an environment without variables that would configure a client differently."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
