"""`python -m bench.latency`: where the time of a request goes when it is the only one, in each layout.

A request waits for its parts one after the other, so that their sum and a rest are its duration. Most of the parts come
from the product's own metrics.
"""

import asyncio
import time
from collections.abc import Mapping
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from bench import wire
from bench.contenders import Contender
from bench.contenders.stack import ALL_LIMITS, WORKER, Stack, stack_alone
from bench.surfaces import CHAT
from bench.tables import number, table

_REQUESTS = 2_000
_WARM_UP = 500
_PARTS = {
    "admission": ("gateway", "stack_gateway_admission_seconds"),
    "commit of the row": ("inference", "stack_ledger_commit_seconds"),
    "gateway, in all": ("gateway", "stack_http_request_duration_seconds"),
}
"""Service and metric of each measured part."""
_HEADS = (
    "mean ms",
    "until the reservation is made",
    "Groq, which is the mock",
    "commit of the row",
    "rest of the product",
    "HTTP and the client",
    "all",
)


def main() -> None:
    """Measure and print a table."""
    rows = []
    for name, workers in (("one process", 1), ("four processes", 0)):
        with stack_alone(workers=workers, limits=ALL_LIMITS) as (stack, mock):
            asyncio.run(_seconds(mock, _WARM_UP))
            direct = asyncio.run(_seconds(mock, _REQUESTS))
            rows.append([name, *map(number, _parts(stack, direct))])
    print("\n".join(table(_HEADS, rows)))


def _parts(stack: Stack, direct: float) -> list[float]:
    """Return the parts of a request in milliseconds, in the order of `_HEADS`."""
    asyncio.run(_seconds(stack, _WARM_UP))
    before = _totals(stack)
    whole = asyncio.run(_seconds(stack, _REQUESTS))
    after = _totals(stack)
    mean = {part: (after[part][0] - before[part][0]) / (after[part][1] - before[part][1]) for part in _PARTS}
    rest = mean["gateway, in all"] - mean["admission"] - direct - mean["commit of the row"]
    outside = whole - mean["gateway, in all"]
    found = (mean["admission"], direct, mean["commit of the row"], rest, outside, whole)
    return [seconds * 1000 for seconds in found]


async def _seconds(contender: Contender, count: int) -> float:
    """Send requests one after the other over one connection, and return their mean duration in seconds."""
    connection = await wire.connect(contender)
    request = wire.request(contender, CHAT.body(contender))
    began = time.perf_counter()
    for _ in range(count):
        reply = await connection.ask(request)
        assert reply.status == 200, reply.body
    connection.close()
    return (time.perf_counter() - began) / count


def _totals(stack: Stack) -> Mapping[str, tuple[float, float]]:
    """Return the sum of the durations of each part since the start, in seconds, and their number."""
    # One process has all metrics at the gateway's address.
    shared = "gateway" if WORKER in stack.parts else None
    return {part: _total(stack, shared or service, metric) for part, (service, metric) in _PARTS.items()}


def _total(stack: Stack, service: str, metric: str) -> tuple[float, float]:
    with urlopen(f"http://{stack.addresses[f'{service.upper()}_METRICS_LISTEN']}/metrics", timeout=5) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    samples = [sample for family in families for sample in family.samples]
    seconds, count = (
        sum(sample.value for sample in samples if sample.name == f"{metric}_{end}") for end in ("sum", "count")
    )
    return seconds, count


if __name__ == "__main__":
    main()
