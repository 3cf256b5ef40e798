"""Redis' clock steps under load, in both directions, and back: the limit stays exact."""

import asyncio
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.stack import Key, Stack, connector, running_stack, say
from tests.faketime import SteppingValkey, library
from tests.ports import free_port

pytestmark = pytest.mark.skipif(
    library() is None, reason="libfaketime is not installed; on Debian: apt install faketime"
)

_LIMIT = 50
_CLIENTS = 12
_DAY = 86_400
_STEP_AFTER_SECONDS = 1.5
_LASTING_SECONDS = 3.0
_SECONDS = 10.0
_ANSWER = "[[standin:slow token_ms=100]] [[standin:tokens count=10]]"
"""Per second, so that some requests are in progress at any moment."""
_TIMES = {
    "QUOTA_HOLD_SECONDS": "6",
    "QUOTA_SWEEP_SECONDS": "0.2",
    "QUOTA_RECONCILE_SECONDS": "0.5",
    "REQUEST_TIMEOUT_SECONDS": "4",
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("step", "comes_back"),
    [(200, True), (3 * _DAY, True), (-200, True), (-3 * _DAY, True), (200, False), (-200, False), (-3 * _DAY, False)],
)
def test_no_request_over_the_limit_is_answered_and_none_is_lost(
    tmp_path: Path, workers: int, step: int, comes_back: bool
) -> None:
    redis, metrics = SteppingValkey(tmp_path / "redis"), f"127.0.0.1:{free_port()}"
    reported = "GATEWAY_METRICS_LISTEN" if workers else "QUOTA_METRICS_LISTEN"
    noon = _DAY // 2 - int(time.time()) % _DAY
    environment: dict[str, Any] = {
        "QUOTA_REDIS_URL": redis.url,
        "QUOTA_CLOCK_OFFSET_SECONDS": str(noon),
        reported: metrics,
        **_TIMES,
    }
    try:
        redis.wait_until_up()
        with running_stack(workers=workers, **environment) as stack:
            key = asyncio.run(stack.create_key(daily_limit=_LIMIT))
            statuses, reported_step = asyncio.run(_ask_while(stack, key, redis, step, comes_back, metrics))
            rows = stack.ledger(key)
            print(f"step {step:+d} s: {dict(statuses)}, {Counter(row['outcome'] for row in rows)}")
            assert statuses[200] == _LIMIT
            assert set(statuses) == {200, 429}
            assert Counter((row["outcome"], row["charged"]) for row in rows) == {("answered", 1): _LIMIT}
            assert len({row["day"] for row in rows}) == 1
            assert abs(reported_step - step) < 2
            _until_counted(redis, key)
            log = stack.log("stack" if workers else "quota")
            assert log.count("Redis' clock stepped") == 1
    finally:
        redis.end()


async def _ask_while(
    stack: Stack, key: Key, redis: SteppingValkey, step: int, comes_back: bool, metrics: str
) -> tuple[Counter[int], float]:
    """Send requests continuously while the clock steps and returns; return all statuses, and the metric meanwhile."""
    statuses: Counter[int] = Counter()
    ends = time.monotonic() + _SECONDS

    async def client(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < ends:
            body = say(_ANSWER, stream=True)
            async with session.post(f"{stack.base_url}/api/v1/chat", headers=key.headers, json=body) as response:
                text = await response.text()
            statuses[response.status] += 1
            assert response.status != 200 or text.endswith("data: [DONE]\n\n")
            await asyncio.sleep(0.1)

    async with aiohttp.ClientSession(connector=connector(_CLIENTS)) as session, asyncio.TaskGroup() as tasks:
        for _ in range(_CLIENTS):
            tasks.create_task(client(session))
        await asyncio.sleep(_STEP_AFTER_SECONDS)
        redis.step(step)
        await asyncio.sleep(_LASTING_SECONDS)
        async with session.get(f"http://{metrics}/metrics") as response:
            text = await response.text()
        reported_step = float(re.findall(r"^stack_quota_clock_step_seconds (\S+)$", text, re.MULTILINE)[0])
        if comes_back:
            redis.step(0)
    return statuses, reported_step


def _until_counted(redis: SteppingValkey, key: Key) -> None:
    ends = time.monotonic() + 25
    while (found := _counters(redis, key)) != [(_LIMIT, 0)]:
        assert time.monotonic() < ends, found
        time.sleep(0.1)


def _counters(redis: SteppingValkey, key: Key) -> list[tuple[int, int]]:
    """Return the charged and held slots of each day."""
    with redis.client() as client:
        days = [client.hgetall(name) for name in client.scan_iter(match=f"quota:*:{key.id}:*")]
    return [(int(day[b"charged"]), len(day) - 2) for day in days]
