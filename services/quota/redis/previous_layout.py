"""Moves counters from the layout of the previous version, which had one hash for each key and day.

    quota:{17}:key_01…:20780   hash: `charged`, `limit`, and the holds: request id → time of the reserve, account id
    quota:{17}:deadlines       sorted set of deadlines of the holds

Its buckets are those of key ids, so an account's keys do not share a hash slot. Replicas of both versions run side by
side during a rolling update; see docs/decisions/0023-counters-by-account.md. The next version drops this module.
"""

import re
from collections.abc import Sequence
from typing import Any

from services.quota.holds import Counter
from services.quota.redis.connections import Client
from services.quota.redis.scripts import (
    IMPORT,
    TAKE_OVER,
    Step,
    counter_of,
    deadlines_of,
    entries_of,
    previous_entries_of,
    redis_errors,
    run,
    run_each,
)

_ID = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
_HOLD = re.compile(rb"(\d{1,15}) ")
_COUNT = re.compile(rb"\d{1,15}")


async def take_over(client: Client, counters: Sequence[Counter], *, hold_ms: int) -> None:
    """Fence keys' days in the previous layout, and move their counters and holds.

    A repeated call changes nothing more, so a call that failed in between may be repeated.

    Args:
        client: Client of Redis.
        counters: Counters of keys.
        hold_ms: Lifetime of a hold in milliseconds.
    """
    if not counters:
        return
    names = [f"{previous_entries_of(one.key_id)}:{one.day}" for one in counters]
    answers = await run_each(client, [Step(TAKE_OVER, (name, f"{name}:moved"), ()) for name in names])
    found = dict(enumerate(_fields(answer) for answer in answers))
    moved = {i: fields for i, fields in found.items() if _COUNT.fullmatch(fields.get(b"charged", b""))}
    if not moved:
        return
    await run(client, [_import_step(counters[i], fields, hold_ms) for i, fields in moved.items()])
    # What was moved must not be imported again, if Redis loses the counter later.
    with redis_errors(client):
        for i in moved:
            await client.delete(f"{names[i]}:moved")


def _fields(answer: Any) -> dict[bytes, bytes]:
    return dict(zip(answer[::2], answer[1::2], strict=True)) if answer else {}


def _import_step(counter: Counter, fields: dict[bytes, bytes], hold_ms: int) -> Step:
    charged, limit = int(fields.pop(b"charged")), fields.pop(b"limit", b"")
    holds: list[str | int] = []
    for request_id, value in fields.items():
        match = _HOLD.match(value)
        if not _ID.fullmatch(request_id):
            continue  # Another program wrote it.
        reserved_at_ms = int(match[1]) if match else 0
        holds += [request_id.decode(), reserved_at_ms, reserved_at_ms + hold_ms]
    highest_limit = int(limit) if _COUNT.fullmatch(limit) else 0
    keys = (f"{entries_of(counter.account_id)}:{counter.day}", deadlines_of(counter.account_id))
    arguments = (counter.account_id, counter.day, counter.key_id, counter_of(counter), charged, highest_limit, *holds)
    return Step(IMPORT, keys, arguments)
