"""The Lua scripts, the names of what they touch, and how a batch of them runs in one round trip."""

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
from services.common.telemetry import tracing
from services.quota.metrics import ENTRIES_UNREADABLE
from services.quota.redis.batches import BatchRedis, Command
from services.quota.redis.connections import Client, ClusterRedis

_log = logging.getLogger(__name__)
_OF_THE_SERVER = re.compile(r"(?!WRONGTYPE\b)[A-Z]{4,}\b")
"""How an error begins that describes the server and not one entry: NOREPLICAS, MISCONF, BUSY."""
_PROBE_MS = 1_000

BUCKETS = 256
"""Each key is in one; all entries of a bucket are in one slot of a Redis Cluster."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script: one atomic step."""

    text: str
    sha: str


@dataclass(frozen=True, slots=True)
class Step:
    """One run of a script."""

    script: Script
    keys: tuple[str, ...]
    arguments: tuple[str | int, ...]


def _load(name: str) -> Script:
    text = (Path(__file__).parent / f"{name}.lua").read_text(encoding="utf-8")
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


RESERVE, SETTLE, STATUS, RECONCILE = _load("reserve"), _load("settle"), _load("status"), _load("reconcile")


async def run(client: Client, steps: Sequence[Step]) -> list[Any]:
    """Run scripts in one round trip and return their answers, in order.

    Raises:
        Unavailable: Redis cannot be reached, or a script failed.
    """
    answers = await run_each(client, steps)
    if None in answers:
        raise _unavailable()
    return answers


async def run_each(client: Client, steps: Sequence[Step]) -> list[Any]:
    """Run scripts in one round trip; return their answers in order, None for a script that failed by itself.

    A script fails by itself when an entry is of another type than this service writes. Scripts that a restarted Redis
    does not know are loaded and run again.

    Raises:
        Unavailable: Redis cannot be reached or cannot serve.
    """
    with tracing.span("redis", {"stack.scripts": len(steps)}), redis_errors(client):
        answers = await _round_trip(client, steps)
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            for script in {steps[i].script for i in unknown}:
                await client.script_load(script.text)
            for i, answer in zip(unknown, await _round_trip(client, [steps[i] for i in unknown]), strict=True):
                answers[i] = answer
        results = [own_failure(answer) for answer in answers]
    await probe_writes(client)
    return results


async def probe_writes(client: Client) -> None:
    """Write something where Redis refused the last write, to know whether it still does; else do nothing.

    Without a probe an unready service, which gets no requests to write for, would stay unready.
    """
    if not client.state.refuses_writes:
        return
    buckets = range(1 if isinstance(client, BatchRedis) else BUCKETS)  # Each node of a cluster has some.
    commands = [("SET", f"quota:{{{bucket}}}:writable", "1", "PX", _PROBE_MS) for bucket in buckets]
    with suppress(errors.Unavailable), redis_errors(client):
        for answer in await _run_commands(client, commands):
            if isinstance(answer, Exception):
                raise answer
        client.state.wrote()


@contextmanager
def redis_errors(client: Client) -> Iterator[None]:
    """Turn what the client raises into errors of our tree, and note whether Redis can be used."""
    try:
        yield
    except (RedisError, RedisClusterException, OSError) as exc:
        client.state.failed(exc)
        raise _unavailable() from exc
    client.state.answered()


def _unavailable() -> errors.Unavailable:
    return errors.Unavailable("the quota store cannot be reached; try again", reason="quota_unavailable")


def own_failure(answer: Any) -> Any:
    """Return an answer, or None where a command failed on one entry, such as one of another type.

    Subclasses of `ResponseError` (READONLY, OOM, CLUSTERDOWN, …) describe the server, and so do codes for which the
    package has none (NOREPLICAS, MISCONF, …): these are raised.
    """
    if type(answer) is ResponseError and not _OF_THE_SERVER.match(str(answer)):
        ENTRIES_UNREADABLE.inc()
        _log.error("an entry in Redis cannot be used", extra={"error": str(answer)[:200]})
        return None
    if isinstance(answer, Exception):
        raise answer
    return answer


def entries_of(key_id: str) -> str:
    """Return the name of a key's entries, without the day."""
    return f"quota:{{{_bucket(key_id)}}}:{key_id}"


def deadlines_of(key_id: str) -> str:
    """Return the name of the deadlines of a key's bucket."""
    return deadlines_of_bucket(_bucket(key_id))


def deadlines_of_bucket(bucket: int) -> str:
    """Return the name of a bucket's deadlines."""
    return f"quota:{{{bucket}}}:deadlines"


def _bucket(key_id: str) -> int:
    return zlib.crc32(key_id.encode()) % BUCKETS


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
        # Not `pipeline.evalsha`: a cluster's pipeline refuses that method, though it runs the command.
        pipeline.execute_command(*command)
    try:
        answers = await pipeline.execute(raise_on_error=False)
    except RedisCluster.ERRORS_ALLOW_RETRY as exc:
        answers = [exc] * len(commands)
    if any(isinstance(one, RedisCluster.ERRORS_ALLOW_RETRY) for one in answers):
        # Without retries a cluster's pipeline does not ask again who serves what: it would never find a new primary.
        await client.nodes_manager.initialize()
    return answers
