"""A service as a process: settings read, logs set up, and one clear sentence when it cannot start."""

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
from services.common.runtime.settings import RENAMED, ServiceSettings
from services.common.telemetry import log, tracing

_GC_THRESHOLDS = (20_000, 50, 50)
"""Requests leave few cycles; looking for them as often as by default was 2 % of inference's CPU (py-spy)."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_given_stop: ContextVar["StopSignal | None"] = ContextVar("given_stop", default=None)

Settings = TypeVar("Settings", bound=ServiceSettings)


class StopSignal:
    """Whether to stop, and how fast.

    The first SIGTERM, SIGINT or SIGHUP asks to stop in order: calls in flight may finish. The next one makes it urgent:
    waits are over, and what is in flight is cut.
    """

    def __init__(self, urgent: asyncio.Event | None = None) -> None:
        self._asked = asyncio.Event()
        self._urgent = urgent or asyncio.Event()

    def part(self) -> "StopSignal":
        """Return one for a part of the process: it is set by itself, and is urgent when this one is."""
        return StopSignal(self._urgent)

    def is_set(self) -> bool:
        """Whether to stop."""
        return self._asked.is_set()

    def is_urgent(self) -> bool:
        """Whether to stop without waiting for anything."""
        return self._urgent.is_set()

    def set(self) -> None:
        """Ask to stop; a second time, to stop at once."""
        if self._asked.is_set():
            self._urgent.set()
        self._asked.set()

    async def wait(self) -> None:
        """Return when asked to stop."""
        await self._asked.wait()

    async def wait_urgent(self) -> None:
        """Return when the stop becomes urgent."""
        await self._urgent.wait()

    async def wait_for(self, *work: "asyncio.Future[Any]", seconds: float) -> None:
        """Return when all of `work` is done, after `seconds`, or when the stop becomes urgent; `work` goes on.

        Without `work`, this is a pause.
        """
        urgent = asyncio.ensure_future(self._urgent.wait())
        done = asyncio.ensure_future(asyncio.wait(work) if work else asyncio.sleep(seconds))
        try:
            await asyncio.wait({urgent, done}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            urgent.cancel()
            done.cancel()


def run(service: str, settings_type: type[Settings], main: Callable[[Settings], Awaitable[None]]) -> None:
    """Run `main` until it returns; exit with code 1 and a sentence on standard error when it cannot start."""
    try:
        settings = read(settings_type)
        log.set_up(service, settings.log_level)
        with (
            tracing.exporting(service, endpoint=settings.otlp_endpoint, ratio=settings.trace_ratio),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(_awaited(main(settings)))
    except StartError as exc:
        log.flush()  # The sentence comes last.
        sys.exit(f"{service}: {exc}")
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    finally:
        log.flush()


def read(settings_type: type[Settings]) -> Settings:
    """Return the settings that the environment holds.

    Raises:
        StartError: A setting has a wrong value, or an earlier version's name.
    """
    if old := next(filter(os.environ.__contains__, RENAMED), None):
        raise StartError(f"setting {old} has been replaced by {RENAMED[old]}; set that instead")
    try:
        return settings_type()
    except ValidationError as exc:
        raise StartError(_first_mistake(exc, settings_type)) from exc
    except SettingsError as exc:
        raise StartError(_not_json(exc, settings_type)) from exc
    except Exception as exc:
        # The values may be secrets, and stay out of the sentence.
        raise StartError(f"the settings cannot be read ({type(exc).__name__}); check the environment") from exc


async def _awaited(work: Awaitable[None]) -> None:
    """Do `work`, ended by a signal until it handles signals itself: a container's first process has no default."""
    task = asyncio.current_task()
    assert task is not None
    _on_signals(task.cancel)
    # What is there before the first request stays, and need not be looked at again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    await work


def with_shutdown_event(stopping: StopSignal) -> Context:
    """Return a context for a task in which `stop_signal` is `stopping`: of several services in one process, each stops
    when its own is set."""
    context = copy_context()
    context.run(_given_stop.set, stopping)
    return context


def stop_signal(stopping: StopSignal | None = None) -> StopSignal:
    """Return what SIGTERM, SIGINT and SIGHUP set from now on, `stopping` or a new one; call it once, from the loop."""
    if given := _given_stop.get():
        return given
    stopping = stopping or StopSignal()
    _on_signals(stopping.set)
    return stopping


def _on_signals(callback: Callable[[], object]) -> None:
    """Have signals that end a process call `callback` instead; one that is ignored stays so (`nohup`)."""
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, callback)


def _first_mistake(error: ValidationError, settings_type: type[ServiceSettings]) -> str:
    mistake = error.errors()[0]
    message = mistake["msg"].removeprefix("Value error, ")
    if not mistake["loc"]:  # Settings that contradict each other, which the message names.
        return f"settings: {message}"
    return f"setting {_variable(str(mistake['loc'][0]), settings_type)}: {message}"


def _not_json(error: SettingsError, settings_type: type[ServiceSettings]) -> str:
    """Name a setting that is an array or an object and is not written as one; the error tells its field alone."""
    found = re.search(r'field "(\w+)"', str(error))
    if found is None:
        return str(error)
    default = settings_type.model_fields[found[1]].get_default(call_default_factory=True, validated_data={})
    wanted = 'array, such as ["a", "b"]' if isinstance(default, list) else 'object, such as {"a": …}'
    return f"setting {_variable(found[1], settings_type)}: expected a JSON {wanted}"


def _variable(field: str, settings_type: type[ServiceSettings]) -> str:
    """Return the environment's name of a field; errors tell it by its alias where it has one, or by its name."""
    if field.isupper():
        return field
    known = settings_type.model_fields.get(field)
    prefix = settings_type.model_config.get("env_prefix", "")
    return str((known and known.validation_alias) or f"{prefix}{field}".upper())
