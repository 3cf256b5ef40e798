"""Runs one plan and gathers all that may be known of it afterwards."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import aiohttp
from redis.exceptions import RedisError

from stack.quota.v1 import quota_pb2
from tests.e2e.stack import Key
from tests.faults import clients
from tests.faults.clients import Result
from tests.faults.kinds import PROBE, Kind
from tests.faults.schedule import Fault, Harm, Leave, Plan, Request
from tests.faults.world import HOLD_SECONDS, RECOVERED_SECONDS_MAX, Entries, KeyDay, Row, World

_DAY_SECONDS = 86_400
_SETTLED_SECONDS_MAX = HOLD_SECONDS + 8
_WRITTEN_SECONDS_MAX = 6.0
"""A write to a Postgres that froze is given up after five seconds and tried again."""
_POLL_SECONDS = 0.05
_LINE_BYTES_MAX = 2**23
"""Longest event that clients read in one line."""
_WATCH_SECONDS = 0.02
_NOTHING = Entries(0, 0)


@dataclass(slots=True)
class Evidence:
    """All that is known of a seed's run."""

    plan: Plan
    keys: list[Key] = field(default_factory=list)
    started_at: float = field(default_factory=time.time)
    results: list[Result] = field(default_factory=list)
    probes: list[tuple[Result, int, int]] = field(default_factory=list)
    """A request on a settled key: what its client saw, the key's limit, and the day's charged rows before it."""
    journal: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The stand-in's entries by x_groq id."""
    lost: dict[KeyDay, int] = field(default_factory=dict)
    """The most holds and charges that Redis lost."""
    redis_lost: bool = False
    rows: list[Row] = field(default_factory=list)
    entries: dict[KeyDay, Entries] = field(default_factory=dict)
    peaks: dict[KeyDay, int] = field(default_factory=dict)
    """The most that was ever seen charged and held together."""
    discrepancies: list[quota_pb2.Discrepancy] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What went wrong on the way."""

    @property
    def tag(self) -> str:
        """What each message of this run begins with."""
        return f"faults-{self.plan.seed}-{self.keys[0].id}"

    def limit(self, key_id: str) -> int:
        """Return a key's limit."""
        return next(limit for key, limit in zip(self.keys, self.plan.limits, strict=True) if key.id == key_id)

    # Which exchange with the upstream, row and request belong together.

    def number_of(self, entry: Mapping[str, Any]) -> int:
        """Return the number of the request that an exchange was made for."""
        return int(str(entry["last_user_message"]).split(" ")[0].removeprefix(f"{self.tag}-"))

    def kind_of(self, number: int) -> Kind:
        """Return the kind of a request."""
        return next(result.request.kind for result in self.results if result.request.number == number)

    def request_id_of(self, number: int) -> str:
        """Return the id that a request's client was told; empty when it was told none."""
        return next(result.request_id for result in self.results if result.request.number == number)

    @property
    def exchanges(self) -> dict[int, list[dict[str, Any]]]:
        """The exchanges by the request's number."""
        found: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for entry in self.journal.values():
            found[self.number_of(entry)].append(entry)
        return dict(found)

    def exchanges_of(self, row: Row) -> list[dict[str, Any]]:
        """Return a row's exchange: by the upstream's id, or else those of the request that its client knows."""
        if row.upstream_id in self.journal:
            return [self.journal[row.upstream_id]]
        requests = [result.request for result in self.results if result.request_id == row.request_id]
        return self.exchanges.get(requests[0].number, []) if requests else []

    def row_of(self, entry: Mapping[str, Any]) -> Row | None:
        """Return the row of an exchange: by the upstream's id, or else by the id that its client was told."""
        told = self.request_id_of(self.number_of(entry))
        by_exchange = (row for row in self.rows if row.upstream_id == entry["x_groq_id"])
        by_request = (row for row in self.rows if told and row.request_id == told)
        return next(by_exchange, None) or next(by_request, None)


async def gather(world: World, evidence: Evidence) -> None:
    """Run a plan in a world that is whole, mend it, wait until all is settled, and note what was seen."""
    await world.mend()
    await world.clear_journal()
    await world.change_model_list(evidence.plan.model_list)
    evidence.keys = keys = [await world.stack.create_key(daily_limit=limit) for limit in evidence.plan.limits]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), read_bufsize=_LINE_BYTES_MAX) as session:
        watch = asyncio.create_task(_watch(world, evidence))
        await _run(world, session, evidence)
        await world.mend()
        watch.cancel()
        await _until_settled(world, evidence)
        await _note_journal(world, evidence)
        await _until_written(world, evidence)
        for key in keys:
            await _probe(world, session, evidence, key)
        await _until_settled(world, evidence)
    await _note_journal(world, evidence)
    evidence.discrepancies = await world.discrepancies()


async def _run(world: World, session: aiohttp.ClientSession, evidence: Evidence) -> None:
    started = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for request in evidence.plan.requests:
            tasks.create_task(_send(world, session, evidence, request, started + request.at))
        for fault in evidence.plan.faults:
            tasks.create_task(_break(world, evidence, fault, started + fault.at))


async def _watch(world: World, evidence: Evidence) -> None:
    """Look again and again, until cancelled, how much is charged and held together."""
    while True:
        with contextlib.suppress(RedisError):
            entries = await asyncio.to_thread(world.entries, evidence.keys, _days())
            for name, one in entries.items():
                evidence.peaks[name] = max(evidence.peaks.get(name, 0), one.charged + one.held)
        await asyncio.sleep(_WATCH_SECONDS)


