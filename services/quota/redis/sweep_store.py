"""Redis store of the sweeper: overdue holds, entries of all keys, and counter repairs."""

import logging
import math
import re
from collections import Counter as Tally
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from services.common.batched import batched
from services.common.limits import Unit, Window
from services.quota.days import first_day_of_next_month
from services.quota.holds import Counter, Settlement
from services.quota.overdue_holds import OverdueHold
from services.quota.redis.connections import Client
from services.quota.redis.scripts import (
    BUCKETS,
    RECONCILE,
    Step,
    check_reply,
    counter_of,
    deadlines_of,
    deadlines_of_bucket,
    entries_of,
    probe_writes,
    redis_errors,
    run,
)
from services.quota.redis.store import RedisHoldStore
from services.quota.sweeper import DayEntries

_log = logging.getLogger(__name__)
_SCAN_COUNT = 1_000
_ENTRIES_BATCH = 100
_ID = rb"[A-Za-z0-9_.-]{1,64}"
_ENTRIES_NAME = re.compile(rb"quota:\{\d+\}:account:(%b):(month:)?(\d{1,6})" % _ID)
_PREVIOUS_NAME = re.compile(rb"quota:\{\d+\}:%b:(\d{1,6})(?::moved)?" % _ID)
_DEADLINE_NAME = re.compile(rb"(%b) (\d{1,6}) (%b)" % (_ID, _ID))
_COUNTER_FIELD = re.compile(rb"(%b):(requests|tokens|cost)" % _ID)
_RESERVATION = re.compile(
    rb"(\d{1,15}) (%b) (%b) (\d{1,16})((?: %b:[a-z_]+(?:@\d{1,15})? \d{1,16})*)" % (_ID, _ID, _ID)
)


class _Entries(NamedTuple):
    """The entries of an account for one window."""

    account_id: str
    window: Window
    day: int
    """First day of the window, in days since 1970-01-01."""

    @property
    def name(self) -> str:
        """Redis key."""
        infix = ":month" if self.window is Window.MONTH else ""
        return f"{entries_of(self.account_id)}{infix}:{self.day}"

    @property
    def last_day(self) -> int:
        """Last day of the window."""
        return self.day if self.window is Window.DAY else first_day_of_next_month(self.day) - 1


class _Hold(NamedTuple):
    """A hold, as stored."""

    reserved_at: float
    """Unix seconds."""
    key_id: str
    taken: dict[bytes, int]
    """What it takes of each counter, by the counter's field."""


class RedisSweepStore:
    """Implements `SweepStore` on Redis 7 or Valkey, on a single server or a cluster."""

    def __init__(self, client: Client, holds: RedisHoldStore) -> None:
        """Create a store.

        Args:
            client: Client from `connect`.
            holds: Store that closes the holds, and whose clock records the readings.
        """
        self._client = client
        self._holds = holds

    async def now(self) -> float:
        """Return the time of Redis' clock, in Unix seconds; of a cluster's nodes, the lowest."""
        # Each node of a cluster uses its own clock for its holds. The lowest reading overestimates no hold's age.
        nodes: dict[str, Any] = {} if isinstance(self._client, Redis) else {"target_nodes": RedisCluster.PRIMARIES}
        with redis_errors(self._client):
            answer = await self._client.time(**nodes)
        await probe_writes(self._client)
        times = [_seconds(reply) for reply in (answer.values() if isinstance(answer, dict) else [answer])]
        self._holds.clock.observe(min(times), max(times))
        return min(times)

    async def overdue(self, *, at_most: int, before: float, after: float = math.inf) -> list[OverdueHold]:
        """Return holds with a deadline up to `before` or later than `after`, at most `at_most` of each per bucket."""
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
            for account_id, day, request_id in members:
                # Unlike HGET, HMGET replies with a list, which distinguishes an absent field from an unreadable entry.
                pipeline.hmget(f"{entries_of(account_id)}:{day}", [request_id])
            return await self._overdue_holds(members, await _execute(pipeline))

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool | None]:
        """Close holds; returns the same as `HoldStore.settle`."""
        return await self._holds.settle(settlements)

    async def entries(self, window: Window) -> AsyncIterator[list[DayEntries]]:
        """Yield the entries of all counters, in non-empty batches; entries created meanwhile may be missing."""
        seen: set[_Entries] = set()
        waiting: list[_Entries] = []
        match = "quota:{*}:account:*:month:*" if window is Window.MONTH else "quota:{*}:account:*:*"
        with redis_errors(self._client):
            async for name in self._client.scan_iter(match=match, count=_SCAN_COUNT):
                entries = _parse_name(name)
                if entries is not None and entries.window is window and entries not in seen:
                    seen.add(entries)
                    waiting.append(entries)
                if len(waiting) == _ENTRIES_BATCH:
                    if batch := await self._read(waiting):
                        yield batch
                    waiting = []
            if waiting and (batch := await self._read(waiting)):
                yield batch

    async def delete_days(self, before: int) -> None:
        """Delete the entries of windows that ended before a day, also those in the layout of the previous version."""
        names: set[bytes] = set()
        with redis_errors(self._client):
            async for name in self._client.scan_iter(match="quota:{*}:*:*", count=_SCAN_COUNT):
                entries, previous = _parse_name(name), _PREVIOUS_NAME.fullmatch(name)
                last_day = entries.last_day if entries else int(previous[1]) if previous else before
                if last_day < before:
                    names.add(name)
            for batch in batched(sorted(names), _ENTRIES_BATCH):
                pipeline = self._pipeline()
                for name in batch:
                    # ClusterPipeline's `unlink` method would execute immediately instead of queueing the command.
                    pipeline.execute_command("UNLINK", name)
                await pipeline.execute()

    async def repair_counter(
        self, counter: Counter, count: int, *, reserved_before: float, excluded: Sequence[str]
    ) -> int:
        """Raise a counter to a number of charged rows and return the number of charges added."""
        name = _Entries(counter.account_id, counter.window, counter.day).name
        step = Step(RECONCILE, (name,), (counter_of(counter), count, round(reserved_before * 1000), *excluded))
        (raised,) = await run(self._client, [step])
        return int(raised)

    async def _members(self, bucket: int, names: Sequence[bytes]) -> list[tuple[str, int, str]]:
        """Return account, day and request of each deadline; remove malformed ones, which would block the queue."""
        members = [_member(name) for name in names]
        if malformed := [name for name, member in zip(names, members, strict=True) if member is None]:
            _log.error(
                "Removed malformed deadlines from Redis. Check whether another program writes to it.",
                extra={"bucket": bucket, "count": len(malformed)},
            )
            await self._client.zrem(deadlines_of_bucket(bucket), *malformed)
        return [member for member in members if member is not None]

    async def _overdue_holds(self, members: list[tuple[str, int, str]], replies: list[Any]) -> list[OverdueHold]:
        holds, orphans = [], []
        for (account_id, day, request_id), values in zip(members, replies, strict=True):
            if values is None:
                continue
            if values[0] is None:
                orphans.append((account_id, day, request_id))
                continue
            hold = _hold(values[0])
            holds.append(OverdueHold(request_id, hold.key_id, account_id, day, hold.reserved_at))
        await self._remove_deadlines(orphans)
        return holds

    async def _remove_deadlines(self, orphans: list[tuple[str, int, str]]) -> None:
        """Remove deadlines of holds that no longer exist."""
        if not orphans:
            return
        pipeline = self._pipeline()
        for account_id, day, request_id in orphans:
            pipeline.zrem(deadlines_of(account_id), f"{account_id} {day} {request_id}")
        await _execute(pipeline)

    async def _read(self, names: Sequence[_Entries]) -> list[DayEntries]:
        pipeline = self._pipeline()
        for one in names:
            pipeline.hgetall(one.name)
        answers = [answer or {} for answer in await _execute(pipeline)]
        return [entries for one, answer in zip(names, answers, strict=True) for entries in _window_entries(one, answer)]

    def _pipeline(self) -> Any:
        return self._client.pipeline(transaction=False) if isinstance(self._client, Redis) else self._client.pipeline()


