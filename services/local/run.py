"""Start everything, say how to use it, keep it running, and stop it in order."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from services.common import address_file, process, secret_file
from services.common.errors import ServiceError, StartError
from services.common.file_lock import held
from services.common.private_files import make_private_folder
from services.common.process import StopSignal
from services.common.tasks import running
from services.local import programs, ready
from services.local.banner import banner
from services.local.child import Child
from services.local.console import Console
from services.local.data_dir import prepare_data_dir
from services.local.first_key import EMAIL, first_key
from services.local.log_in_link import log_in_link
from services.local.logs import keep_rotating
from services.local.ports import with_free_ports
from services.local.settings import LocalSettings
from services.local.stopping import stop_all

_START_SECONDS = 30.0
_RESTART_PAUSE_SECONDS = 0.5
_CRASHES_MAX = 5
_CRASHES_WINDOW_SECONDS = 30.0


async def run(settings: LocalSettings) -> None:
    """Run a whole stack until Ctrl-C, SIGTERM or SIGHUP.

    Raises:
        StartError: It cannot start; nothing is left running.
    """
    stopping = process.stop_signal()
    console = Console()
    os.umask(0o077)  # Valkey chooses no modes for its files, and inherits this.
    prepare_data_dir(settings.data_dir)
    lock = settings.data_dir / "run.lock"
    with held(lock, thing=str(settings.data_dir), remedy="stop it, or set DATA_DIR"), _socket_folder() as sockets:
        settings = with_free_ports(settings)
        parts: list[Child] = []
        try:
            await _or_stop(_start_parts(parts, settings, sockets), stopping)
            await _or_stop(_show(settings, console), stopping)
            with address_file.written(settings.data_dir, {"gateway": settings.url, **settings.targets}):
                async with running(keep_rotating(settings.data_dir / "logs")):
                    await _or_stop(_keep_running(parts, console), stopping)
        finally:
            await stop_all(parts, settings, stopping, console)
            console.flush()
    console.say("Stopped.")
    console.flush()


async def _start_parts(parts: list[Child], settings: LocalSettings, sockets: Path) -> None:
    """Start the stores, then the services; each is put into `parts` before it is started."""
    logs = settings.data_dir / "logs"
    make_private_folder(logs)
    groq_port = 0 if settings.has_groq_key else programs.free_port()
    groq_base_url = f"http://127.0.0.1:{groq_port}" if groq_port else ""
    stores = programs.stores(settings, sockets=sockets) + ([programs.standin(groq_port)] if groq_port else [])
    workers = programs.workers(settings, sockets=sockets, groq_base_url=groq_base_url)
    services = [] if workers else programs.services(settings, sockets=sockets, groq_base_url=groq_base_url)

    probes: dict[str, Callable[[], Awaitable[bool]]] = {
        "valkey": lambda: ready.valkey_answers(sockets / "valkey.sock"),
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
    # A gateway takes chats as soon as it listens, so what it calls is there before. The first worker brings the
    # databases' schemas up to date.
    for programs_of_group in (stores, services[:-1], services[-1:], workers[:1], workers[1:]):
        group = [Child(program, log=logs / f"{program.name}.log") for program in programs_of_group]
        parts += group
        for child in group:
            await child.start()
        await asyncio.gather(*(_until_ready(child, probes[child.program.name]) for child in group))


def _answering(metrics: str) -> Callable[[], Awaitable[bool]]:
    """Return a probe of the one who serves its metrics at an address; where there is none, it is not waited for."""

    async def probe() -> bool:
        return not metrics or await ready.http_answers(f"http://{metrics}/metrics")

    return probe


async def _until_ready(child: Child, probe: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a part answers; its end, or half a minute without an answer, ends the start."""
    name = child.program.name
    waiting = asyncio.ensure_future(ready.until(probe))
    ended = asyncio.ensure_future(child.wait())
    try:
        done, _ = await asyncio.wait({waiting, ended}, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if waiting in done:
            return
        if ended in done:
            raise StartError(f"{name} ended at once: {child.last_words()}")
        raise StartError(f"{name} did not answer within {_START_SECONDS:.0f} s; its log is {child.log}")
    finally:
        waiting.cancel()
        ended.cancel()


async def _show(settings: LocalSettings, console: Console) -> None:
    token = settings.admin_token.get_secret_value() or secret_file.read_or_create(settings.data_dir / "admin-token")
    try:
        auth = settings.targets["auth"]
        key = await first_key(settings.data_dir, auth_target=auth, admin_token=token)
        link = await log_in_link(EMAIL, auth_target=auth, admin_token=token) if settings.console else ""
    except ServiceError as exc:
        raise StartError(f"the first account and key cannot be made: {exc.message}") from exc
    problems = await ready.problems(f"{settings.url}/readyz")
    console.say(banner(settings, key, log_in_link=link, problems=problems))


async def _keep_running(parts: list[Child], console: Console) -> None:
    """Start a part again when it ends by itself; give up when that goes on.

    Raises:
        StartError: A part ended again and again.
    """
    async with asyncio.TaskGroup() as group:
        for child in parts:
            group.create_task(_keep_one(child, console))


async def _keep_one(child: Child, console: Console) -> None:
    ends: list[float] = []
    while True:
        code = await child.wait()
        ends = [moment for moment in ends if moment > time.monotonic() - _CRASHES_WINDOW_SECONDS] + [time.monotonic()]
        if len(ends) > _CRASHES_MAX:
            raise StartError(f"{child.program.name} ended {len(ends)} times: {child.last_words()}")
        console.say(f"{child.program.name} ended ({_how(code)}); starting it again. Its log: {child.log}")
        await asyncio.sleep(_RESTART_PAUSE_SECONDS)
        await child.start()


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


async def _or_stop(work: Awaitable[None], stopping: StopSignal) -> None:
    """Do `work`, but no longer than until `stopping` is set."""
    doing = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({doing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            _raise_first(doing)
    finally:
        for task in (doing, stopped):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ExceptionGroup, StartError):
                await task


def _raise_first(task: "asyncio.Future[None]") -> None:
    """Raise what a task failed with; of a group, the first, which is the sentence to show."""
    exc = task.exception()
    if isinstance(exc, ExceptionGroup):
        raise exc.exceptions[0]
    if exc is not None:
        raise exc


@contextmanager
def _socket_folder() -> Iterator[Path]:
    """Make a short-named folder: a Unix socket's path must stay under 107 bytes, whatever DATA_DIR is called."""
    folder = Path(tempfile.mkdtemp(prefix="stack-", dir="/tmp" if sys.platform != "win32" else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
