"""Start the programs in order, each group once the one before it answers."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from services.common.errors import StartError
from services.common.runtime.private_files import make_private_folder
from services.local import valkey
from services.local.console import Console
from services.local.settings import LocalSettings
from services.local.supervisor import programs, ready
from services.local.supervisor.child import Child

_START_SECONDS = 30.0
_TELL_SECONDS = 5.0

Probe = Callable[[], Awaitable[bool]]
"""Asks whether a program answers."""


async def start_all(parts: list[Child], settings: LocalSettings, sockets: Path, console: Console) -> None:
    """Start the stores, then the services; each is put into `parts` before it is started.

    Raises:
        StartError: One of them ended, or did not answer in time.
    """
    logs = settings.data_dir / "logs"
    make_private_folder(logs)
    groq_port = 0 if settings.has_groq_key else programs.free_port()
    groq_base_url = f"http://127.0.0.1:{groq_port}" if groq_port else ""
    stores = programs.stores(settings, sockets=sockets) + ([programs.standin(groq_port)] if groq_port else [])
    workers = programs.workers(settings, sockets=sockets, groq_base_url=groq_base_url)
    services = [] if workers else programs.services(settings, sockets=sockets, groq_base_url=groq_base_url)
    probes = _probes(settings, sockets, groq_base_url)
    # A gateway takes chats as soon as it listens, so what it calls is there before. The first worker brings the
    # databases' schemas up to date.
    for programs_of_group in (stores, services[:-1], services[-1:], workers[:1], workers[1:]):
        group = [Child(program, log=logs / f"{program.name}.log") for program in programs_of_group]
        parts += group
        for child in group:
            await child.start()
        await asyncio.gather(
            *(_until_started(child, probes[child.program.name], settings.data_dir, console) for child in group)
        )


def _probes(settings: LocalSettings, sockets: Path, groq_base_url: str) -> dict[str, Probe]:
    probes: dict[str, Probe] = {
        "valkey": lambda: ready.valkey_answers(sockets / valkey.SOCKET),
        "groq-standin": lambda: ready.http_answers(f"{groq_base_url}/healthz"),
        "auth": lambda: ready.grpc_serves(settings.targets["auth"]),
        "inference": lambda: ready.grpc_serves(settings.targets["inference"]),
        "quota": lambda: ready.grpc_serves(settings.targets["quota"]),
        "gateway": lambda: ready.http_answers(f"{settings.url}/readyz"),
        "stack": lambda: ready.http_answers(f"{settings.url}/readyz"),
    }
    # At ports that are shared, whoever answers may be another worker; metrics are of one, and come with its gateway.
    for name in settings.worker_names[1:]:
        probes[name] = _answering(settings.metrics[name])
    return probes


def _answering(metrics: str) -> Probe:
    """Return a probe of what serves its metrics at an address; without one, it is not waited for."""

    async def probe() -> bool:
        return not metrics or await ready.http_answers(f"http://{metrics}/metrics")

    return probe


async def _until_started(child: Child, probe: Probe, data_dir: Path, console: Console) -> None:
    """Wait until a program answers; Valkey is started again without its data where it cannot read them."""
    try:
        await _until_ready(child, probe, console)
    except StartError as exc:
        aside = valkey.move_aside(data_dir) if child.program.name == "valkey" and child.failed() else None
        if aside is None:
            raise
        await child.start()
        try:
            await _until_ready(child, probe, console)
        except StartError:
            valkey.move_back(data_dir, aside)  # Its data were not at fault.
            raise exc from None
        console.say(
            f"Valkey could not read its data, which are now in {aside}. Nothing is lost: today's counts come from the "
            "ledger again."
        )


async def _until_ready(child: Child, probe: Probe, console: Console) -> None:
    """Wait until a program answers; its end, or half a minute without an answer, ends the start."""
    name = child.program.name
    waiting = asyncio.ensure_future(ready.until(probe))
    ended = asyncio.ensure_future(child.wait())
    ends = time.monotonic() + _START_SECONDS
    try:
        while time.monotonic() < ends:
            await asyncio.wait({waiting, ended}, timeout=_TELL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return
            if ended.done():
                raise StartError(f"{name} ended at once: {child.last_output()}")
            console.say(f"Waiting for {name} ...")
        raise StartError(f"{name} did not answer within {_START_SECONDS:.0f} s; its log is {child.log}")
    finally:
        waiting.cancel()
        ended.cancel()
