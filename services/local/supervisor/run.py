"""Lifecycle of the stack: start it, show the startup message, restart programs that end, and stop it in order."""

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
from services.local.terminal import Terminal

_RESTART_PAUSE_SECONDS = 0.5
_CRASHES_MAX = 5
_CRASHES_WINDOW_SECONDS = 30.0


async def run(settings: LocalSettings) -> None:
    """Run the whole stack until Ctrl-C, SIGTERM or SIGHUP.

    Raises:
        StartError: The stack cannot start, or a program ends repeatedly. All programs are stopped.
    """
    stopping = process.stop_signal()
    terminal = Terminal()
    os.umask(0o077)  # Inherited by Valkey, which does not set the modes of its files.
    prepare_data_dir(settings.data_dir)
    lock = settings.data_dir / "run.lock"
    with ExitStack() as stack:
        stack.enter_context(try_lock(lock, thing=str(settings.data_dir), remedy="stop it, or set DATA_DIR"))
        settings = with_free_ports(settings)
        sockets = stack.enter_context(socket_folder(settings.data_dir))
        addresses = {"gateway": settings.url, **settings.targets}
        stack.enter_context(address_file.written(settings.data_dir, addresses))
        children: list[Child] = []
        try:
            await _run_unless_stopped(start_all(children, settings, sockets, terminal), stopping)
            await _run_unless_stopped(_show_banner(settings, terminal), stopping)
            async with (
                running(restarting(partial(keep_rotating, settings.data_dir / "logs"))),
                running(restarting(partial(keep_socket, children, "valkey", sockets / valkey.SOCKET, terminal))),
                running(
                    restarting(
                        partial(keep_socket, children, valkey.RESPONSES, sockets / valkey.RESPONSES_SOCKET, terminal)
                    )
                ),
            ):
                await _run_unless_stopped(_keep_running(children, terminal), stopping)
        finally:
            await stop_all(children, settings, stopping, terminal)
            terminal.flush()
    terminal.print("Stopped.")
    terminal.flush()


async def _show_banner(settings: LocalSettings, terminal: Terminal) -> None:
    token = settings.admin_token.get_secret_value() or secret_file.read_or_create(settings.data_dir / "admin-token")
    try:
        auth = settings.targets["auth"]
        key = await first_key(settings.data_dir, auth_target=auth, admin_token=token)
        link = await log_in_link(EMAIL, auth_target=auth, admin_token=token) if settings.console else ""
    except ServiceError as exc:
        raise StartError(f"The first account and key cannot be created: {exc.message}") from exc
    problems = await ready.problems(f"{settings.url}/readyz")
    terminal.print(banner(settings, key, log_in_link=link, problems=problems))


async def _keep_running(children: list[Child], terminal: Terminal) -> None:
    """Restart programs that end.

    Raises:
        StartError: A program ended more than five times within 30 seconds.
    """
    async with asyncio.TaskGroup() as group:
        for child in children:
            group.create_task(_keep_child_running(child, terminal))


async def _keep_child_running(child: Child, terminal: Terminal) -> None:
    crashes: list[float] = []
    while True:
        code = await child.wait()
        crashes = [crash for crash in crashes if crash > time.monotonic() - _CRASHES_WINDOW_SECONDS] + [
            time.monotonic()
        ]
        if len(crashes) > _CRASHES_MAX:
            raise StartError(
                f"{child.program.name} ended {len(crashes)} times in {_CRASHES_WINDOW_SECONDS:.0f} s. See its log "
                f"{child.log}, which ends with: {child.last_output()}"
            )
        terminal.print(
            f"{child.program.name} ended ({_exit_reason(code)}) and is being restarted. See its log: {child.log}"
        )
        await asyncio.sleep(_RESTART_PAUSE_SECONDS)
        await child.start()


def _exit_reason(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


async def _run_unless_stopped(work: Awaitable[None], stopping: StopSignal) -> None:
    """Run `work` until it completes or `stopping` is set."""
    running_task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({running_task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if running_task.done():
            _raise_first(running_task)
    finally:
        for task in (running_task, stopped):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ExceptionGroup, StartError):
                await task


def _raise_first(task: "asyncio.Future[None]") -> None:
    """Raise the exception of a failed task, or the first exception of its group."""
    exc = task.exception()
    if isinstance(exc, ExceptionGroup):
        raise exc.exceptions[0]
    if exc is not None:
        raise exc
