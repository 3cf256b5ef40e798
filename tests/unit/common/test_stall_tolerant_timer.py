"""What arrived while the event loop stood still is read before a time-out fires, on both kinds of event loops."""

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import closing
from typing import Any

import pytest
import uvloop

from services.common.concurrency.fixed_timeout import FixedTimeout
from services.common.concurrency.idle_timer import IdleTimer
from services.common.concurrency.stall_tolerant_timer import StallTolerantTimer, stall_tolerant_timeout

_SECONDS = 0.2
_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def time_out(wait: "asyncio.Future[None]") -> None:
    """Fail a wait that has not ended."""
    if not wait.done():
        wait.set_exception(TimeoutError())


async def with_fixed_timeout(arrived: "asyncio.Future[None]") -> None:
    """Wait with a `FixedTimeout`."""

    timeout = FixedTimeout(_SECONDS, time_out)
    timeout.watch(arrived)
    await arrived
    timeout.forget(arrived)


async def with_idle_timer(arrived: "asyncio.Future[None]") -> None:
    """Wait with an `IdleTimer`."""
    with IdleTimer(_SECONDS, lambda: time_out(arrived)):
        await arrived


async def with_stall_tolerant_timeout(arrived: "asyncio.Future[None]") -> None:
    """Wait with a `stall_tolerant_timeout`."""
    async with stall_tolerant_timeout(_SECONDS):
        await arrived


WAITS = [with_fixed_timeout, with_idle_timer, with_stall_tolerant_timeout]


def run(main: Coroutine[Any, Any, None], loop: str) -> None:
    """Run a coroutine on one kind of event loop."""
    with asyncio.Runner(loop_factory=_LOOPS[loop]) as runner:
        runner.run(main)


@pytest.mark.parametrize("loop", _LOOPS)
@pytest.mark.parametrize("wait", WAITS)
def test_data_that_arrived_in_time_is_not_a_time_out_after_a_standstill(
    wait: Callable[["asyncio.Future[None]"], Awaitable[None]], loop: str
) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with closing(ours), closing(theirs):
            event_loop = asyncio.get_running_loop()
            arrived = event_loop.create_future()

            def read() -> None:
                # Through gRPC or TLS, the data arrives a few iterations after it was read.
                ours.recv(1)
                event_loop.call_soon(event_loop.call_soon, arrived.set_result, None)

            event_loop.add_reader(ours, read)
            waiting = asyncio.ensure_future(wait(arrived))
            await asyncio.sleep(0)
            threading.Timer(_SECONDS / 4, lambda: theirs.send(b"x")).start()
            time.sleep(_SECONDS * 3)  # noqa: ASYNC251 - the event loop stands still
            await waiting
            event_loop.remove_reader(ours)

    run(main(), loop)


@pytest.mark.parametrize("loop", _LOOPS)
@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_for_nothing_times_out_although_the_event_loop_stands_still_again_and_again(
    wait: Callable[["asyncio.Future[None]"], Awaitable[None]], loop: str
) -> None:
    async def main() -> None:
        waiting = asyncio.ensure_future(wait(asyncio.get_running_loop().create_future()))
        began = time.monotonic()
        while not waiting.done():
            await asyncio.sleep(0)
            time.sleep(0.15)  # noqa: ASYNC251 - longer than what counts as late
        with pytest.raises(TimeoutError):
            await waiting
        assert _SECONDS <= time.monotonic() - began < 2

    run(main(), loop)


async def test_a_timer_on_time_fires_at_once_and_a_cancelled_one_never() -> None:
    loop = asyncio.get_running_loop()
    fired: list[float] = []
    began = loop.time()
    StallTolerantTimer(began + 0.05, lambda: fired.append(loop.time()))
    StallTolerantTimer(began + 0.05, lambda: fired.append(0.0)).cancel()
    await asyncio.sleep(0.4)
    assert len(fired) == 1
    assert 0.049 <= fired[0] - began < 0.25
