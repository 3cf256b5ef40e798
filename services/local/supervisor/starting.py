"""Startup of the programs in order: each group starts when the previous one is ready."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from services.common.errors import StartError
from services.common.runtime.private_files import make_private_folder
from services.local import valkey
from services.local.settings import LocalSettings
from services.local.supervisor import programs, ready
from services.local.supervisor.child import Child
from services.local.terminal import Terminal

_START_SECONDS = 30.0
_PROGRESS_SECONDS = 5.0

Probe = Callable[[], Awaitable[bool]]
"""Returns whether a program is ready."""


async def start_all(children: list[Child], settings: LocalSettings, sockets: Path, terminal: Terminal) -> None:
    """Start the stores, then the services. Each is appended to `children` before it is started.

    Raises:
        StartError: A program ended, or was not ready in time.
    """
    logs = settings.data_dir / "logs"
    make_private_folder(logs)
    groq_port = 0 if settings.has_groq_key else programs.free_port()
    groq_base_url = f"http://127.0.0.1:{groq_port}" if groq_port else ""
    stores = programs.stores(settings, sockets=sockets) + ([programs.standin(groq_port)] if groq_port else [])
    workers = programs.workers(settings, sockets=sockets, groq_base_url=groq_base_url)
    services = [] if workers else programs.services(settings, sockets=sockets, groq_base_url=groq_base_url)
    probes = _probes(settings, sockets, groq_base_url)
    # The gateway starts last, because it accepts requests as soon as it listens. The first worker starts alone, because
    # it migrates the databases.
    for programs_of_group in (stores, services[:-1], services[-1:], workers[:1], workers[1:]):
        group = [Child(program, log=logs / f"{program.name}.log") for program in programs_of_group]
        children += group
        for child in group:
            await child.start()
        await asyncio.gather(
            *(_until_started(child, probes[child.program.name], settings.data_dir, terminal) for child in group)
        )


def _probes(settings: LocalSettings, sockets: Path, groq_base_url: str) -> dict[str, Probe]:
    probes: dict[str, Probe] = {
        "valkey": lambda: ready.valkey_answers(sockets / valkey.SOCKET),
        valkey.RESPONSES: lambda: ready.valkey_answers(sockets / valkey.RESPONSES_SOCKET),
        "groq-standin": lambda: ready.http_answers(f"{groq_base_url}/healthz"),
        "auth": lambda: ready.grpc_serves(settings.targets["auth"]),
        "inference": lambda: ready.grpc_serves(settings.targets["inference"]),
        "quota": lambda: ready.grpc_serves(settings.targets["quota"]),
        "gateway": lambda: ready.http_answers(f"{settings.url}/readyz"),
        "stack": lambda: ready.http_answers(f"{settings.url}/readyz"),
    }
    # On shared ports, another worker may respond. The metrics port belongs to one worker and opens with its gateway.
    for name in settings.worker_names[1:]:
        probes[name] = _metrics_probe(settings.metrics[name])
    return probes


def _metrics_probe(metrics: str) -> Probe:
    """Return a probe of the metrics at an address. If the address is empty, the probe always succeeds."""

    async def probe() -> bool:
        return not metrics or await ready.http_answers(f"http://{metrics}/metrics")

    return probe


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
