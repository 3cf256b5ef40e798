"""Redis store of refused requests: one hash for each key and day, which expires."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from services.quota.holds import KeyRef
from services.quota.redis.connections import Client
from services.quota.redis.scripts import LIST_REFUSALS, RECORD_REFUSALS, Step, refusals_of, run_each
from services.quota.refusals import OTHER, SECONDS_MAX, Refusal, RefusedRequests

_DAY_SECONDS, _HOUR_SECONDS = 86_400, 3_600
_DAYS = SECONDS_MAX // _DAY_SECONDS + 1
"""Days that contain a part of the last `SECONDS_MAX`."""
_FIELDS_MAX = 200
"""Fields of a hash before further reasons and hours are counted as `other`: up to 25 fields more."""
_CODE = re.compile(r"[a-z0-9_]{0,64}")
_HOUR = re.compile(rb"(\d{1,2}):(\d{1,3}):([a-z0-9_]{0,64})")
_LAST = re.compile(rb"last:(\d{1,3}):([a-z0-9_]{0,64})")
_Reason = tuple[int, str]
"""Status and code."""


class RedisRefusalStore:
    """Implements `RefusalStore` on Redis 7 or Valkey."""

    def __init__(self, client: Client) -> None:
        """Use a client from `connect`."""
        self._client = client

    async def record(self, refusals: Sequence[RefusedRequests]) -> None:
        """Add numbers; those of the same key share a script call."""
        groups: dict[KeyRef, list[str | int]] = {}
        for one in refusals:
            arguments = groups.setdefault(one.key, [_FIELDS_MAX, _DAYS * _DAY_SECONDS])
            code = one.code if _CODE.fullmatch(one.code) else OTHER
            arguments += (f"{one.status}:{code}", one.count, one.age_seconds)
        steps = [Step(RECORD_REFUSALS, (refusals_of(key),), tuple(arguments)) for key, arguments in groups.items()]
        await run_each(self._client, steps)

    async def list(self, keys: Sequence[KeyRef]) -> list[list[Refusal]]:
        """Return what was refused of each key; nothing for a key whose entries cannot be read."""
        steps = [Step(LIST_REFUSALS, (refusals_of(key),), (_DAYS,)) for key in keys]
        return [[] if answer is None else _refusals(answer) for answer in await run_each(self._client, steps)]


def _refusals(answer: Sequence[Any]) -> list[Refusal]:
    now, *days = answer
    hours: dict[_Reason, dict[int, int]] = {}
    last: dict[_Reason, int] = {}
    for day, fields in zip(days[::2], days[1::2], strict=True):
        for reason, hour, count in _hours(fields):
            if (begins_at := day * _DAY_SECONDS + hour * _HOUR_SECONDS) > now - SECONDS_MAX:
                hours.setdefault(reason, {})[begins_at] = count
        last |= _last(fields)  # Later days follow.
    return [
        Refusal(*reason, float(last.get(reason, max(counts))), dict(sorted(counts.items())))
        for reason, counts in hours.items()
    ]


def _hours(fields: Sequence[bytes]) -> Iterator[tuple[_Reason, int, int]]:
    """Yield reason, hour of the day and count; fields that this service never writes are left out."""
    for field, value in zip(fields[::2], fields[1::2], strict=True):
        if (match := _HOUR.fullmatch(field)) and value.isdigit():
            yield (int(match[2]), match[3].decode()), int(match[1]), int(value)


def _last(fields: Sequence[bytes]) -> Iterator[tuple[_Reason, int]]:
    """Yield reason and time of its last request."""
    for field, value in zip(fields[::2], fields[1::2], strict=True):
        if (match := _LAST.fullmatch(field)) and value.isdigit():
            yield (int(match[1]), match[2].decode()), int(value)
