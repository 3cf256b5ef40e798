"""Work that runs beside the serving, for as long as a block lasts."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

_log = logging.getLogger(__name__)


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` beside the block and cancel it at the block's end.

    A defect that ends it early ends the process, in order: a service without it would serve as if it had it.
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
        _log.error("work beside the serving ended; stopping", exc_info=exc)
        signal.raise_signal(signal.SIGTERM)
