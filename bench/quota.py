"""`make bench-quota`: reservations per second of one quota process, called by the gateway's client.

The quota process is part of a complete stack with Valkey and the ledger. A fixed number of callers reserve slots
concurrently, and the client batches their calls as in a gateway. Holds are released after the measurement.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.request import urlopen

import uvloop
from prometheus_client.parser import text_string_to_metric_families

from bench.contenders.stack import Stack
from bench.mock import Mock
from bench.percentiles import percentile
from bench.progress import say
from bench.tables import number, table
from bench.usage import usage
from services.auth.keys.minting import DAILY_LIMIT_MAX
from services.common.rpc.channel import open_channel
from services.common.verdict import RELEASED
from services.gateway.clients.batched_quota import BatchedQuota
from services.gateway.clients.quota import GrpcQuotaBatches
from services.gateway.requests.ports import Quota
from services.gateway.requests.types import Hold, Principal

_TIMEOUT_SECONDS = 10.0
_CALLERS = (1, 32, 256)
_KEYS = (1, 10_000)
_NUMBERS = count()


@dataclass(frozen=True, slots=True)
class Load:
    """A load on quota."""

    keys: int
    callers: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Found:
    """The figures of a load."""

    load: Load
    per_second: float
    p50_ms: float
    p99_ms: float
    batch: float
    """Average reservations per call."""
    quota_cpu_us: float
    valkey_cpu_us: float
    """CPU time per reservation."""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each load")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name:
        stack = Stack(Path(name), groq_base_url=Mock(Path(name)).base_url, workers=0)
        stack.start()
        try:
            loads = [Load(keys, callers, seconds) for keys in _KEYS for callers in _CALLERS]
            found = uvloop.run(measure(stack, loads))
        finally:
            stack.stop()
    print("\n".join(report(found)))


async def measure(stack: Stack, loads: Sequence[Load]) -> list[Found]:
    """Run the loads one after the other against a running stack."""
    async with open_channel(stack.addresses["QUOTA_LISTEN"]) as channel:
        quota = BatchedQuota(GrpcQuotaBatches(channel, timeout_seconds=_TIMEOUT_SECONDS))
        return [await _measure(stack, quota, load) for load in loads]


def report(found: Sequence[Found]) -> list[str]:
    """Return the lines of the table."""
    rows = [
        [
            f"{each.load.keys:,} keys, {each.load.callers} callers",
            *map(
                number, (each.per_second, each.p50_ms, each.p99_ms, each.batch, each.quota_cpu_us, each.valkey_cpu_us)
            ),
        ]
        for each in found
    ]
    heads = ["load", "reservations/s", "p50 ms", "p99 ms", "in one call", "quota CPU µs each", "Valkey CPU µs each"]
    return table(heads, rows)


async def _measure(stack: Stack, quota: Quota, load: Load) -> Found:
    principals = [_principal(number) for number in range(load.keys)]
    # The first reservation of a key on a day reads the ledger. Exclude this cost, which occurs once a day.
    await _settle(quota, await asyncio.gather(*(_reserve(quota, principal) for principal in principals)))
    before, batches, started = _cpu(stack), _batches(stack), time.perf_counter()
    held, took = await _load(quota, principals, load)
    elapsed = time.perf_counter() - started
    after = _cpu(stack)
    calls, items = (now - then for now, then in zip(_batches(stack), batches, strict=True))
    await _settle(quota, held)
    say(f"{load.keys:,} keys, {load.callers} callers: {len(held) / elapsed:,.0f} reservations/s")
    return Found(
        load=load,
        per_second=len(held) / elapsed,
        p50_ms=percentile(took, 0.5),
        p99_ms=percentile(took, 0.99),
        batch=items / calls,
        quota_cpu_us=(after["quota"] - before["quota"]) * 1e6 / len(held),
        valkey_cpu_us=(after["valkey"] - before["valkey"]) * 1e6 / len(held),
    )


async def _load(quota: Quota, principals: Sequence[Principal], load: Load) -> tuple[list[Hold], list[float]]:
    """Reserve slots for the duration of the load. Return the holds, and the duration of each call in milliseconds."""
    turns = _round_robin(principals)
    end = time.perf_counter() + load.seconds
    held: list[Hold] = []
    took: list[float] = []

    async def caller() -> None:
        while (began := time.perf_counter()) < end:
            held.append(await _reserve(quota, next(turns)))
            took.append((time.perf_counter() - began) * 1000)

    async with asyncio.TaskGroup() as group:
        for _ in range(load.callers):
            group.create_task(caller())
    return held, took


async def _reserve(quota: Quota, principal: Principal) -> Hold:
    return await quota.reserve(f"req_{next(_NUMBERS):026d}", principal)


async def _settle(quota: Quota, holds: Sequence[Hold]) -> None:
    await asyncio.gather(*(quota.settle(hold, RELEASED) for hold in holds))


def _principal(number: int) -> Principal:
    return Principal(f"key_{number:026d}", f"acc_{number:026d}", daily_limit=DAILY_LIMIT_MAX, expires_at=None)


def _round_robin(principals: Sequence[Principal]) -> Iterator[Principal]:
    return (principals[number % len(principals)] for number in count())


def _cpu(stack: Stack) -> dict[str, float]:
    return {name: usage([stack.parts[name]]).cpu_seconds for name in ("quota", "valkey")}


def _batches(stack: Stack) -> tuple[float, float]:
    """Return the number of Reserve calls and of the reservations in them."""
    with urlopen(f"http://{stack.addresses['QUOTA_METRICS_LISTEN']}/metrics", timeout=5) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    samples = [sample for family in families if family.name == "stack_quota_batch_items" for sample in family.samples]
    reserve = {sample.name: sample.value for sample in samples if sample.labels["rpc"].lower() == "reserve"}
    return reserve["stack_quota_batch_items_count"], reserve["stack_quota_batch_items_sum"]


if __name__ == "__main__":
    main()