async def _send(world: World, session: aiohttp.ClientSession, evidence: Evidence, request: Request, at: float) -> None:
    await _until(at)
    url, key = world.stack.gateways[request.gateway], evidence.keys[request.key]
    evidence.results.append(await clients.send(session, url, key, request, f"{evidence.tag}-{request.number}"))


async def _break(world: World, evidence: Evidence, fault: Fault, at: float) -> None:
    await _until(at)
    match fault.harm:
        case Harm.FLUSH:
            _note_loss(evidence, world.entries(evidence.keys, _days(), "FLUSHALL"))
        case Harm.FORGET:
            _note_loss(evidence, world.kill_valkey(evidence.keys, _days()))
            world.forget_valkey()
            await asyncio.sleep(fault.seconds)
            world.stack.start("valkey")
        case Harm.ROLL_BACK:
            await _roll_back(world, evidence, fault)
        case Harm.PAUSE if fault.target == "postgres":
            world.postgres.freeze()
            await asyncio.sleep(fault.seconds)
            world.postgres.thaw()
        case Harm.PAUSE:
            world.pause(fault.target)
            await asyncio.sleep(fault.seconds)
            world.resume(fault.target)
        case Harm.KILL:
            await _kill(world, evidence, fault)


async def _kill(world: World, evidence: Evidence, fault: Fault) -> None:
    if fault.target == "postgres":
        world.postgres.stop_at_once()
        await asyncio.sleep(fault.seconds)
        world.postgres.start()
        return
    if fault.target == "groq-standin":
        await _note_journal(world, evidence)  # It dies with it.
    world.stack.kill(fault.target)
    await asyncio.sleep(fault.seconds)
    world.stack.start(fault.target)


async def _roll_back(world: World, evidence: Evidence, fault: Fault) -> None:
    # First read, then copied: the copy knows all that was read.
    kept = world.entries(evidence.keys, _days())
    copies = {path: path.read_bytes() for path in world.valkey_files.rglob("*") if path.is_file()}
    await asyncio.sleep(fault.seconds)
    _note_loss(evidence, world.kill_valkey(evidence.keys, _days()), kept)
    world.forget_valkey()
    for path, content in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    world.stack.start("valkey")


def _note_loss(evidence: Evidence, last: dict[KeyDay, Entries], kept: dict[KeyDay, Entries] | None = None) -> None:
    """Note the most that a key can have lost.

    An emptied Redis starts again from the ledger's charged rows, so it lost the holds alone; a rolled-back one has lost
    the charges since then too.
    """
    evidence.redis_lost = True
    for name, entries in last.items():
        charges = entries.charged - kept.get(name, _NOTHING).charged if kept is not None else 0
        evidence.lost[name] = evidence.lost.get(name, 0) + entries.held + charges


async def _until_settled(world: World, evidence: Evidence) -> None:
    """Wait until no hold is left and the counters are those of the ledger; note when that does not come to pass.

    Where Redis lost nothing, the counters must be right in the moment in which the last hold ends.
    """
    deadline = time.monotonic() + _SETTLED_SECONDS_MAX
    while True:
        evidence.entries = await asyncio.to_thread(world.entries, evidence.keys, _days())
        evidence.rows = await world.rows(evidence.keys)
        is_still = evidence.entries == await asyncio.to_thread(world.entries, evidence.keys, _days())
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
    """Give rows that waited for the database the time to be written; whether they were is for the checks to say."""
    deadline = time.monotonic() + _WRITTEN_SECONDS_MAX
    while evidence.plan.ledger_may_stall and time.monotonic() < deadline:
        evidence.rows = await world.rows(evidence.keys)
        known = {row.request_id for row in evidence.rows if row.outcome != "unknown"}
        if all(result.request_id in known for result in evidence.results if result.is_complete):
            return
        await asyncio.sleep(_POLL_SECONDS)


def _wrong_counters(evidence: Evidence) -> Iterable[str]:
    """Yield counters that are not the ledger's count; an emptied Redis may have none until the next reserve."""
    names = {(row.key_id, day_number(row.day)) for row in evidence.rows} | set(evidence.entries)
    for key_id, day in sorted(names):
        rows = charged_rows(evidence.rows, key_id, day)
        entries = evidence.entries.get((key_id, day))
        if entries is None and (evidence.redis_lost or rows == 0):
            continue
        if entries is None or entries.charged != rows:
            yield f"{key_id} on day {day}: Redis says {entries}, the ledger has {rows} charged rows"


async def _probe(world: World, session: aiohttp.ClientSession, evidence: Evidence, key: Key) -> None:
    """Send one more request, until it is answered: everything recovers, and the key's day is told as it is."""
    deadline = time.monotonic() + RECOVERED_SECONDS_MAX
    index = evidence.keys.index(key)
    number = 10_000 + index * 1_000
    while True:
        number += 1
        charged = charged_rows(evidence.rows, key.id, _days()[-1])
        request = Request(number, 0, index, number % 2, PROBE, stream=False, leave=Leave.NEVER, leave_after=0)
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


async def _note_journal(world: World, evidence: Evidence) -> None:
    for entry in await world.stack.journal():
        if str(entry["last_user_message"] or "").startswith(evidence.tag):
            evidence.journal[entry["x_groq_id"]] = entry


async def _until(at: float) -> None:
    await asyncio.sleep(max(0.0, at - time.monotonic()))


def charged_rows(rows: Sequence[Row], key_id: str, day: int) -> int:
    """Count the charged rows of a key's day."""
    return sum(row.charged for row in rows if row.key_id == key_id and day_number(row.day) == day)


def day_number(text: str) -> int:
    return (date.fromisoformat(text) - date(1970, 1, 1)).days


def _days() -> tuple[int, int]:
    """Yesterday and today."""
    today = int(time.time()) // _DAY_SECONDS
    return today - 1, today
