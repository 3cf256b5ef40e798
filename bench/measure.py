"""Figures of one contender in one round, with the CPU time of its processes and a check of its charges."""

import asyncio

from bench import closed_loop, open_loop, streams, wire
from bench.contenders import Contender
from bench.percentiles import percentile
from bench.surfaces import CHAT, Surface
from bench.usage import pss_bytes, usage

Figures = dict[str, float]
"""Figures by name. A name may end with `@` and the load, then `/` and one of several processes."""

_SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
_REQUESTS_MIN = 20
_REQUESTS_MAX = 40_000


class Miscounted(Exception):
    """A contender has charged a different number of requests than were answered."""


class Meter:
    """Measures CPU time and charges of one load."""

    def __init__(self, contender: Contender) -> None:
        """Start measuring."""
        self._contender = contender
        self._charged = contender.charged()
        self._parts = contender.parts
        self._before = self._cpu_seconds()

    def cpu_ms(self, *, answers: int, units: int | None = None) -> Figures:
        """Return the CPU time since the start, in total and by process, after all requests are settled.

        Args:
            answers: Number of answered requests.
            units: Divisor of the CPU time; `answers` by default.

        Raises:
            Miscounted: The number of charged requests is not `answers`.
        """
        charged = self._contender.charged()
        if charged is not None and self._charged is not None and charged - self._charged != answers:
            raise Miscounted(f"{answers} requests were answered, but {charged - self._charged} were charged")
        after = self._cpu_seconds()
        return {part: (after[part] - self._before[part]) * 1000 / (units or answers) for part in after}

    def _cpu_seconds(self) -> dict[str, float]:
        """Return the CPU time by process; the empty name has the total."""
        seconds = {"": usage(self._parts.values()).cpu_seconds}
        if len(self._parts) > 1:
            seconds |= {name: usage([pid], with_children=False).cpu_seconds for name, pid in self._parts.items()}
        return seconds


def warm_up(contender: Contender, *, requests: int, surface: Surface = CHAT) -> float:
    """Check an answer, send `requests` over 32 connections, read a few streams, and return the requests per second."""
    asyncio.run(_check_answer(contender, surface))
    rate = closed_loop.run(contender, requests=requests, connections=32, surface=surface).per_second
    streams.read(contender, "bursts", streams=4, at_once=4, surface=surface)
    return rate


def requests(contender: Contender, *, connections: int, seconds: float, rate: float) -> Figures:
    """Measure a closed loop for about `seconds`, based on the `rate` of an earlier run."""
    count = min(max(int(rate * seconds), _REQUESTS_MIN), _REQUESTS_MAX)
    meter = Meter(contender)
    answers = closed_loop.run(contender, requests=count, connections=connections)
    load = str(connections)
    cpu = _by_part("cpu_ms_per_request", load, meter.cpu_ms(answers=count))
    return {f"requests_per_second@{load}": answers.per_second, **cpu, **_latencies(answers, load)}


def other_surface(contender: Contender, surface: Surface, *, requests: int, count: int, at_once: int) -> Figures:
    """Measure a surface: `requests` in a closed loop at 32 connections, and `count` streams in bursts."""
    requests = max(requests, _REQUESTS_MIN)
    meter = Meter(contender)
    answers = closed_loop.run(contender, requests=requests, connections=32, surface=surface)
    figures = {f"requests_per_second@{surface.path}": answers.per_second}
    figures |= _by_part("cpu_ms_per_request", surface.path, meter.cpu_ms(answers=requests))
    meter = Meter(contender)
    found = streams.read(contender, "bursts", streams=count, at_once=at_once, surface=surface)
    return figures | _by_part("cpu_ms_per_event", surface.path, meter.cpu_ms(answers=count, units=found.events))


def arrivals(contender: Contender, *, per_second: int, seconds: float) -> Figures:
    """Measure an open loop."""
    count = int(per_second * seconds)
    meter = Meter(contender)
    answers = open_loop.run(contender, rate=per_second, requests=count)
    load = f"{per_second} a second"
    cpu = _by_part("cpu_ms_per_request", load, meter.cpu_ms(answers=count))
    return {**cpu, **_latencies(answers, load)}


def many_streams(contender: Contender, shape: streams.Shape, *, count: int, at_once: int) -> Figures:
    """Measure concurrent streams."""
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
    """Return the proportional memory (PSS), in total and by process."""
    found = {"": pss_bytes(contender.parts.values()) / 1e6}
    if len(contender.parts) > 1:
        for name, pid in contender.parts.items():
            found[name] = pss_bytes([pid], with_children=False) / 1e6
    return _by_part("pss_mb", moment, found)


async def _check_answer(contender: Contender, surface: Surface) -> None:
    connection = await wire.connect(contender)
    request = wire.request(contender, surface.body(contender), path=surface.url_path(contender))
    try:
        surface.check(await connection.ask(request))
    finally:
        connection.close()


def _latencies(answers: closed_loop.Answers, load: str) -> Figures:
    found = {f"{name}_ms@{load}": percentile(answers.latencies_ms, share) for name, share in _SHARES.items()}
    return {**found, f"requests@{load}": float(answers.count)}


def _by_part(figure: str, load: str, values: Figures) -> Figures:
    return {f"{figure}@{load}" + (f"/{part}" if part else ""): value for part, value in values.items()}
