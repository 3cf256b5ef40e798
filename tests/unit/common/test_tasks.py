"""Background work continues after an unexpected exception."""

import asyncio
import logging

import pytest

from services.common.runtime.tasks import restarting, running
from tests.logs import service_records


class Work:
    """Background work that fails a number of times and then waits for ever."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.runs = 0
        self.goes_on = asyncio.Event()

    async def run(self) -> None:
        """Fail, or continue."""
        self.runs += 1
        if self.runs <= self.failures:
            raise OverflowError("odd")
        self.goes_on.set()
        await asyncio.Event().wait()


async def test_failed_work_is_restarted_and_the_process_continues(caplog: pytest.LogCaptureFixture) -> None:
    work = Work(failures=2)

    async with running(restarting(work.run, pause_seconds=0)):
        await asyncio.wait_for(work.goes_on.wait(), 5)

    assert work.runs == 3
    errors = [record for record in service_records(caplog) if record.levelno == logging.ERROR]
    assert [record.exc_info[0] for record in errors if record.exc_info] == [OverflowError, OverflowError]


async def test_a_restart_waits_before_it_runs() -> None:
    work = Work(failures=9)

    async with running(restarting(work.run, pause_seconds=60)):
        await asyncio.sleep(0.05)

    assert work.runs == 1


async def test_work_that_returns_is_not_restarted() -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1

    await asyncio.wait_for(restarting(work, pause_seconds=0), 5)

    assert runs == 1


async def test_a_cancellation_swallowed_by_a_library_still_ends_the_work() -> None:
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            raise OSError("closed") from exc

    task = asyncio.create_task(restarting(work, pause_seconds=60))
    await asyncio.sleep(0)
    task.cancel()

    await asyncio.wait({task}, timeout=5)

    assert task.done()
