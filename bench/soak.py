"""`make soak`: load the product for half an hour and check that its resource usage does not grow.

Load comes in slices of requests and streams. After each slice, charges are checked, nothing may be in flight, and
memory, threads and descriptors are sampled. The first third is warm-up, in which caches, pools and the allocator fill.
Exits with 1 if the last third uses more than the second.
"""

import argparse
import csv
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from bench import closed_loop, measure, streams
from bench.contenders.stack import Stack, stack_alone
from bench.progress import say
from bench.tables import number, table
from bench.usage import usage

_SLICE_SECONDS = 10.0
_CONNECTIONS = 32
_STREAMS = 32
_WARM_UP_REQUESTS = 500
_GROWTH_MAX = 1.05
_SLACK = {"rss_mb": 3.0, "threads": 1.0, "descriptors": 2.0}
"""Tolerated growth in addition to 5 %, because the allocator and the pools fluctuate."""

_IN_FLIGHT = ("stack_http_requests_in_flight", "stack_gateway_streams_open", "stack_rpc_in_flight")
_ENDLESS = "WatchKeys"
"""The only call that is always in flight: the gateway's watch of key changes."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Resource usage of one process after one slice."""

    seconds: float
    """Seconds since the start."""
    answered: int
    part: str
    rss_mb: float
    threads: int
    descriptors: int


def main() -> None:
    """Run the load, write the samples, print a table, and exit with 1 if a process grows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path("var/soak.csv"), help="file for the samples")
    options = parser.parse_args()
    with stack_alone() as (stack, _):
        samples = list(soak(stack, seconds=options.minutes * 60))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write(samples, options.out)
    print("\n".join(report(samples)))
    if grown := growth(samples):
        sys.exit("Resource usage grows: " + ", ".join(grown))


def soak(stack: Stack, *, seconds: float) -> Iterator[Sample]:
    """Load a running stack for `seconds` and yield samples of all its processes after each slice.

    Raises:
        Miscounted: A slice was not charged exactly.
        StillInFlight: A request or call was in flight after a slice.
    """
    rate = measure.warm_up(stack, requests=_WARM_UP_REQUESTS)
    started, answered = time.monotonic(), 0
    while (now := time.monotonic() - started) < seconds:
        requests = max(1, int(rate * min(_SLICE_SECONDS, seconds - now)))
        meter = measure.Meter(stack)
        rate = closed_loop.run(stack, requests=requests, connections=_CONNECTIONS).per_second
        streams.read(stack, "bursts", streams=_STREAMS, at_once=_STREAMS)
        meter.cpu_ms(answers=requests + _STREAMS)
        _until_nothing_in_flight(stack)
        answered += requests + _STREAMS
        elapsed = time.monotonic() - started
        yield from (_sample(part, pid, elapsed, answered) for part, pid in stack.parts.items())
        say(f"{answered:,} answered and charged, {rate:,.0f} requests/s")


class StillInFlight(Exception):
    """A request or call is counted as in flight although all were answered, which indicates a leak."""


def growth(samples: Sequence[Sample]) -> list[str]:
    """Return a phrase for each figure of a process that is higher in the last third of the time than in the second."""
    found = []
    for part in dict.fromkeys(sample.part for sample in samples):
        mine = [sample for sample in samples if sample.part == part]
        third = len(mine) // 3
        if third:
            found += [phrase for figure in _SLACK if (phrase := _grown(mine[third:-third], mine[-third:], figure))]
    return found


def report(samples: Sequence[Sample]) -> list[str]:
    """Return a table: the first sample of each process, and the means of the thirds."""
    rows = []
    for part in dict.fromkeys(sample.part for sample in samples):
        mine = [sample for sample in samples if sample.part == part]
        third = max(1, len(mine) // 3)
        spans = (mine[:1], mine[third : 2 * third] or mine, mine[-third:])
        rows.append([part, *(number(_mean(span, figure)) for figure in _SLACK for span in spans)])
    spans_of = [
        f"{figure} {span}" for figure in ("RSS MB", "threads", "descriptors") for span in ("first", "mid", "end")
    ]
    return table(["process", *spans_of], rows)


def write(samples: Sequence[Sample], path: Path) -> None:
    """Write all samples as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(samples[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(sample) for sample in samples)


def _grown(before: Sequence[Sample], after: Sequence[Sample], figure: str) -> str:
    was, now = _mean(before, figure), _mean(after, figure)
    if now <= was * _GROWTH_MAX + _SLACK[figure]:
        return ""
    return f"{figure} of {before[0].part} from {was:.0f} to {now:.0f}"


def _mean(samples: Sequence[Sample], figure: str) -> float:
    return mean(float(getattr(sample, figure)) for sample in samples)


def _sample(part: str, pid: int, seconds: float, answered: int) -> Sample:
    now = usage([pid], with_children=False)
    return Sample(round(seconds, 1), answered, part, round(now.rss_bytes / 1e6, 1), now.threads, now.descriptors)


def _until_nothing_in_flight(stack: Stack) -> None:
    deadline = time.monotonic() + 5
    while left := {name: value for name, value in _in_flight(stack).items() if value}:
        if time.monotonic() > deadline:
            raise StillInFlight(str(left))
        time.sleep(0.05)


def _in_flight(stack: Stack) -> dict[str, float]:
    found: dict[str, float] = {}
    with urlopen(f"http://{stack.addresses['GATEWAY_METRICS_LISTEN']}/metrics", timeout=5) as answer:
        for family in text_string_to_metric_families(answer.read().decode()):
            for sample in family.samples if family.name in _IN_FLIGHT else ():
                if _ENDLESS not in sample.labels.get("method", ""):
                    found[f"{sample.name} {sample.labels}"] = sample.value
    return found


if __name__ == "__main__":
    main()
