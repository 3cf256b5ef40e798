"""What the sweeper does in Redis: find overdue holds, read all entries, raise counters."""

import logging
import math
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from services.quota.holds import KeyDay, Settlement
from services.quota.redis.connections import Client
from services.quota.redis.scripts import (
    BUCKETS,
    RECONCILE,
    Step,
    deadlines_of,
    deadlines_of_bucket,
    entries_of,
    own_failure,
    probe_writes,
    redis_errors,
    run,
)
from services.quota.redis.store import RedisHoldStore
from services.quota.sweeper import DayEntries, OverdueHold

_log = logging.getLogger(__name__)
_SCAN_COUNT = 1_000
_ENTRIES_BATCH = 100
_ENTRIES_NAME = re.compile(rb"quota:\{\d+\}:([A-Za-z0-9_.-]{1,64}):(\d{1,6})")
_DEADLINE_NAME = re.compile(rb"([A-Za-z0-9_.-]{1,64}) (\d{1,6}) ([A-Za-z0-9_.-]{1,64})")
_RESERVATION = re.compile(rb"(\d{1,15}) ([A-Za-z0-9_.-]{0,64})")


class RedisSweepStore:
    """The `SweepStore` on Redis 7 or Valkey, one server or a cluster."""

    def __init__(self, client: Client, holds: RedisHoldStore) -> None:
        """Look through `client`; close holds through `holds`."""
        self._client = client
        self._holds = holds

    async def now(self) -> float:
        """Return Redis' clock; Unix seconds."""
        # Each node of a cluster stamps its holds by its own clock; by the slowest, none is taken for older than it is.
        nodes: dict[str, Any] = {} if isinstance(self._client, Redis) else {"target_nodes": RedisCluster.PRIMARIES}
        with redis_errors(self._client):
            answer = await self._client.time(**nodes)
        await probe_writes(self._client)
        times = [_seconds(one) for one in (answer.values() if isinstance(answer, dict) else [answer])]
        self._holds.clock.observe(min(times), max(times))
        return min(times)

    async def overdue(self, *, at_most: int, before: float, after: float = math.inf) -> list[OverdueHold]:
        """Return holds whose deadline is until `before` or later than `after`, of each bucket at most so many each."""
        members: list[tuple[str, int, str]] = []
        ranges = [("-inf", round(before * 1000)), *([(f"({round(after * 1000)}", "+inf")] if after < math.inf else [])]
        with redis_errors(self._client):
            pipeline = self._pipeline()
            for bucket in range(BUCKETS):
                for first, last in ranges:
                    pipeline.zrangebyscore(deadlines_of_bucket(bucket), first, last, start=0, num=at_most)
            for position, names in enumerate(await _execute(pipeline)):
                members += await self._members(position // len(ranges), names or [])
            if not members:
                return []
            pipeline = self._pipeline()
            for key_id, day, request_id in members:
                # Several fields are asked for, so that an absent field differs from entries that cannot be read.
                pipeline.hmget(f"{entries_of(key_id)}:{day}", [request_id])
            facts = await _execute(pipeline)
            return await self._with_facts(members, facts)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool | None]:
        """Close holds, in order; false where there was none, None where it failed for this key alone."""
        return await self._holds.settle(settlements)

    async def entries(self) -> AsyncIterator[list[DayEntries]]:
        """Yield everything that is held, in batches, none empty; what appears meanwhile may be missed."""
        seen: set[KeyDay] = set()
        waiting: list[KeyDay] = []
        with redis_errors(self._client):
            async for name in self._client.scan_iter(match="quota:{*}:*:*", count=_SCAN_COUNT):
                key_day = _key_day(name)
                if key_day is not None and key_day not in seen:
                    seen.add(key_day)
                    waiting.append(key_day)
                if len(waiting) == _ENTRIES_BATCH:
                    if batch := await self._read(waiting):
                        yield batch
                    waiting = []
            if waiting and (batch := await self._read(waiting)):
                yield batch

    async def forget(self, key_days: Sequence[KeyDay]) -> None:
        """Remove all that is kept of days that are long over."""
        with redis_errors(self._client):
            pipeline = self._pipeline()
            for one in key_days:
                # Not `pipeline.unlink`, which a cluster's pipeline runs at once.
                pipeline.execute_command("UNLINK", f"{entries_of(one.key_id)}:{one.day}")
            await pipeline.execute()

    async def repair_counter(
        self, key_day: KeyDay, count: int, *, reserved_before: float, left_out: Sequence[str]
    ) -> int:
        """Raise a counter to a number of charged rows; return by how much."""
        name = f"{entries_of(key_day.key_id)}:{key_day.day}"
        step = Step(RECONCILE, (name,), (count, round(reserved_before * 1000), *left_out))
        (raised,) = await run(self._client, [step])
        return int(raised)

    async def _members(self, bucket: int, names: Sequence[bytes]) -> list[tuple[str, int, str]]:
        """Return the holds that deadlines stand for; what is no deadline of ours is removed, or it would stay first."""
        members = [_member(name) for name in names]
        if foreign := [name for name, member in zip(names, members, strict=True) if member is None]:
            _log.error("foreign deadlines removed", extra={"bucket": bucket, "count": len(foreign)})
            await self._client.zrem(deadlines_of_bucket(bucket), *foreign)
        return [member for member in members if member is not None]

    async def _with_facts(self, members: list[tuple[str, int, str]], facts: list[Any]) -> list[OverdueHold]:
        holds, orphans = [], []
        for (key_id, day, request_id), fact in zip(members, facts, strict=True):
            if fact is None:
                continue
            if fact[0] is None:
                orphans.append((key_id, day, request_id))
                continue
            reserved_at, account_id = _reservation(fact[0])
            holds.append(OverdueHold(request_id, key_id, account_id, day, reserved_at))
        await self._forget(orphans)
        return holds

    async def _forget(self, orphans: list[tuple[str, int, str]]) -> None:
        """Remove deadlines whose hold is gone with its expired day."""
        if not orphans:
            return
        pipeline = self._pipeline()
        for key_id, day, request_id in orphans:
            pipeline.zrem(deadlines_of(key_id), f"{key_id} {day} {request_id}")
        await _execute(pipeline)

    async def _read(self, key_days: Sequence[KeyDay]) -> list[DayEntries]:
        pipeline = self._pipeline()
        for one in key_days:
            pipeline.hgetall(f"{entries_of(one.key_id)}:{one.day}")
        answers = [answer or {} for answer in await _execute(pipeline)]
        return list(_day_entries(key_days, answers))

    def _pipeline(self) -> Any:
        return self._client.pipeline(transaction=False) if isinstance(self._client, Redis) else self._client.pipeline()


