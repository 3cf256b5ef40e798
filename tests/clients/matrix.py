"""Every client of the matrix; its program runs in a separate environment, against one stack."""

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.clients.gateway_log import recorded
from tests.clients.node import npm
from tests.e2e.stack import Key, Stack

_ROOT = Path(__file__).parents[2]
_PROGRAM_SECONDS = 90
_COMMON = (
    *("create", "stream", "tool", "tool_streamed", "tools", "history", "structured", "image"),
    *("wrong_key", "exhausted", "upstream_503", "cut"),
)
_CASES = ("text", "stream", "tools", "history", "structured", "image", "cut", "exhausted")
_ENGINE_CASES = tuple(case for case in _CASES if case != "structured")
_COMPLETION_CASES = ("text", "stream", "cut", "exhausted")


@dataclass(frozen=True)
class Client:
    """One version of one client package."""

    name: str
    version: str
    """Prefix of the version that its set pins; the versions of `current` are also ours."""
    environment: str
    """The set in requirements/clients-*.lock, or a folder of Node packages: `node` or `librechat`."""
    program: str
    """The program, with an argument after a space if it has one."""
    extra: tuple[str, ...] = ("models",)
    """What it supports in addition to the common scenarios."""
    common: tuple[str, ...] = _COMMON
    """The common scenarios of its surface."""
    attempts_at_the_limit: int = 1
    """Its requests until it reports the daily limit. More than one are its own decision, named at the client."""
    keeps_reasoning: bool = True
    """Whether it sends reasoning back with tool results."""
    sees_a_cut: bool = True
    """Whether a cut stream is an error to it."""
    stores: bool = False
    """Whether its stack stores responses."""
    notes: Mapping[str, str] = field(default_factory=dict, hash=False)
    """By case, for the table of docs/clients.md: what the client itself does, or why it has no such case."""

    def __str__(self) -> str:
        """Return the name, for the ids of tests."""
        return self.name

    @property
    def node_folder(self) -> Path | None:
        """The folder of its program and packages, if the client runs in Node."""
        folder = npm.FOLDER.with_name(self.environment)
        return folder if folder.exists() else None

    @property
    def command(self) -> list[str]:
        """The command line of its program."""
        program, *arguments = self.program.split()
        if self.node_folder:
            return [npm.node(), str(self.node_folder / program), *arguments]
        python = _ROOT / ".venv-clients" / self.environment / "bin" / "python"
        return [str(python), "-m", f"tests.clients.programs.{program}", *arguments]

    @property
    def scenarios(self) -> tuple[str, ...]:
        """The scenarios that its program runs."""
        return (*self.common, *self.extra)


CLIENTS = (
    Client("openai-2", "2.54.", "openai2", "openai_package"),
    Client("openai-3", version("openai"), "current", "openai_package"),
    Client("groq-0.37", "0.37.", "groq0", "groq_package"),
    Client("groq-1", version("groq"), "current", "groq_package"),
    # LangChain's packages drop the reasoning of chat completions.
    Client(
        "langchain-openai", "1.", "openai2", "langchain_openai_package", ("structured_by_tool",), keeps_reasoning=False
    ),
    Client("langchain-groq", "1.", "groq0", "langchain_groq_package", ("structured_by_tool",), keeps_reasoning=False),
    Client("node-openai", "7.", "node", "openai.js"),
    Client("node-groq-sdk", "1.", "node", "groq.js"),
)
"""Clients of chat completions."""


_REPEATS = {
    "exhausted": "The AI SDK repeats every 429 twice: `isRetryable` of its `APICallError` looks only at the status. "
    "`maxRetries: 0` prevents it.",
}
_MISSES_A_CUT = {
    "cut": "Agent Framework treats `response.failed` like an ordinary end. Only the answer's `finish_reason`, which is "
    "then `None`, shows the failure.",
}


def _surface_client(name: str, version: str, environment: str, program: str, **facts: Any) -> Client:
    return Client(name, version, environment, program, **{"extra": (), "common": _CASES, **facts})


