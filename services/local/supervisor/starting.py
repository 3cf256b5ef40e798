"""Startup of the programs: the stores first, then the services."""

import asyncio
import socket
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from services.common.errors import StartError
from services.common.runtime.private_files import make_private_folder
from services.local import valkey
from services.local.configuration import Configuration
from services.local.supervisor import programs, ready
from services.local.supervisor.child import Child, Program
from services.local.terminal import Terminal

_START_SECONDS = 30.0
_PROGRESS_SECONDS = 5.0

Probe = Callable[[], Awaitable[bool]]
"""Returns whether a program is ready."""


class Starter:
    """Starts the programs of a stack.

    Attributes:
        children: The programs, each from before its start.
    """

    def __init__(
        self,
        settings: Configuration,
        sockets: Path,
        terminal: Terminal,
        *,
        standin: socket.socket | None,
        worker: Process | None,
    ) -> None:
        """Create a starter.

        Args:
            settings: Settings of the stack.
            sockets: Folder of Valkey's socket.
            terminal: Shows which programs take long.
            standin: Listening socket of the stand-in for Groq; None uses Groq.
            worker: A process that has loaded a worker, for the first one.
        """
        self.children: list[Child] = []
        self._settings = settings
        self._sockets = sockets
        self._terminal = terminal
        self._standin = standin
        self._worker = worker
        self._groq_base_url = f"http://127.0.0.1:{standin.getsockname()[1]}" if standin else ""
        self._probes = _probes(settings, sockets, self._groq_base_url)

    async def start(self) -> None:
        """Start the stores, then the four services, or the first worker, which migrates the databases.

        The operators' console follows, if it is wanted.

        Raises:
            StartError: A program ended, or was not ready in time.
        """
        make_private_folder(self._logs)
        # Requests to the stand-in wait in its socket until it runs, so nothing else waits for it.
        slow = await self._start([programs.listening_standin(self._standin)] if self._standin else [])
        await self._wait(await self._start(programs.stores(self._settings, sockets=self._sockets)))
        if self._settings.workers:
            services = self._workers()[:1]
        else:
            services = programs.services(self._settings, sockets=self._sockets, groq_base_url=self._groq_base_url)
        await self._wait([*slow, *await self._start(services)])
        await self._wait(await self._start(programs.operator_console(self._settings)))

    def add_other_workers(self) -> Sequence[Child]:
        """Return all workers but the first, which serves meanwhile. They are not started yet."""
        return self._add(self._workers()[1:])

    @property
    def _logs(self) -> Path:
        return self._settings.data_dir / "logs"

    def _workers(self) -> list[Program]:
        return programs.workers(self._settings, sockets=self._sockets, groq_base_url=self._groq_base_url)

    async def _start(self, group: Sequence[Program]) -> Sequence[Child]:
        added = self._add(group)
        for child in added:
            await child.start()
        return added

    def _add(self, group: Sequence[Program]) -> Sequence[Child]:
        added = [
            Child(
                program,
                log=self._logs / f"{program.name}.log",
                preloaded=self._worker if program.name == self._settings.worker_names[0] else None,
            )
            for program in group
        ]
        self.children += added
        return added

    async def _wait(self, group: Sequence[Child]) -> None:
        await asyncio.gather(
            *(
                _until_started(child, self._probes[child.program.name], self._settings.data_dir, self._terminal)
                for child in group
            )
        )


def _probes(settings: Configuration, sockets: Path, groq_base_url: str) -> dict[str, Probe]:
    probes: dict[str, Probe] = {
        "valkey": lambda: ready.valkey_answers(sockets / valkey.SOCKET),
        valkey.RESPONSES: lambda: ready.valkey_answers(sockets / valkey.RESPONSES_SOCKET),
        "groq-standin": lambda: ready.http_answers(f"{groq_base_url}/healthz"),
        "gateway": lambda: ready.http_answers(f"{settings.url}/readyz"),
        "stack": lambda: ready.http_answers(f"{settings.url}/readyz"),
        "operator-console": lambda: ready.http_answers(f"{settings.operator_console_url}/readyz"),
    }
    # Their health is the gateway's matter: it is ready when it has reached them.
    probes |= {name: partial(ready.listens, target) for name, target in settings.targets.items()}
    return probes


async def _until_started(child: Child, probe: Probe, data_dir: Path, terminal: Terminal) -> None:
    """Wait until a program is ready. If Valkey fails with its data, restart it with an empty data folder."""
    try:
        await _until_ready(child, probe, terminal)
    except StartError as exc:
        aside = valkey.move_aside(data_dir) if child.program.name == "valkey" and child.failed() else None
        if aside is None:
            raise
        await child.start()
        try:
            await _until_ready(child, probe, terminal)
        except StartError:
            valkey.move_back(data_dir, aside)  # The data was not the cause.
            raise exc from None
        terminal.print(
            f"Valkey could not read its data and was started without them. They are now in {aside}. Nothing is lost: "
            "today's counts are restored from the ledger."
        )


async def _until_ready(child: Child, probe: Probe, terminal: Terminal) -> None:
    """Wait until a program is ready.

    Raises:
        StartError: The program ended, or was not ready within 30 seconds.
    """
    name = child.program.name
    waiting = asyncio.ensure_future(ready.until(probe))
    ended = asyncio.ensure_future(child.wait())
    deadline = time.monotonic() + _START_SECONDS
    try:
        while time.monotonic() < deadline:
            await asyncio.wait({waiting, ended}, timeout=_PROGRESS_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return
            if ended.done():
                raise StartError(
                    f"{name} ended during startup. See its log {child.log}, which ends with: {child.last_output()}"
                )
            terminal.print(f"Waiting for {name} ...")
        raise StartError(f"{name} did not become ready within {_START_SECONDS:.0f} s. See its log {child.log}.")
    finally:
        waiting.cancel()
        ended.cancel()
