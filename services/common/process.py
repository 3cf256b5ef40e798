"""A service as a process: settings read, logs set up, and one clear sentence when it cannot start."""

import asyncio
import gc
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar, copy_context
from typing import TypeVar

import uvloop
from pydantic import ValidationError
from pydantic_settings import SettingsError

from services.common import log, tracing
from services.common.errors import StartError
from services.common.settings import RENAMED, ServiceSettings

_GC_THRESHOLDS = (20_000, 50, 50)
"""Requests leave few cycles; looking for them as often as by default was 2 % of inference's CPU (py-spy)."""

_told_to_stop: ContextVar[asyncio.Event | None] = ContextVar("told_to_stop", default=None)

Settings = TypeVar("Settings", bound=ServiceSettings)


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
        sys.exit(f"{service}: {exc}")
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)


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


async def _awaited(work: Awaitable[None]) -> None:
    """Do `work`, ended by SIGTERM until it handles the signal itself: a container's first process has no default."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    # What is there before the first request stays, and need not be looked at again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    await work


def stop_with(stopping: asyncio.Event) -> Context:
    """Return a context for a task in which `stop_signal` is `stopping`: of several services in one process, each stops
    when it is told to."""
    context = copy_context()
    context.run(_told_to_stop.set, stopping)
    return context


def stop_signal() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set; call it once, from the running loop."""
    if told := _told_to_stop.get():
        return told
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


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
