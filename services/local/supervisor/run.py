"""Start everything, say how to use it, keep it running, and stop it in order."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable
from contextlib import ExitStack
from functools import partial

from services.common.errors import ServiceError, StartError
from services.common.runtime import address_file, process, secret_file
from services.common.runtime.file_lock import try_lock
from services.common.runtime.process import StopSignal
from services.common.runtime.tasks import restarting, running
from services.local import valkey
from services.local.banner import banner
from services.local.console import Console
from services.local.data_dir import prepare_data_dir
from services.local.first_key import EMAIL, first_key
from services.local.log_in_link import log_in_link
from services.local.ports import with_free_ports
from services.local.settings import LocalSettings
from services.local.sockets import keep_socket, socket_folder
from services.local.supervisor import ready
from services.local.supervisor.child import Child
from services.local.supervisor.logs import keep_rotating
from services.local.supervisor.starting import start_all
from services.local.supervisor.stopping import stop_all

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
    with ExitStack() as stack:
        stack.enter_context(try_lock(lock, thing=str(settings.data_dir), remedy="stop it, or set DATA_DIR"))
        settings = with_free_ports(settings)
        sockets = stack.enter_context(socket_folder(settings.data_dir))
        addresses = {"gateway": settings.url, **settings.targets}
        stack.enter_context(address_file.written(settings.data_dir, addresses))
        parts: list[Child] = []
        try:
            await _or_stop(start_all(parts, settings, sockets, console), stopping)
            await _or_stop(_show(settings, console), stopping)
            async with (
                running(restarting(partial(keep_rotating, settings.data_dir / "logs"))),
                running(restarting(partial(keep_socket, parts, sockets / valkey.SOCKET, console))),
            ):
                await _or_stop(_keep_running(parts, console), stopping)
        finally:
            await stop_all(parts, settings, stopping, console)
            console.flush()
    console.say("Stopped.")
    console.flush()


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
            raise StartError(f"{child.program.name} ended {len(ends)} times: {child.last_output()}")
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
