"""One contender's figures in one round, each with the CPU of all its processes, and the count of what it charged."""

from bench import closed_loop, open_loop, streams
from bench.contenders import Contender
from bench.percentiles import percentile
from bench.usage import usage

Figures = dict[str, float]
"""By name; the name ends with the load where a figure exists for several, as in `p50_ms@32`."""

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
        self._before = usage(contender.pids)

    def cpu_ms(self, *, answers: int) -> float:
        """Return the CPU time since the start, once everything is settled.

        Raises:
            Miscounted: Not exactly `answers` requests were charged since.
        """
        charged = self._contender.charged()
        if charged is not None and self._charged is not None and charged - self._charged != answers:
            raise Miscounted(f"{answers} requests were answered and {charged - self._charged} charged")
        return (usage(self._contender.pids).cpu_seconds - self._before.cpu_seconds) * 1000


def warm_up(contender: Contender, *, requests: int = 200) -> float:
    """Ask so many times at 32 connections, read a few streams, and return the requests a second."""
    rate = closed_loop.run(contender, requests=requests, connections=32).per_second
    streams.read(contender, "bursts", streams=4, at_once=4)
    return rate


def requests(contender: Contender, *, connections: int, seconds: float, rate: float) -> Figures:
    """Measure a closed loop for about so many seconds at the rate that a run before has shown."""
    count = min(max(int(rate * seconds), _REQUESTS_MIN), _REQUESTS_MAX)
    meter = Meter(contender)
    answers = closed_loop.run(contender, requests=count, connections=connections)
    cpu_ms = meter.cpu_ms(answers=count)
    figures = {"requests_per_second": answers.per_second, "cpu_ms_per_request": cpu_ms / count}
    return _at(str(connections), {**figures, **_latencies(answers), "requests": float(count)})


def arrivals(contender: Contender, *, per_second: int, seconds: float) -> Figures:
    """Measure an open loop."""
    count = int(per_second * seconds)
    meter = Meter(contender)
    answers = open_loop.run(contender, rate=per_second, requests=count)
    cpu_ms = meter.cpu_ms(answers=count)
    return _at(f"{per_second}/s", {**_latencies(answers), "cpu_ms_per_request": cpu_ms / count})


def many_streams(contender: Contender, shape: streams.Shape, *, count: int, at_once: int) -> Figures:
    """Measure many streams at once."""
    meter = Meter(contender)
    found = streams.read(contender, shape, streams=count, at_once=at_once)
    cpu_ms = meter.cpu_ms(answers=count)
    return _at(shape, {"streams_per_second": found.per_second, "cpu_ms_per_event": cpu_ms / found.events})


def first_event(contender: Contender, *, count: int) -> Figures:
    """Measure the time to the first event, one stream at a time."""
    meter = Meter(contender)
    found = streams.read(contender, "bursts", streams=count, at_once=1)
    meter.cpu_ms(answers=count)
    return _at("1", {"first_event_p50_ms": percentile(found.first_event_ms, 0.5)})


def memory_mb(contender: Contender) -> float:
    """Return the resident memory of all processes."""
    return usage(contender.pids).rss_bytes / 1e6


def _latencies(answers: closed_loop.Answers) -> Figures:
    return {f"{name}_ms": percentile(answers.latencies_ms, share) for name, share in _SHARES.items()}


def _at(load: str, figures: Figures) -> Figures:
    return {f"{name}@{load}": value for name, value in figures.items()}
