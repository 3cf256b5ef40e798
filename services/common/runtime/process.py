"""The process of a service: logging, signals and startup errors."""

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable

import uvloop

from services.common.errors import StartError
from services.common.runtime.read_settings import Settings, read
from services.common.runtime.stop_signal import StopSignal, on_signals, stop_signal, with_shutdown_event
from services.common.telemetry import log, tracing

__all__ = ["StopSignal", "read", "run", "stop_signal", "with_shutdown_event"]

_GC_THRESHOLDS = (20_000, 50, 50)
"""Requests create few reference cycles. With the default thresholds, collections took 2 % of inference's CPU."""


def run(service: str, settings_type: type[Settings], main: Callable[[Settings], Awaitable[None]]) -> None:
    """Run `main` until it returns. If the service cannot start, print the reason to stderr and exit with code 1."""
    try:
        settings = read(settings_type)
        log.set_up(service, settings.log_level)
        with (
            tracing.exporting(service, endpoint=settings.otlp_endpoint, ratio=settings.trace_ratio),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(_run_main(main(settings)))
    except StartError as exc:
        log.flush()  # Print the error after the log.
        sys.exit(f"{service}: {exc}")
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    finally:
        log.flush()


async def _run_main(work: Awaitable[None]) -> None:
    """Run `work`, and cancel it on a signal until it handles signals itself.

    A container's first process has no default signal handlers.
    """
    task = asyncio.current_task()
    assert task is not None
    on_signals(task.cancel)
    # Objects created before the first request live until the end; exclude them from collections. A collection before
    # this takes 0.15 s and finds almost nothing.
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    gc.enable()
    await work
