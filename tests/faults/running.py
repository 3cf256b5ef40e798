"""Runs one plan and gathers all evidence afterwards."""

import asyncio
import contextlib
import time
from collections.abc import Iterable

import aiohttp
from redis.exceptions import RedisError

from tests.e2e.stack import Key
from tests.faults import breaking, clients, ledger
from tests.faults.evidence import Evidence, charged_rows, charged_tokens, day_number, days
from tests.faults.kinds import PROBE
from tests.faults.schedule import Fault, Leave, Request
from tests.faults.surfaces import surface_of
from tests.faults.world import HOLD_SECONDS, RECOVERED_SECONDS_MAX, World

_SETTLED_SECONDS_MAX = HOLD_SECONDS + 8
_WRITTEN_SECONDS_MAX = 6.0
"""A write to a frozen Postgres is given up after five seconds and retried."""
_POLL_SECONDS = 0.05
_LINE_BYTES_MAX = 2**23
"""Longest event that clients read in one line."""
_WATCH_SECONDS = 0.02
_OTHER_LIMITS = (
    "key:requests:minute=1000000",
    "key:cost:day=$1000",
    "key:cost:month=$1000",
    "key:concurrent_requests=10000",
)
"""Limits that are counted in every run and not reached. The limits of the account are those of the plan `free`."""


async def gather(world: World, evidence: Evidence) -> None:
    """Run a plan in an intact world, repair it, wait until all is settled, and return the evidence."""
    await world.repair()
    await world.valkey.restore()
    if evidence.plan.fails_over:
        await world.valkey.add_replica()
    await ledger.add_old_rows(world)
    await world.clear_journal()
    await world.change_model_list(evidence.plan.model_list)
    evidence.keys = keys = [
        await world.stack.create_key(daily_limit=limit, limits=[f"key:tokens:day={tokens}", *_OTHER_LIMITS])
        for limit, tokens in zip(evidence.plan.limits, evidence.plan.token_limits, strict=True)
    ]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), read_bufsize=_LINE_BYTES_MAX) as session:
        watch = asyncio.create_task(_watch(world, evidence))
        await _run(world, session, evidence)
        await world.repair()
        watch.cancel()
        await _until_settled(world, evidence)
        await breaking.note_journal(world, evidence)
        await _until_written(world, evidence)
        # Rows whose holds Redis lost are in its counters only after they are written and reconciled.
        await _until_settled(world, evidence)
        for key in keys:
            await _probe(world, session, evidence, key)
        await _until_settled(world, evidence)
    await breaking.note_journal(world, evidence)
    evidence.discrepancies = await world.discrepancies()
    evidence.problems += await ledger.differences(world)


async def _run(world: World, session: aiohttp.ClientSession, evidence: Evidence) -> None:
    started = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for request in evidence.plan.requests:
            tasks.create_task(_send(world, session, evidence, request, started + request.at))
        for fault in evidence.plan.faults:
            tasks.create_task(_break(world, evidence, fault, started + fault.at))


async def _watch(world: World, evidence: Evidence) -> None:
    """Poll, until cancelled, the charged and held slots together, and whether the machine stalls."""
    while True:
        with contextlib.suppress(RedisError):
            entries = await asyncio.to_thread(world.valkey.entries, evidence.keys, days())
            for name, one in entries.items():
                evidence.peaks[name] = max(evidence.peaks.get(name, 0), one.charged + one.held)
                evidence.token_peaks[name] = max(evidence.token_peaks.get(name, 0), one.tokens)
        slept_at = time.monotonic()
        await asyncio.sleep(_WATCH_SECONDS)
        evidence.stalled_seconds = max(evidence.stalled_seconds, time.monotonic() - slept_at - _WATCH_SECONDS)


async def _break(world: World, evidence: Evidence, fault: Fault, at: float) -> None:
    await _until(at)
    await breaking.apply(world, evidence, fault)