async def _execute(pipeline: Any) -> list[Any]:
    """Return a pipeline's answers, None for a command that failed on one entry alone.

    Raises:
        RedisError: The server cannot serve.
    """
    return [own_failure(answer) for answer in await pipeline.execute(raise_on_error=False)]


def _count(text: bytes) -> int:
    """Return a count; 0 for what is none, which reconciliation then raises to the ledger's."""
    return int(text) if text.isdigit() and len(text) <= 18 else 0


def _seconds(answer: tuple[int, int]) -> float:
    return float(answer[0]) + float(answer[1]) / 1e6


def _day_entries(key_days: Sequence[KeyDay], answers: Sequence[dict[bytes, bytes]]) -> Iterator[DayEntries]:
    for key_day, entries in zip(key_days, answers, strict=True):
        charged = entries.pop(b"charged", None)
        if charged is None:
            continue  # Expired, or emptied, since it was listed.
        limit = entries.pop(b"limit", b"0")
        holds = {name.decode(errors="replace"): _reservation(fact)[0] for name, fact in entries.items()}
        yield DayEntries(key_day, _count(charged), holds, _count(limit))


def _member(name: bytes) -> tuple[str, int, str] | None:
    """Return the key, day and request that a deadline is of; None for a name that this service never writes."""
    match = _DEADLINE_NAME.fullmatch(name)
    return (match[1].decode(), int(match[2]), match[3].decode()) if match else None


def _reservation(fact: bytes) -> tuple[float, str]:
    """Return when a hold was reserved, in Unix seconds, and its account.

    A value that this service never writes counts as reserved at 0: such a hold is swept like any other.
    """
    match = _RESERVATION.fullmatch(fact)
    return (int(match[1]) / 1000, match[2].decode()) if match else (0.0, "")


def _key_day(name: bytes) -> KeyDay | None:
    """Return the key and day that a name is of; None for a name that this service never writes."""
    match = _ENTRIES_NAME.fullmatch(name)
    return KeyDay(match[1].decode(), int(match[2])) if match else None