async def _execute(pipeline: Any) -> list[Any]:
    """Execute a pipeline and return its replies, None for a command that failed on one entry.

    Raises:
        RedisError: The server cannot serve requests.
    """
    return [check_reply(answer) for answer in await pipeline.execute(raise_on_error=False)]


def _count(text: bytes) -> int:
    """Parse a count; 0 if it is malformed, which reconciliation then raises to the ledger's count."""
    return int(text) if text.isdigit() and len(text) <= 18 else 0


def _seconds(answer: tuple[int, int]) -> float:
    return float(answer[0]) + float(answer[1]) / 1e6


def _window_entries(name: _Entries, fields: Mapping[bytes, bytes]) -> Iterator[DayEntries]:
    """Yield the counters of an account's day or month, each with the holds that took of it."""
    times: dict[bytes, dict[str, float]] = {}
    held: Tally[bytes] = Tally()
    for field, value in fields.items():
        if b":" not in field:
            hold = _hold(value)
            for counter_field, amount in hold.taken.items():
                times.setdefault(counter_field, {})[field.decode(errors="replace")] = hold.reserved_at
                held[counter_field] += amount
    for field, charged in fields.items():
        if match := _COUNTER_FIELD.fullmatch(field):
            owner = match[1].decode()
            key_id = "" if owner == name.account_id else owner
            counter = Counter(name.account_id, key_id, name.day, Unit(match[2].decode()), name.window)
            limit = _count(fields.get(field + b":limit", b"0"))
            yield DayEntries(counter, _count(charged), times.get(field, {}), held[field], limit)


def _member(name: bytes) -> tuple[str, int, str] | None:
    """Parse the account, day and request of a deadline; None if it is malformed."""
    match = _DEADLINE_NAME.fullmatch(name)
    return (match[1].decode(), int(match[2]), match[3].decode()) if match else None


def _hold(value: bytes) -> _Hold:
    """Parse a hold. The reserve time of a malformed value is 0, so that the hold is swept."""
    match = _RESERVATION.fullmatch(value)
    if match is None:
        return _Hold(0.0, "", {})
    parts = match[5].split()
    taken = {field: int(amount) for field, amount in zip(parts[::2], parts[1::2], strict=True)}
    return _Hold(int(match[1]) / 1000, match[3].decode(), taken)


def _parse_name(name: bytes) -> _Entries | None:
    """Parse the Redis key of an account's entries; None if this service never writes such a key."""
    match = _ENTRIES_NAME.fullmatch(name)
    if match is None:
        return None
    return _Entries(match[1].decode(), Window.MONTH if match[2] else Window.DAY, int(match[3]))
