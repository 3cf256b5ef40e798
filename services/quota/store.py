"""Holds in Redis or Valkey: each step is one Lua script, and a batch is one round trip."""

import hashlib
import random
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from services.common import errors
from services.quota.holds import DayStatus, Denied, Held, KeyDay, Reservation, Seeds, Settlement, Unseeded

_BUCKETS = 256
_DAY_SECONDS = 86_400
_KEEP_DAYS = 2
_KEEP_JITTER_SECONDS = 6 * 3600
"""Old days expire over six hours and not all at one moment."""


@dataclass(frozen=True, slots=True)
class _Script:
    text: str
    sha: str


def _script(name: str) -> _Script:
    text = (Path(__file__).parent / f"{name}.lua").read_text(encoding="utf-8")
    return _Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_RESERVE, _SETTLE, _STATUS = _script("reserve"), _script("settle"), _script("status")


@dataclass(frozen=True, slots=True)
class _Step:
    """One run of a script."""

    script: _Script
    keys: tuple[str, ...]
    arguments: tuple[str | int, ...]


def connect(url: str, *, timeout_seconds: float) -> "Redis":
    """Return a client that connects when first used, fails within the time-out, and never retries on its own.

    A hidden retry would run a script twice; the callers know what a lost answer means.
    """
    client: Redis = Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        max_connections=64,
        protocol=2,
    )
    return client


class RedisHoldStore:
    """The `HoldStore` on Redis 7 or Valkey."""

    def __init__(self, client: "Redis", *, hold_seconds: float, clock_offset_seconds: int = 0) -> None:
        """Keep holds through `client`.

        Args:
            client: From `connect`.
            hold_seconds: Age at which a hold is overdue.
            clock_offset_seconds: Added to Redis' clock when the day is decided; for tests of midnight.
        """
        self._client = client
        self._hold_ms = round(hold_seconds * 1000)
        self._offset = clock_offset_seconds

    async def reserve(self, reservations: Sequence[Reservation], seeds: Seeds) -> list[Held | Denied | Unseeded]:
        """Hold a slot for each reservation; those of one key share a script run."""
        groups: dict[tuple[str, str, int], list[int]] = {}
        for i, wish in enumerate(reservations):
            groups.setdefault((wish.key_id, wish.account_id, wish.limit), []).append(i)
        seed_of = {key_day.key_id: (key_day.day, count) for key_day, count in seeds.items()}
        steps = [
            self._reserve_step(group, [reservations[i].request_id for i in members], seed_of.get(group[0]))
            for group, members in groups.items()
        ]
        results: list[Held | Denied | Unseeded] = [Unseeded(day=0, reset_at=0)] * len(reservations)
        for members, answer in zip(groups.values(), await self._run(steps), strict=True):
            for i, outcome in zip(members, self._outcomes(answer, len(members)), strict=True):
                results[i] = outcome
        return results

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Close holds; those of one key and day share a script run."""
        groups: dict[KeyDay, list[int]] = {}
        for i, end in enumerate(settlements):
            groups.setdefault(KeyDay(end.key_id, end.day), []).append(i)
        steps = [_settle_step(key_day, [settlements[i] for i in members]) for key_day, members in groups.items()]
        closed = [False] * len(settlements)
        for members, answer in zip(groups.values(), await self._run(steps), strict=True):
            for i, flag in zip(members, answer, strict=True):
                closed[i] = flag == 1
        return closed

    async def status(self, key_ids: Sequence[str]) -> list[DayStatus | Unseeded]:
        """Read today's state of keys."""
        steps = [_Step(_STATUS, (_entries(key_id),), (self._offset,)) for key_id in key_ids]
        answers = await self._run(steps)
        return [
            Unseeded(day, self._reset_at(day)) if charged < 0 else self._day_status(day, charged, held)
            for day, charged, held in answers
        ]

    def _reserve_step(self, group: tuple[str, str, int], request_ids: list[str], seed: tuple[int, int] | None) -> _Step:
        key_id, account_id, limit = group
        seed_day, count = seed if seed else ("", "")
        keep_seconds = _KEEP_DAYS * _DAY_SECONDS + random.randrange(_KEEP_JITTER_SECONDS)
        arguments = (self._offset, self._hold_ms, key_id, account_id, limit, seed_day, count, keep_seconds)
        return _Step(_RESERVE, (_entries(key_id), _deadlines(key_id)), (*arguments, *request_ids))

    def _outcomes(self, answer: list[int], count: int) -> Iterator[Held | Denied | Unseeded]:
        day, now_ms, seeded, *rest = answer
        if not seeded:
            yield from [Unseeded(day, self._reset_at(day))] * count
            return
        for is_held, charged, held in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
            status = self._day_status(day, charged, held)
            yield Held(status, reserved_at=now_ms / 1000) if is_held else Denied(status)

    def _day_status(self, day: int, charged: int, held: int) -> DayStatus:
        return DayStatus(day, charged, held, self._reset_at(day))

    def _reset_at(self, day: int) -> float:
        return (day + 1) * _DAY_SECONDS - self._offset

    async def _run(self, steps: Sequence[_Step]) -> list[Any]:
        """Run scripts in one round trip; those that a restarted Redis does not know are loaded and run again."""
        with _redis_errors():
            answers = await self._round_trip(steps)
            unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if unknown:
                for script in {steps[i].script for i in unknown}:
                    await self._client.script_load(script.text)
                for i, answer in zip(unknown, await self._round_trip([steps[i] for i in unknown]), strict=True):
                    answers[i] = answer
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            return answers

    async def _round_trip(self, steps: Sequence[_Step]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for step in steps:
            pipeline.evalsha(step.script.sha, len(step.keys), *step.keys, *step.arguments)
        return await pipeline.execute(raise_on_error=False)


def _settle_step(key_day: KeyDay, settlements: Sequence[Settlement]) -> _Step:
    keys = (f"{_entries(key_day.key_id)}:{key_day.day}", _deadlines(key_day.key_id))
    pairs = [part for end in settlements for part in (end.request_id, end.verdict.value)]
    return _Step(_SETTLE, keys, (key_day.key_id, key_day.day, *pairs))


def _entries(key_id: str) -> str:
    return f"quota:{{{_bucket(key_id)}}}:{key_id}"


def _deadlines(key_id: str) -> str:
    return f"quota:{{{_bucket(key_id)}}}:deadlines"


def _bucket(key_id: str) -> int:
    return zlib.crc32(key_id.encode()) % _BUCKETS


@contextmanager
def _redis_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as exc:
        raise errors.Unavailable("the quota store cannot be reached; try again", reason="quota_unavailable") from exc
