"""The queues of several replicas that share a Redis: order and limits of accounts."""

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from services.common.runtime.clock import SystemClock
from services.inference.allowance.model import Limits as WindowLimits
from services.inference.allowance.model import Window
from services.inference.allowance.own_view import OwnView
from services.inference.allowance.shared_view import SharedView, connect
from services.inference.key_pool.pool import KeyPool
from services.inference.requests.queue import UpstreamQueue
from services.inference.requests.slots import Limits, Waiter
from tests.valkey_backend import valkey_server, valkey_url

__all__ = ["valkey_server", "valkey_url"]

MODEL = "m"


async def _queue(stack: AsyncExitStack, url: str, limits: WindowLimits, *, per_account_max: int) -> UpstreamQueue:
    clock = SystemClock()
    client = connect(url)
    stack.push_async_callback(client.aclose)
    own = OwnView(clock, configured={MODEL: limits}, minute_seconds=1.0)
    view = SharedView(client, own, clock, keys=["gsk_one"])
    stack.push_async_callback(view.close)
    keys = KeyPool(1, clock, cooldown_seconds_max=3600, failures_max=5)
    return UpstreamQueue(keys, view, Limits(1_000, per_account_max, 5_000), clock=clock, is_shared=True)


async def test_an_account_with_its_maximum_of_calls_delays_no_other_at_another_replica(valkey_url: str) -> None:
    limits = {Window.TOKENS_PER_MINUTE: 1_000_000}
    async with AsyncExitStack() as stack:
        first, second = [await _queue(stack, valkey_url, limits, per_account_max=2) for _ in range(2)]
        slots = [await first.acquire(Waiter("heavy", 1, 100), [MODEL], wait_max=60) for _ in range(2)]
        waiting = []
        began = time.monotonic()
        for _ in range(40):
            waiting.append(asyncio.create_task(first.acquire(Waiter("heavy", 1, 100), [MODEL], wait_max=60)))
            await asyncio.sleep(0.005)
            (await second.acquire(Waiter("other", 1, 100), [MODEL], wait_max=60)).release()

        assert time.monotonic() - began < 10
        for slot in slots:
            slot.release()
        for task in waiting:
            (await asyncio.wait_for(task, 10)).release()
        assert first.calls == second.calls == 0


@pytest.mark.long
async def test_a_hundred_accounts_are_served_alike_by_two_replicas(valkey_url: str) -> None:
    served: Counter[str] = Counter()
    begin = time.monotonic() + 1  # The first requests find a full allowance.
    end = begin + 3

    async def call(account: str, queue: UpstreamQueue) -> None:
        while time.monotonic() < end:
            slot = await queue.acquire(Waiter(account, 1, 10), [MODEL], wait_max=60)
            if begin < time.monotonic() < end:
                served[account] += 1
            slot.release()

    async with AsyncExitStack() as stack:
        limits = {Window.REQUESTS_PER_MINUTE: 150}
        queues = [await _queue(stack, valkey_url, limits, per_account_max=100) for _ in range(2)]
        # Every tenth account has ten calls at the same time at each replica.
        await asyncio.gather(
            *(
                call(f"acc_{number}", queue)
                for number in range(100)
                for queue in queues
                for _ in range(10 if number % 10 == 0 else 1)
            )
        )
        assert len(served) == 100
        assert max(served.values()) - min(served.values()) <= 5, served
