"""Requests to stop the process, by signals."""

import asyncio
import signal
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_context_stop_signal: ContextVar["StopSignal | None"] = ContextVar("stop_signal", default=None)


class StopSignal:
    """A request to stop the process.

    The first SIGTERM, SIGINT or SIGHUP requests a graceful stop, in which calls in flight may finish. The next one
    makes the stop urgent: all waits end, and calls in flight are cancelled.
    """

    def __init__(self, urgent: asyncio.Event | None = None) -> None:
        self._requested = asyncio.Event()
        self._urgent = urgent or asyncio.Event()

    def part(self) -> "StopSignal":
        """Return a signal for a part of the process. It is set separately, but becomes urgent when this one does."""
        return StopSignal(self._urgent)

    def is_set(self) -> bool:
        """Return whether a stop was requested."""
        return self._requested.is_set()

    def is_urgent(self) -> bool:
        """Return whether to stop without waiting."""
        return self._urgent.is_set()

    def set(self) -> None:
        """Request a stop. The second call makes it urgent."""
        if self._requested.is_set():
            self._urgent.set()
        self._requested.set()

    async def wait(self) -> None:
        """Wait until a stop is requested."""
        await self._requested.wait()

    async def wait_for(self, *work: "asyncio.Future[Any]", seconds: float) -> None:
        """Wait until all of `work` is done, `seconds` have passed, or the stop is urgent. `work` is not cancelled.

        Without `work`, sleep for `seconds`, or until the stop is urgent.
        """
        urgent = asyncio.ensure_future(self._urgent.wait())
        done = asyncio.ensure_future(asyncio.wait(work) if work else asyncio.sleep(seconds))
        try:
            await asyncio.wait({urgent, done}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            urgent.cancel()
            done.cancel()


def with_shutdown_event(stopping: StopSignal) -> Context:
    """Return a context for a task in which `stop_signal` returns `stopping`.

    Lets each of several services in one process stop separately.
    """
    context = copy_context()
    context.run(_context_stop_signal.set, stopping)
    return context


def stop_signal(stopping: StopSignal | None = None) -> StopSignal:
    """Make SIGTERM, SIGINT and SIGHUP set `stopping`, or a new signal, and return it. Call it once, from the loop.

    In a context from `with_shutdown_event`, return the signal of that context instead.
    """
    if current := _context_stop_signal.get():
        return current
    stopping = stopping or StopSignal()
    on_signals(stopping.set)
    return stopping


def on_signals(callback: Callable[[], object]) -> None:
    """Call `callback` on signals that end a process. Ignored signals, as under `nohup`, stay ignored."""
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, callback)
