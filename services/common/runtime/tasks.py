"""Background tasks."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

_log = logging.getLogger(__name__)


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


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (exc := task.exception()):
        _log.error("A background task failed; stopping", exc_info=exc)
        signal.raise_signal(signal.SIGTERM)
