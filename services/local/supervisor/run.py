"""Lifecycle of the stack: start it, show the startup message, restart programs that end, and stop it in order."""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable
from contextlib import ExitStack
from functools import partial

from services.common.errors import StartError
from services.common.runtime import address_file
from services.common.runtime.file_lock import try_lock
from services.common.runtime.stop_signal import StopSignal
from services.common.runtime.tasks import restarting, running
from services.local import valkey
from services.local.banner import banner
from services.local.configuration import Configuration
from services.local.data_dir import prepare_data_dir
from services.local.first_account import first_account
from services.local.port_claims import PortClaims
from services.local.ports import with_free_ports
from services.local.sockets import keep_socket, socket_folder
from services.local.supervisor import ready
from services.local.supervisor.child import Child
from services.local.supervisor.logs import keep_rotating
from services.local.supervisor.python import kill, start_python
from services.local.supervisor.starting import Starter
from services.local.supervisor.stopping import stop_all
from services.local.terminal import Terminal, TerminalHandler

_RESTART_PAUSE_SECONDS = 0.5
_CRASHES_MAX = 5
_CRASHES_WINDOW_SECONDS = 30.0


async def run(settings: Configuration, stopping: StopSignal, worker: Process | None) -> None:
    """Run the whole stack until `stopping` is set.

    Args:
        settings: Settings of the stack.
        stopping: Ends the run.
        worker: A process that has loaded a worker, for the first one.

    Raises:
        StartError: The stack cannot start, or a program ends repeatedly. All programs are stopped.
    """
    terminal = Terminal()
    logging.basicConfig(level=logging.WARNING, handlers=[TerminalHandler(terminal)], force=True)
    prepare_data_dir(settings.data_dir)
    lock = settings.data_dir / "run.lock"
    with ExitStack() as stack:
        stack.enter_context(try_lock(lock, thing=str(settings.data_dir), remedy="stop it, or set DATA_DIR"))
        claims = stack.enter_context(PortClaims())
        settings = with_free_ports(settings, claims)
        sockets = stack.enter_context(socket_folder(settings.data_dir))
        addresses = {"gateway": settings.url, **settings.targets}
        stack.enter_context(address_file.written(settings.data_dir, addresses))
        standin = None if settings.has_groq_key else stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        starter = Starter(settings, sockets, terminal, standin=standin, worker=worker)
        try:
            await _run_unless_stopped(_start(starter, settings, terminal), stopping)
            claims.release()
            async with (
                running(restarting(partial(keep_rotating, settings.data_dir / "logs"))),
                running(
                    restarting(partial(keep_socket, starter.children, "valkey", sockets / valkey.SOCKET, terminal))
                ),
                running(
                    restarting(
                        partial(
                            keep_socket,
                            starter.children,
                            valkey.RESPONSES,
                            sockets / valkey.RESPONSES_SOCKET,
                            terminal,
                        )
                    )
                ),
            ):
                await _run_unless_stopped(_keep_running(starter, terminal), stopping)
        finally:
            await stop_all(starter.children, settings, stopping, terminal)
            terminal.flush()
    terminal.print("Stopped.")
    terminal.flush()


async def _start(starter: Starter, settings: Configuration, terminal: Terminal) -> None:
    setup = await start_python("services.local.account_setup")
    try:
        await starter.start()
        account, problems = await asyncio.gather(
            first_account(setup, settings), ready.problems(f"{settings.url}/readyz")
        )
    finally:
        await kill(setup)
    terminal.print(banner(settings, account.key, log_in_link=account.log_in_link, problems=problems))


async def _keep_running(starter: Starter, terminal: Terminal) -> None:
    """Restart programs that end, and start the other workers.

    Raises:
        StartError: A program ended more than five times within 30 seconds.
    """
    async with asyncio.TaskGroup() as group:
        for child in starter.children:
            group.create_task(_keep_child_running(child, terminal))
        for child in starter.add_other_workers():
            group.create_task(_keep_worker_running(child, terminal))


async def _keep_worker_running(child: Child, terminal: Terminal) -> None:
    """Start a worker and keep it running. The first one serves meanwhile, so a failed start is like a later end."""
    await _start_child(child, terminal)
    await _keep_child_running(child, terminal)


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
        await _start_child(child, terminal)


async def _start_child(child: Child, terminal: Terminal) -> None:
    """Start a program. A failure, for example a full disk, is printed once and retried, so that the others serve on."""
    was_printed = False
    while True:
        try:
            return await child.start()
        except OSError as exc:
            if not was_printed:
                terminal.print(f"{child.program.name} cannot be started ({exc.strerror}). Trying again.")
            was_printed = True
            await asyncio.sleep(_RESTART_PAUSE_SECONDS)


def _exit_reason(code: int) -> str:
    return f"signal {_signal_name(-code)}" if code < 0 else f"exit code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # Most real-time signals have no name.
        return str(number)


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
