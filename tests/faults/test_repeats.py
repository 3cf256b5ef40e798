"""Under faults, clients that repeat a request with its `Idempotency-Key` until it is answered are charged once.

Each client sends its request again after every failure, and leaves when an answer takes too long. The faults are those
of the seeds of `test_faults.py`; the Redis of the records is not emptied, since it may not lose any.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp
import pytest

from tests.e2e.stack import Key, connector, say
from tests.faults import breaking
from tests.faults.evidence import Evidence
from tests.faults.schedule import Fault, Layout, plan
from tests.faults.test_faults import _layouts, _seeds
from tests.faults.world import Row, World, running_world

_CLIENTS = 24
_PATIENCE_SECONDS = 1.5
"""How long a client waits before it leaves and repeats."""
_ANSWERED_SECONDS_MAX = 60.0
_SETTLED_SECONDS_MAX = 15.0
_FINAL = (200, 410)

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.timeout(150)]


@dataclass(frozen=True, slots=True)
class Answer:
    """The last answer to a client."""

    status: int
    request_id: str
    body: bytes
    is_replayed: bool


@pytest.fixture(scope="module", params=_layouts())
def layout(request: pytest.FixtureRequest) -> Layout:
    """Return how the services are spread over processes."""
    return Layout(request.param)


@pytest.fixture(scope="module")
def world(layout: Layout) -> Iterator[World]:
    """Return a running world; every seed repairs it first."""
    with running_world(layout) as running:
        yield running


@pytest.mark.long
@pytest.mark.parametrize("seed", _seeds())
async def test_a_repeated_request_is_charged_once(world: World, layout: Layout, seed: int) -> None:
    evidence, chance = Evidence(plan(seed, layout)), random.Random(seed)
    await world.repair()
    await world.valkey.restore()
    if evidence.plan.fails_over:
        await world.valkey.add_replica()
    key = await world.stack.create_key(daily_limit=10_000)
    evidence.keys = [key]
    async with aiohttp.ClientSession(connector=connector(_CLIENTS)) as session:
        async with asyncio.TaskGroup() as tasks:
            for fault in evidence.plan.faults:
                tasks.create_task(_break(world, evidence, fault))
            clients = [
                tasks.create_task(_until_answered(world, session, key, f"{seed}-{number}", chance.random() * 2.5))
                for number in range(_CLIENTS)
            ]
        answers = [client.result() for client in clients]
        await world.repair()
        rows = await _settled_rows(world, key)
        repeats = [await _until_answered(world, session, key, f"{seed}-{number}", 0.0) for number in range(_CLIENTS)]
    charged = {row.request_id for row in rows if row.charged}
    answered = [answer for answer in answers if answer.status == 200]
    assert len({answer.request_id for answer in answered}) == len(answered), "two keys have one answer"
    assert len(charged) <= _CLIENTS, Counter((row.outcome, row.charged) for row in rows)
    if not evidence.plan.ledger_may_stall:
        assert len(charged) == _CLIENTS, Counter((row.outcome, row.charged) for row in rows)
        assert {answer.request_id for answer in answered} <= charged
    for answer, repeat in zip(answers, repeats, strict=True):
        if answer.status == 200 and repeat.status == 200 and answer.request_id in charged:
            assert (repeat.request_id, repeat.body, repeat.is_replayed) == (answer.request_id, answer.body, True)
    again = {row.request_id for row in await _settled_rows(world, key) if row.charged}
    assert len(again) <= _CLIENTS
    if not evidence.plan.ledger_may_stall:
        assert again == charged, "a repeat was charged"


async def _break(world: World, evidence: Evidence, fault: Fault) -> None:
    await asyncio.sleep(fault.at)
    await breaking.apply(world, evidence, fault)


async def _until_answered(
    world: World, session: aiohttp.ClientSession, key: Key, name: str, wait_seconds: float
) -> Answer:
    """Send a request and repeat it until it is answered, or its answer is gone."""
    await asyncio.sleep(wait_seconds)
    gateways, ends = world.stack.gateways, time.monotonic() + _ANSWERED_SECONDS_MAX
    body = say(f"repeat {name} of {key.id}", stream=hash(name) % 2 == 0)
    attempt = 0
    while True:
        attempt += 1
        pause = 0.2
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                headers = {**key.headers, "Idempotency-Key": f"{key.id}-{name}"}
                url = f"{gateways[attempt % len(gateways)]}/api/v1/chat/completions"
                async with session.post(url, json=body, headers=headers) as response:
                    answer = Answer(
                        response.status,
                        response.headers.get("x-request-id", ""),
                        await response.read(),
                        response.headers.get("idempotent-replayed") == "true",
                    )
            if _is_final(answer):
                return answer
            pause = min(float(response.headers.get("retry-after", 0.2)), 1.0)
        except (TimeoutError, aiohttp.ClientError, ConnectionError):
            pass
        assert time.monotonic() < ends, f"{name} is not answered"
        await asyncio.sleep(pause)


def _is_final(answer: Answer) -> bool:
    """Return whether an answer is whole, or gone. A stream that failed has an error event instead of its end."""
    if answer.status == 200 and answer.body.startswith((b"data:", b":")):
        return answer.body.rstrip().endswith(b"[DONE]")
    return answer.status in _FINAL


async def _settled_rows(world: World, key: Key) -> list[Row]:
    """Return the rows once nothing is held and no new row comes."""
    ends, previous = time.monotonic() + _SETTLED_SECONDS_MAX, -1
    while True:
        rows = await world.rows([key])
        _, held = await asyncio.to_thread(world.stack.counters, key)
        if not held and len(rows) == previous:
            return rows
        previous = len(rows)
        assert time.monotonic() < ends, f"{held} holds are left"
        await asyncio.sleep(0.5)
