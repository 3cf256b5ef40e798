"""Memory use and request latency of one gateway with 1 to 2,000 open streams.

Each stream sends a word every five seconds, like a slow model, and is read to its end. All must be complete and charged
once. Exits with 1 if a request takes more than three times as long with 2,000 open streams as with one.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench import wire
from bench.contenders.stack import WORKER, Stack, stack_alone
from bench.mock import Mock
from bench.percentiles import percentile
from bench.progress import say
from bench.surfaces import CHAT
from bench.tables import number, table
from bench.usage import usage

_RATIO_MAX = 3.0
_ASKED = 60
_OPENING_AT_ONCE = 50
_STEPS = (1, 10, 100, 500, 1_000, 2_000)
# The defaults of one inference process allow fewer streams.
_SETTINGS = {"INFERENCE_CONCURRENCY_MAX": "4000"}


@dataclass(frozen=True, slots=True)
class Level:
    """Figures with a number of open streams."""

    streams: int
    p50_ms: float
    p99_ms: float
    rss_mb: float
    """Resident memory of the worker, which runs all services."""
    descriptors: int


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=_STEPS[-1], help="maximum open streams")
    steps = [step for step in _STEPS if step <= parser.parse_args().streams]
    with stack_alone(workers=1, **_SETTINGS) as (stack, mock):
        levels = asyncio.run(measure(stack, mock, steps))
        asked = len(levels) * _ASKED + steps[-1]
        charged = stack.charged()
    print("\n".join(report(levels)))
    if charged != asked:
        sys.exit(f"{asked} requests were answered, but {charged} were charged")
    if (ratio := levels[-1].p50_ms / levels[0].p50_ms) > _RATIO_MAX:
        sys.exit(f"A request takes {ratio:.1f} times as long with {levels[-1].streams:,} open streams as with one")


async def measure(stack: Stack, mock: Mock, steps: Sequence[int]) -> list[Level]:
    """Open streams up to each step, measure requests at each, and finally read all streams to their ends."""
    connections: list[wire.Connection] = []
    reading: list[asyncio.Task[wire.Reply]] = []
    levels = []
    request = wire.request(stack, CHAT.body(stack, "slow", stream=True))
    for step in steps:
        while len(connections) < step:
            opened = [await wire.connect(stack) for _ in range(min(_OPENING_AT_ONCE, step - len(connections)))]
            reading += [asyncio.create_task(connection.ask(request)) for connection in opened]
            await asyncio.gather(*(connection.until_begun() for connection in opened))
            connections += opened
        levels.append(await _level(stack, step))
    mock.release()
    for reply in await asyncio.gather(*reading):
        CHAT.check_stream(reply, contents_min=2)
    for connection in connections:
        connection.close()
    return levels


def report(levels: Sequence[Level]) -> list[str]:
    """Return the lines of the table."""
    rows = [
        [
            f"{level.streams:,}",
            *map(number, (level.p50_ms, level.p99_ms, level.rss_mb)),
            f"{level.descriptors:,}",
        ]
        for level in levels
    ]
    heads = ["open streams", "request p50 ms", "p99 ms", "worker MB", "descriptors"]
    return table(heads, rows)


async def _level(stack: Stack, count: int) -> Level:
    connection = await wire.connect(stack)
    request = wire.request(stack, CHAT.body(stack))
    took = []
    for _ in range(_ASKED):
        sent = time.perf_counter()
        reply = await connection.ask(request)
        assert reply.status == 200, reply.body
        took.append((reply.ended - sent) * 1000)
    connection.close()
    used = usage([stack.parts[WORKER]])
    say(f"{count:,} streams are open")
    return Level(
        streams=count,
        p50_ms=percentile(took, 0.5),
        p99_ms=percentile(took, 0.99),
        rss_mb=used.rss_bytes / 1e6,
        descriptors=used.descriptors,
    )


if __name__ == "__main__":
    main()
