"""Background tasks."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

_log = logging.getLogger(__name__)
_RESTART_SECONDS = 5.0


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` in the background and cancel it at the end of the block.

    If `work` fails, stop the process gracefully, since the service must not continue without it.
    """
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(_report)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def restarting(work: Callable[[], Coroutine[Any, Any, None]], *, pause_seconds: float = _RESTART_SECONDS) -> None:
    """Run `work()` until it returns; when it raises an exception, log it and run `work()` again after a pause."""
    task = asyncio.current_task()
    while True:
        try:
            await work()
            return
        except Exception:  # noqa: BLE001 - one unexpected input must not end the work permanently
            _log.exception("Background work failed; it starts again after a pause.")
        if task is not None and task.cancelling():
            return  # A library may swallow a cancellation and raise another exception.
        await asyncio.sleep(pause_seconds)


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (exc := task.exception()):
        _log.error("A background task failed; stopping", exc_info=exc)
        signal.raise_signal(signal.SIGTERM)