SURFACE_CLIENTS = (
    _surface_client("responses-openai", "3.57.", "surfaces", "openai_responses"),
    _surface_client("responses-openai-agents", "0.24.", "surfaces", "openai_agents_package"),
    _surface_client("responses-pydantic-ai", "2.68.", "surfaces", "pydantic_ai_package responses"),
    _surface_client(
        "responses-agent-framework",
        "1.17.",
        "surfaces",
        "agent_framework_package",
        sees_a_cut=False,
        notes=_MISSES_A_CUT,
    ),
    _surface_client(
        "responses-agent-framework-defaults",
        "1.17.",
        "surfaces",
        "agent_framework_package stored",
        sees_a_cut=False,
        notes=_MISSES_A_CUT,
        stores=True,
    ),
    _surface_client("responses-langchain", "1.7.", "surfaces", "langchain_surfaces responses"),
    _surface_client("responses-node-openai", "7.59.", "node", "responses.js"),
    _surface_client("responses-node-agents", "0.20.", "node", "agents.js"),
    # The AI SDK's provider for OpenAI requests encrypted reasoning only from OpenAI's own models, and drops other
    # reasoning.
    _surface_client(
        "responses-ai-sdk-openai",
        "4.0.",
        "node",
        "ai.js @ai-sdk/openai",
        attempts_at_the_limit=3,
        notes=_REPEATS,
        keeps_reasoning=False,
    ),
    # With its defaults, it refers to what is stored, reasoning included.
    _surface_client(
        "responses-ai-sdk-openai-defaults",
        "4.0.",
        "node",
        "ai.js @ai-sdk/openai stored",
        attempts_at_the_limit=3,
        notes=_REPEATS,
        stores=True,
    ),
    _surface_client(
        "responses-ai-sdk-open-responses",
        "2.0.",
        "node",
        "ai.js @ai-sdk/open-responses",
        attempts_at_the_limit=3,
        notes=_REPEATS,
    ),
    _surface_client("messages-anthropic", "2.14.", "surfaces", "anthropic_package"),
    _surface_client("messages-pydantic-ai", "2.68.", "surfaces", "pydantic_ai_package messages"),
    _surface_client("messages-langchain", "1.7.", "surfaces", "langchain_surfaces messages"),
    _surface_client("messages-node-anthropic", "1.14.", "node", "anthropic.js"),
    _surface_client(
        "messages-ai-sdk", "4.0.", "node", "ai.js @ai-sdk/anthropic", attempts_at_the_limit=3, notes=_REPEATS
    ),
    _surface_client(
        "chat-librechat",
        "3.9.",
        "librechat",
        "librechat.js",
        common=_ENGINE_CASES,
        keeps_reasoning=False,
        notes={"structured": "LibreChat requests no schemas."},
    ),
    _surface_client(
        "completions-llama-index",
        "0.8.",
        "openai2",
        "llama_index_package",
        common=_COMPLETION_CASES,
        notes=dict.fromkeys(("tools", "history", "structured", "image"), "`/v1/completions` has only text.")
        | {"exhausted": "With `max_retries=1`: by default, LlamaIndex repeats every 429 after up to two minutes."},
    ),
)
"""Clients of the other surfaces."""


def clients_that(scenario: str) -> list[Client]:
    """Return the clients of all surfaces that run a scenario."""
    return [client for client in (*CLIENTS, *SURFACE_CLIENTS) if scenario in client.scenarios]


def surface_clients_that(scenario: str) -> list[Client]:
    """Return the clients of the other surfaces that run a scenario."""
    return [client for client in SURFACE_CLIENTS if scenario in client.scenarios]


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
    """The status of every POST request that reached the gateway, in their order."""

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

    async def requests_at_groq(self, scenario: str) -> list[dict[str, Any]]:
        """Return the bodies that Groq received in a scenario: those whose prompt names the scenario's key."""
        case = self.keys[scenario].secret[-12:]
        return [entry["request"] for entry in await self.stack.journal() if case in json.dumps(entry["request"])]


class Matrix:
    """Runs the programs one after another, each once, so that the gateway's log shows which client sent each
    request.
    """

    def __init__(self, stack: Stack, storing: Callable[[], Stack]) -> None:
        """Run them against `stack`, or against `storing()` if they need stored responses."""
        self._stack = stack
        self._storing = storing
        self._runs: dict[Client, Run] = {}

    def run(self, client: Client) -> Run:
        """Return a client's observations, from its only run."""
        if client not in self._runs:
            self._runs[client] = self._run(client)
        return self._runs[client]

    def _run(self, client: Client) -> Run:
        stack = self._storing() if client.stores else self._stack
        keys = asyncio.run(_create_keys(client, stack))
        order = {"base_url": stack.base_url, "keys": {name: key.secret for name, key in keys.items()}}
        with recorded(stack, client.name) as requests:
            done = subprocess.run(
                client.command,
                input=json.dumps(order),
                cwd=_ROOT,
                env=_environment(),
                capture_output=True,
                text=True,
                timeout=_PROGRAM_SECONDS,
            )
        assert done.returncode == 0, done.stderr
        chats = tuple(status for method, _, status in requests if method == "POST")
        return Run(client, stack, keys, json.loads(done.stdout), done.stderr, chats)


async def _create_keys(client: Client, stack: Stack) -> dict[str, Key]:
    """Create a key for each scenario, so that each has separate counters and ledger rows."""
    keys = {
        name: await stack.create_key(daily_limit=1 if name == "exhausted" else None)
        for name in client.scenarios
        if name != "wrong_key"
    }
    return {**keys, "wrong_key": Key("", "sk_stk_wrong")} if "wrong_key" in client.scenarios else keys


def _environment() -> dict[str, str]:
    """Return an environment without variables that would configure a client differently."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
