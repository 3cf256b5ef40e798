"""Lua scripts: loading, key names and batched execution."""

import hashlib
import logging
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from services.common import errors
from services.common.limits import Unit
from services.common.redis.batch_connection import Command
from services.common.telemetry import tracing
from services.quota.holds import Counter, KeyRef
from services.quota.metrics import ENTRIES_UNREADABLE
from services.quota.redis.connections import BatchRedis, Client, ClusterRedis

_log = logging.getLogger(__name__)
_OF_THE_SERVER = re.compile(r"(?!WRONGTYPE\b)[A-Z]{4,}\b")
"""Matches error codes that concern the server, not one entry: NOREPLICAS, MISCONF, BUSY."""
_PROBE_MS = 1_000

BUCKETS = 256
"""Number of buckets that accounts are spread over. A bucket's entries share a hash slot of a Redis Cluster."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, which Redis runs atomically."""

    text: str
    sha: str


@dataclass(frozen=True, slots=True)
class Step:
    """A call of a script."""

    script: Script
    keys: tuple[str, ...]
    arguments: tuple[str | int, ...]


def _load(name: str) -> Script:
    text = (Path(__file__).parent / f"{name}.lua").read_text(encoding="utf-8")
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


RESERVE, SETTLE, STATUS, RECONCILE = _load("reserve"), _load("settle"), _load("status"), _load("reconcile")
TAKE_OVER, IMPORT = _load("take_over"), _load("import")
RECORD_REFUSALS, LIST_REFUSALS = _load("record_refusals"), _load("list_refusals")


async def run(client: Client, steps: Sequence[Step]) -> list[Any]:
    """Run scripts in one round trip and return their results in order.

    Raises:
        Unavailable: Redis cannot be reached, or a script failed.
    """
    answers = await run_each(client, steps)
    if None in answers:
        raise _unavailable()
    return answers


async def run_each(client: Client, steps: Sequence[Step]) -> list[Any]:
    """Run scripts in one round trip and return their results in order, None for a script that failed on an entry.

    A script fails when an entry has a type that this service never writes. Scripts missing from Redis' script cache, as
    after a restart, are loaded and run again.

    Raises:
        Unavailable: Redis cannot be reached or cannot serve requests.
    """
    with tracing.span("redis", {"stack.scripts": len(steps)}), redis_errors(client):
        answers = await _round_trip(client, steps)
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            for script in {steps[i].script for i in unknown}:
                await client.script_load(script.text)
            for i, answer in zip(unknown, await _round_trip(client, [steps[i] for i in unknown]), strict=True):
                answers[i] = answer
        results = [check_reply(answer) for answer in answers]
    await probe_writes(client)
    return results


async def probe_writes(client: Client) -> None:
    """After a refused write, try another one to detect whether Redis accepts writes again.

    Without a probe, an unready service, which gets no requests that write, would stay unready.
    """
    if not client.state.refuses_writes:
        return
    buckets = range(1 if isinstance(client, BatchRedis) else BUCKETS)  # Each node of a cluster has some.
    commands = [("SET", f"quota:{{{bucket}}}:writable", "1", "PX", _PROBE_MS) for bucket in buckets]
    with suppress(errors.Unavailable), redis_errors(client):
        for answer in await _run_commands(client, commands):
            if isinstance(answer, Exception):
                raise answer
        client.state.record_write()


@contextmanager
def redis_errors(client: Client) -> Iterator[None]:
    """Convert the client's exceptions to `errors.Unavailable` and record whether Redis is usable."""
    try:
        yield
    except (RedisError, RedisClusterException, OSError) as exc:
        client.state.record_failure(exc)
        raise _unavailable() from exc
    client.state.record_success()


def _unavailable() -> errors.Unavailable:
    return errors.Unavailable("The quota store is unavailable. Try again in a moment.", reason="quota_unavailable")


def check_reply(answer: Any) -> Any:
    """Return a reply, or None if the command failed on one entry, such as one of the wrong type.

    Raises:
        RedisError: The server failed: subclasses of `ResponseError` (READONLY, OOM, CLUSTERDOWN, …), and codes for
            which the package has no class (NOREPLICAS, MISCONF, …).
    """
    if type(answer) is ResponseError and not _OF_THE_SERVER.match(str(answer)):
        ENTRIES_UNREADABLE.inc()
        _log.error("A Redis entry could not be used because of its type.", extra={"error": str(answer)[:200]})
        return None
    if isinstance(answer, Exception):
        raise answer
    return answer


def entries_of(account_id: str) -> str:
    """Return the Redis key of an account's entries, without the day."""
    return f"quota:{{{_bucket(account_id)}}}:account:{account_id}"


def deadlines_of(account_id: str) -> str:
    """Return the Redis key of the deadlines of an account's bucket."""
    return deadlines_of_bucket(_bucket(account_id))


def deadlines_of_bucket(bucket: int) -> str:
    """Return the Redis key of a bucket's deadlines."""
    return f"quota:{{{bucket}}}:holds"


def refusals_of(key: KeyRef) -> str:
    """Return the Redis key of a key's refused requests, without the day."""
    return f"quota:{{{_bucket(key.account_id)}}}:refusals:{key.account_id}:{key.key_id}"


def counter_of(counter: Counter | KeyRef) -> str:
    """Return the field of a counter in its account's entries."""
    unit = counter.unit if isinstance(counter, Counter) else Unit.REQUESTS
    return f"{counter.key_id or counter.account_id}:{unit}"


def previous_entries_of(key_id: str) -> str:
    """Return the Redis key of a key's entries in the layout of the previous version, without the day."""
    return f"quota:{{{_bucket(key_id)}}}:{key_id}"


def _bucket(text: str) -> int:
    return zlib.crc32(text.encode()) % BUCKETS


async def _round_trip(client: Client, steps: Sequence[Step]) -> list[Any]:
    commands: list[Command] = [
        ("EVALSHA", step.script.sha, len(step.keys), *step.keys, *step.arguments) for step in steps
    ]
    return await _run_commands(client, commands)


async def _run_commands(client: Client, commands: Sequence[Command]) -> list[Any]:
    if isinstance(client, BatchRedis):
        return await client.run_batch(commands)
    return await _run_in_cluster(client, commands)


async def _run_in_cluster(client: ClusterRedis, commands: Sequence[Command]) -> list[Any]:
    pipeline = client.pipeline()
    for command in commands:
        # ClusterPipeline blocks the `evalsha` method but executes the command.
        pipeline.execute_command(*command)
    try:
        answers = await pipeline.execute(raise_on_error=False)
    except RedisCluster.ERRORS_ALLOW_RETRY as exc:
        answers = [exc] * len(commands)
    if any(isinstance(answer, RedisCluster.ERRORS_ALLOW_RETRY) for answer in answers):
        # With retries disabled, ClusterPipeline does not refresh the slot map, so it would never find a new primary.
        await client.nodes_manager.initialize()
    return answers