async def _send(world: World, session: aiohttp.ClientSession, evidence: Evidence, request: Request, at: float) -> None:
    await _until(at)
    url, key = world.stack.gateways[request.gateway], evidence.keys[request.key]
    evidence.results.append(await clients.send(session, url, key, request, f"{evidence.tag}-{request.number}"))


async def _until_settled(world: World, evidence: Evidence) -> None:
    """Wait until no hold is left and the counters agree with the ledger; record when that does not happen.

    Where Redis lost nothing, the counters must be right at the moment when the last hold ends.
    """
    deadline = time.monotonic() + _SETTLED_SECONDS_MAX
    while True:
        evidence.entries = await asyncio.to_thread(world.valkey.entries, evidence.keys, days())
        evidence.rows = await world.rows(evidence.keys)
        is_still = evidence.entries == await asyncio.to_thread(world.valkey.entries, evidence.keys, days())
        if is_still and not any(one.held for one in evidence.entries.values()):
            wrong = list(_wrong_counters(evidence))
            if not wrong:
                return
            if not evidence.redis_lost or time.monotonic() > deadline:
                evidence.problems += wrong
                return
        elif time.monotonic() > deadline:
            evidence.problems.append(f"holds are left {_SETTLED_SECONDS_MAX} s after the end: {evidence.entries}")
            return
        await asyncio.sleep(_POLL_SECONDS)


async def _until_written(world: World, evidence: Evidence) -> None:
    """Give rows that waited for the database the time to be written; the checks judge whether they were."""
    deadline = time.monotonic() + _WRITTEN_SECONDS_MAX
    while evidence.plan.ledger_may_stall and time.monotonic() < deadline:
        evidence.rows = await world.rows(evidence.keys)
        known = {row.request_id for row in evidence.rows if row.outcome != "unknown"}
        if all(result.request_id in known for result in evidence.results if result.is_complete):
            return
        await asyncio.sleep(_POLL_SECONDS)


def _wrong_counters(evidence: Evidence) -> Iterable[str]:
    """Yield counters that differ from the ledger's count; an emptied Redis may have none until the next reserve."""
    names = {(row.key_id, day_number(row.day)) for row in evidence.rows} | set(evidence.entries)
    for key_id, day in sorted(names):
        rows = charged_rows(evidence.rows, key_id, day)
        entries = evidence.entries.get((key_id, day))
        if entries is None and (evidence.redis_lost or rows == 0):
            continue
        tokens = charged_tokens(evidence.rows, key_id, day)
        if entries is None or (entries.charged, entries.tokens) != (rows, tokens):
            yield f"{key_id} on day {day}: Redis has {entries}, the ledger {rows} charged rows with {tokens} tokens"


async def _probe(world: World, session: aiohttp.ClientSession, evidence: Evidence, key: Key) -> None:
    """Retry one more request until it is answered: everything recovers, and the key's day is reported correctly."""
    deadline = time.monotonic() + RECOVERED_SECONDS_MAX
    index = evidence.keys.index(key)
    number = 10_000 + index * 1_000
    while True:
        number += 1
        charged = charged_rows(evidence.rows, key.id, days()[-1])
        surface = surface_of(evidence.plan.seed, number)
        request = Request(number, 0, index, number % 2, surface, PROBE, stream=False, leave=Leave.NEVER, leave_after=0)
        url = world.stack.gateways[request.gateway]
        result = await clients.send(session, url, key, request, f"{evidence.tag}-{number}")
        evidence.results.append(result)
        if result.status in (200, 429):
            evidence.probes.append((result, evidence.limit(key.id), charged))
            return
        if time.monotonic() > deadline:
            evidence.problems.append(f"not recovered after {RECOVERED_SECONDS_MAX} s: {result}")
            return
        await _until_settled(world, evidence)


async def _until(at: float) -> None:
    await asyncio.sleep(max(0.0, at - time.monotonic()))
