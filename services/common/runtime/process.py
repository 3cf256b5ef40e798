"""The process of a service: settings, logging, signals and startup errors."""

import asyncio
import gc
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

import uvloop
from pydantic import ValidationError
from pydantic_settings import SettingsError

from services.common.errors import StartError
from services.common.runtime.settings import REMOVED, RENAMED, ServiceSettings
from services.common.telemetry import log, tracing

_GC_THRESHOLDS = (20_000, 50, 50)
"""Requests create few reference cycles. With the default thresholds, collections took 2 % of inference's CPU."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_context_stop_signal: ContextVar["StopSignal | None"] = ContextVar("stop_signal", default=None)

Settings = TypeVar("Settings", bound=ServiceSettings)


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


def read(settings_type: type[Settings]) -> Settings:
    """Read the settings from the environment.

    Raises:
        StartError: A setting is invalid or exists only in an earlier version.
    """
    if old := next(filter(os.environ.__contains__, RENAMED), None):
        raise StartError(f"Setting {old} has been replaced. Set {RENAMED[old]} instead.")
    if old := next(filter(os.environ.__contains__, REMOVED), None):
        raise StartError(f"Setting {old} has been removed: {REMOVED[old]}. Unset it.")
    try:
        return settings_type()
    except ValidationError as exc:
        raise StartError(_first_error(exc, settings_type)) from exc
    except SettingsError as exc:
        raise StartError(_not_json(exc, settings_type)) from exc
    except Exception as exc:
        # The error text may contain secret values, so it is not shown.
        raise StartError(f"the settings cannot be read ({type(exc).__name__}); check the environment") from exc


async def _run_main(work: Awaitable[None]) -> None:
    """Run `work`, and cancel it on a signal until it handles signals itself.

    A container's first process has no default signal handlers.
    """
    task = asyncio.current_task()
    assert task is not None
    _on_signals(task.cancel)
    # Objects created before the first request live until the end; exclude them from collections.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    await work


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
    _on_signals(stopping.set)
    return stopping


def _on_signals(callback: Callable[[], object]) -> None:
    """Call `callback` on signals that end a process. Ignored signals, as under `nohup`, stay ignored."""
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, callback)


def _first_error(error: ValidationError, settings_type: type[ServiceSettings]) -> str:
    details = error.errors()[0]
    message = details["msg"].removeprefix("Value error, ").removesuffix(".")
    if not details["loc"]:  # The message contains the names of contradictory settings.
        return f"Settings: {message}."
    return f"Setting {_variable(str(details['loc'][0]), settings_type)}: {message}."


def _not_json(error: SettingsError, settings_type: type[ServiceSettings]) -> str:
    """Return the message for a setting that is not valid JSON. The error contains only the field's name."""
    match = re.search(r'field "(\w+)"', str(error))
    if match is None:
        return str(error)
    default = settings_type.model_fields[match[1]].get_default(call_default_factory=True, validated_data={})
    expected = 'array, such as ["a", "b"]' if isinstance(default, list) else 'object, such as {"a": …}'
    return f"Setting {_variable(match[1], settings_type)}: expected a JSON {expected}."


def _variable(field: str, settings_type: type[ServiceSettings]) -> str:
    """Return the environment variable of a field. Errors contain the field's alias, or its name if it has none."""
    if field.isupper():
        return field
    known = settings_type.model_fields.get(field)
    prefix = settings_type.model_config.get("env_prefix", "")
    return str((known and known.validation_alias) or f"{prefix}{field}".upper())
