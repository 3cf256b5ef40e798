"""Runs of the coding agents, which npm installs into this folder."""

import asyncio
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clients.gateway_log import recorded
from tests.e2e.stack import Key, Stack

FOLDER = Path(__file__).parent
_SECONDS = 120
_POLL_SECONDS = 0.1
_PLATFORMS = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True)
class Done:
    """An ended run."""

    status: int
    output: str
    errors: str
    requests: list[tuple[str, str, int]]
    """Method, path and status of the requests that the gateway logged."""
    at_groq: list[dict[str, Any]]
    """The journal's entries of the requests that reached Groq."""

    @property
    def statuses(self) -> list[int]:
        """The statuses of the POST requests."""
        return [status for method, _, status in self.requests if method == "POST"]

    def messages(self, index: int = -1) -> list[dict[str, Any]]:
        """Return the messages of a request that reached Groq."""
        messages: list[dict[str, Any]] = self.at_groq[index]["request"]["messages"]
        return messages


@dataclass
class Home:
    """An empty home and working folder of one user of an agent."""

    stack: Stack
    key: Key
    folder: Path
    runs: int = field(default=0)

    @property
    def work(self) -> Path:
        """The working folder."""
        return self.folder / "work"

    async def run(
        self, name: str, command: list[str], environment: dict[str, str], *, posts: int | None = None
    ) -> Done:
        """Run an agent until it ends or has sent `posts` requests, and return what it and the services show."""
        self.work.mkdir(parents=True, exist_ok=True)
        self.runs += 1
        before = len(await self.stack.journal())
        with recorded(self.stack, f"{name}-{self.key.id}-{self.runs}") as requests:
            environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **environment}
            status, output, errors = await asyncio.to_thread(
                _ended, command, self.work, environment, self._has_sent(posts)
            )
        at_groq = (await self.stack.journal())[before:]
        return Done(status, output, errors, requests, at_groq)

    def _has_sent(self, posts: int | None) -> Callable[[], bool]:
        """Return whether some POST requests were logged since now."""
        before = self._posts()
        return lambda: posts is not None and self._posts() >= before + posts

    def _posts(self) -> int:
        return self.stack.log("gateway-1").count('"method":"POST"')

    async def ledger(self) -> list[tuple[str, int]]:
        """Return the outcome of each request and whether it was charged, once all is settled."""
        await self.stack.until_settled(self.key)
        return [(row["outcome"], row["charged"]) for row in self.stack.ledger(self.key)]


def _ended(
    command: list[str], folder: Path, environment: dict[str, str], is_enough: Callable[[], bool]
) -> tuple[int, str, str]:
    deadline = time.monotonic() + _SECONDS
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while True:
            try:
                output, errors = process.communicate(timeout=_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                is_late = time.monotonic() > deadline
                if is_late or is_enough():
                    process.kill()
                    output, errors = process.communicate()
                    assert not is_late, output + errors
                    break
            else:
                break
    return process.returncode, output, errors


def packaged(package: str, binary: str) -> str:
    """Return the path of a program in its package for this platform."""
    name = f"{package}-{platform.system().lower()}-{_PLATFORMS[platform.machine()]}"
    (found,) = [path for path in (FOLDER / "node_modules" / name).rglob(binary) if path.is_file()]
    return str(found)


def version_of(package: str) -> str:
    """Return the installed version of a package."""
    version: str = json.loads((FOLDER / "node_modules" / package / "package.json").read_text())["version"]
    return version
