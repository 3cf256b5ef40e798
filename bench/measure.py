"""One contender's figures in one round, each with the CPU of all its processes, and the count of what it charged."""

from bench import closed_loop, open_loop, streams
from bench.contenders import Contender
from bench.percentiles import percentile
from bench.usage import usage

Figures = dict[str, float]
"""By name; after `@` comes the load where a figure exists for several, after `/` one of several processes."""

_SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
_REQUESTS_MIN = 20
_REQUESTS_MAX = 40_000


class Miscounted(Exception):
    """A contender that charges has charged for another number of requests than were answered."""


class Meter:
    """CPU and charges of one load."""

    def __init__(self, contender: Contender) -> None:
        """Read both before the load."""
        self._contender = contender
        self._charged = contender.charged()
        self._parts = contender.parts
        self._before = self._cpu_seconds()

    def cpu_ms(self, *, answers: int, units: int | None = None) -> Figures:
        """Return the CPU time since the start once everything is settled, in all and by process.

        Args:
            answers: How many requests were answered.
            units: What to divide by; `answers` unless told otherwise.

        Raises:
            Miscounted: Not exactly `answers` requests were charged since.
        """
        charged = self._contender.charged()
        if charged is not None and self._charged is not None and charged - self._charged != answers:
            raise Miscounted(f"{answers} requests were answered and {charged - self._charged} charged")
        after = self._cpu_seconds()
        return {part: (after[part] - self._before[part]) * 1000 / (units or answers) for part in after}

    def _cpu_seconds(self) -> dict[str, float]:
        """Return CPU time by process, and of all under the empty name."""
        seconds = {"": usage(self._parts.values()).cpu_seconds}
        if len(self._parts) > 1:
            seconds |= {name: usage([pid], with_children=False).cpu_seconds for name, pid in self._parts.items()}
        return seconds


def warm_up(contender: Contender, *, requests: int) -> float:
    """Ask so many times at 32 connections, read a few streams, and return the requests a second."""
    rate = closed_loop.run(contender, requests=requests, connections=32).per_second
    streams.read(contender, "bursts", streams=4, at_once=4)
    return rate


def requests(contender: Contender, *, connections: int, seconds: float, rate: float) -> Figures:
    """Measure a closed loop for about so many seconds at the rate that a run before has shown."""
    count = min(max(int(rate * seconds), _REQUESTS_MIN), _REQUESTS_MAX)
    meter = Meter(contender)
    answers = closed_loop.run(contender, requests=count, connections=connections)
    load = str(connections)
    cpu = _by_part("cpu_ms_per_request", load, meter.cpu_ms(answers=count))
    return {f"requests_per_second@{load}": answers.per_second, **cpu, **_latencies(answers, load)}


def arrivals(contender: Contender, *, per_second: int, seconds: float) -> Figures:
    """Measure an open loop."""
    count = int(per_second * seconds)
    meter = Meter(contender)
    answers = open_loop.run(contender, rate=per_second, requests=count)
    load = f"{per_second} a second"
    cpu = _by_part("cpu_ms_per_request", load, meter.cpu_ms(answers=count))
    return {**cpu, **_latencies(answers, load)}


def many_streams(contender: Contender, shape: streams.Shape, *, count: int, at_once: int) -> Figures:
    """Measure many streams at once."""
    meter = Meter(contender)
    found = streams.read(contender, shape, streams=count, at_once=at_once)
    cpu = _by_part("cpu_ms_per_event", shape, meter.cpu_ms(answers=count, units=found.events))
    return {f"streams_per_second@{shape}": found.per_second, **cpu}


def first_event(contender: Contender, *, count: int) -> Figures:
    """Measure the time to the first event, one stream at a time."""
    meter = Meter(contender)
    found = streams.read(contender, "bursts", streams=count, at_once=1)
    meter.cpu_ms(answers=count)
    return {"first_event_p50_ms@1": percentile(found.first_event_ms, 0.5)}


def memory(contender: Contender, moment: str) -> Figures:
    """Return resident memory, in all and by process."""
    found = {"": usage(contender.parts.values()).rss_bytes / 1e6}
    if len(contender.parts) > 1:
        for name, pid in contender.parts.items():
            found[name] = usage([pid], with_children=False).rss_bytes / 1e6
    return _by_part("rss_mb", moment, found)


def _latencies(answers: closed_loop.Answers, load: str) -> Figures:
    found = {f"{name}_ms@{load}": percentile(answers.latencies_ms, share) for name, share in _SHARES.items()}
    return {**found, f"requests@{load}": float(answers.count)}


def _by_part(figure: str, load: str, values: Figures) -> Figures:
    return {f"{figure}@{load}" + (f"/{part}" if part else ""): value for part, value in values.items()}
