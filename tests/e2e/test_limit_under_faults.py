"""The limit holds when hundreds of clients disconnect, and when gateways are killed under fifty of them."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import aiohttp
import pytest

from tests.e2e.accounting import account_of
from tests.e2e.stack import Key, Stack, connector, running_stack, say

_LEAVERS, _LEAVERS_AT_ONCE = 500, 50
_CLIENTS, _GATEWAYS = 50, 4


@pytest.fixture(scope="module")
def four_gateways() -> Iterator[Stack]:
    """Yield a stack with four gateways and short holds."""
    with running_stack(
        gateways=_GATEWAYS,
        QUOTA_HOLD_SECONDS="4",
        QUOTA_SWEEP_SECONDS="0.2",
        QUOTA_RECONCILE_SECONDS="0.5",
        REQUEST_TIMEOUT_SECONDS="3",
    ) as stack:
        yield stack


@pytest.mark.long
async def test_500_clients_that_disconnect_after_the_first_chunk_are_charged_groqs_usage(stack: Stack) -> None:
    key, statuses = await stack.create_key(daily_limit=_LEAVERS), Counter[int]()
    gate = asyncio.Semaphore(_LEAVERS_AT_ONCE)
    async with aiohttp.ClientSession(connector=connector(_LEAVERS_AT_ONCE)) as session:

        async def leave(number: int) -> None:
            text = f"{key.id} [[standin:tokens count={5 + number % 20}]] [[standin:slow token_ms=2]]"
            async with gate:
                url = f"{stack.gateways[number % len(stack.gateways)]}/api/v1/chat"
                response = await session.post(url, headers=key.headers, json=say(text, stream=True))
                await response.content.readline()
                statuses[response.status] += 1
                response.close()

        await asyncio.gather(*(leave(number) for number in range(_LEAVERS)))
    account = await account_of(stack, key, statuses)
    account.assert_exact()
    assert _LEAVERS // 2 < account.charged <= statuses[200], account


@dataclass
class Results:
    """The responses to fifty clients."""

    statuses: Counter[int] = field(default_factory=Counter)
    cut: int = 0
    most_taken: int = 0
    """The highest sum of charged and held slots that Redis ever showed."""
    is_over: bool = False


@pytest.mark.parametrize("limit", [500, pytest.param(1_500, marks=pytest.mark.long)])
async def test_killing_gateways_under_fifty_clients_never_exceeds_the_limit(four_gateways: Stack, limit: int) -> None:
    key, results = await four_gateways.create_key(daily_limit=limit), Results()
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(_watch(four_gateways, key, results))
        killing = tasks.create_task(_kill_one_gateway_after_another(four_gateways, results))
        clients = [
            tasks.create_task(_ask_until_the_day_is_used_up(four_gateways, key, results)) for _ in range(_CLIENTS)
        ]
        await asyncio.wait(clients)
        results.is_over = True
        await asyncio.wait({watching, killing})
    assert results.cut > 0, "no gateway was killed during a request"
    assert results.most_taken == limit
    assert results.statuses[200] <= limit
    assert set(results.statuses) <= {200, 429, 503, 504}
    account = await account_of(four_gateways, key, results.statuses)
    account.assert_exact()
    assert account.charged == limit, account


async def _ask_until_the_day_is_used_up(stack: Stack, key: Key, results: Results) -> None:
    """Call as a persistent client does: retry after a broken connection, an outage, or slots in use."""
    async with aiohttp.ClientSession() as session:
        for gateway in itertools.cycle(stack.gateways):
            try:
                async with session.post(f"{gateway}/api/v1/chat", headers=key.headers, json=say(key.id)) as response:
                    await response.read()
            except aiohttp.ClientError:
                results.cut += 1
                await asyncio.sleep(0.05)
                continue
            results.statuses[response.status] += 1
            if response.status == 429 and "x-should-retry" in response.headers:
                return
            if response.status != 200:
                await asyncio.sleep(0.2)


async def _kill_one_gateway_after_another(stack: Stack, results: Results) -> None:
    for number in itertools.cycle(range(1, _GATEWAYS + 1)):
        if results.is_over:
            return
        name = f"gateway-{number}"
        await asyncio.to_thread(stack.kill, name)
        stack.start(name)
        await stack.until_ready(name)
        await asyncio.sleep(0.3)


async def _watch(stack: Stack, key: Key, results: Results) -> None:
    """Poll Redis: charged and held together never exceed the limit."""
    ends = time.monotonic() + 100
    while not results.is_over and time.monotonic() < ends:
        charged, held = await asyncio.to_thread(stack.counters, key)
        results.most_taken = max(results.most_taken, charged + held)
        await asyncio.sleep(0.02)
