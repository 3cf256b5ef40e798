"""Redis fails over behind one address: connections to the old primary must be closed."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import httpx
import pytest

from tests.e2e.stack import Key, Stack, connector, running_stack, say
from tests.tcp_proxy import running_proxy
from tests.valkey_backend import TCPValkey, running_pair

_CLIENTS = 16
_BEFORE_SECONDS = 1.0
_RECOVERED_SECONDS_MAX = 2.0
_AFTER_SECONDS = 1.5
_SHORT = {"QUOTA_HOLD_SECONDS": "3", "QUOTA_RECONCILE_SECONDS": "0.5", "REQUEST_TIMEOUT_SECONDS": "2"}


@contextlib.contextmanager
def _stack(workers: int, port: int) -> Iterator[Stack]:
    environment: dict[str, Any] = {"QUOTA_REDIS_URL": f"redis://127.0.0.1:{port}/0", **_SHORT}
    with running_stack(workers=workers, **environment) as stack:
        yield stack


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 0])
def test_after_a_failover_behind_one_address_all_requests_succeed_again_within_two_seconds(workers: int) -> None:
    with running_pair() as (old, new), running_proxy(old.port) as proxy, _stack(workers, proxy.port) as stack:
        key = asyncio.run(stack.create_key(daily_limit=1_000_000))

        def swap() -> None:
            new.follow(None)
            proxy.target = new.port
            old.follow(new)

        outcomes, swapped_at = asyncio.run(_ask_while(stack, key, swap))
        before = Counter(status for at, status in outcomes if at < swapped_at - 0.5)
        late = Counter(status for at, status in outcomes if at > swapped_at + _RECOVERED_SECONDS_MAX)
        between = Counter(status for _, status in outcomes) - before - late
        print(f"before {dict(before)}, within 2 s {dict(between)}, later {dict(late)}")
        assert before.keys() == {200}
        assert late.keys() == {200}
        assert late[200] > 50
        answered = sum(one[200] for one in (before, between, late))
        assert len([row for row in stack.ledger(key) if row["charged"]]) == answered
        _until_counted(new, key, answered)
        body = httpx.get(f"{stack.base_url}/readyz", trust_env=False).json()
        assert body["dependencies"]["redis"] == {"state": "ok"}
        name = "stack" if workers else "quota"
        assert stack.log(name).count("read-only replica") <= 1, "the state is logged once"


def _until_counted(redis: TCPValkey, key: Key, answered: int) -> None:
    """Return when the new primary counts the answered requests; charges that were not replicated come from the
    ledger.
    """
    ends = time.monotonic() + 15
    while (found := _counters(redis, key)) != (answered, 0):
        assert time.monotonic() < ends, (found, answered)
        time.sleep(0.1)


def _counters(redis: TCPValkey, key: Key) -> tuple[int, int]:
    """Return the charged and held slots, all days together."""
    charged = held = 0
    with redis.client() as client:
        for name in client.scan_iter(match=f"quota:*:account:{key.account_id}:[0-9]*"):
            entries = client.hgetall(name)
            charged += int(entries.get(f"{key.id}:requests".encode(), 0))
            held += int(entries.get(f"{key.id}:requests:held".encode(), 0))
    return charged, held


async def _ask_while(stack: Stack, key: Key, swap: Callable[[], None]) -> tuple[list[tuple[float, int]], float]:
    """Send requests continuously; return when each response came and its status, and when the roles were swapped."""
    outcomes: list[tuple[float, int]] = []
    started = time.monotonic()
    ends = started + _BEFORE_SECONDS + _RECOVERED_SECONDS_MAX + _AFTER_SECONDS

    async def client(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < ends:
            url = f"{stack.base_url}/api/v1/chat"
            began = time.monotonic()
            async with session.post(url, headers=key.headers, json=say("hi")) as response:
                await response.read()
                outcomes.append((began, response.status))

    async with aiohttp.ClientSession(connector=connector(_CLIENTS)) as session, asyncio.TaskGroup() as tasks:
        for _ in range(_CLIENTS):
            tasks.create_task(client(session))
        await asyncio.sleep(_BEFORE_SECONDS)
        swapped_at = time.monotonic()
        await asyncio.to_thread(swap)
    return outcomes, swapped_at
