"""Interleaved measurement of all contenders on the same machine.

All contenders run at the same time, but only one is under load. Rounds are short, so that noise affects at most one run
of each contender, and the report uses the median of the rounds.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench import measure
from bench.contenders import Contender
from bench.measure import Figures
from bench.processes import DidNotStart
from bench.progress import say


@dataclass(frozen=True, slots=True)
class Plan:
    """The sizes of the loads."""

    rounds: int
    warm_up_requests: int
    seconds: float
    """Duration of a closed loop at 32 connections."""
    seconds_alone: float
    """Duration of a closed loop at one connection."""
    arrivals: Sequence[tuple[int, float]] = ()
    """Open loops: requests per second, and the duration in seconds."""
    bursts: int = 64
    spaced: int = 0
    streams_at_once: int = 16
    first_events: int = 4


Rounds = dict[str, list[Figures]]
"""The figures of each round, by contender."""

_HEADROOM = 1.5
"""Required ratio of the closed-loop rate to the rate of an open loop. Below it, queues would only grow."""


@contextmanager
def running(contenders: Sequence[Contender]) -> Iterator[tuple[list[Contender], dict[str, str]]]:
    """Run the contenders during the block. Yield the started ones, and by name why others did not start."""
    started, skipped = [], {}
    with ExitStack() as stack:
        for contender in contenders:
            try:
                contender.start()
            except DidNotStart as exc:
                skipped[contender.name] = str(exc)
                say(f"{contender.name} is SKIPPED: {exc}")
                continue
            stack.callback(contender.stop)
            started.append(contender)
            say(f"{contender.name} runs: {contender.version}")
        yield started, skipped


def run(contenders: Sequence[Contender], plan: Plan) -> Rounds:
    """Measure all contenders according to the plan."""
    idle = {contender.name: measure.memory(contender, "idle") for contender in contenders}
    rates = {}
    for contender in contenders:
        rates[contender.name] = measure.warm_up(contender, requests=plan.warm_up_requests)
        say(f"{contender.name} is warm")
    rounds: Rounds = {contender.name: [] for contender in contenders}
    for number in range(1, plan.rounds + 1):
        for contender in contenders:
            figures = _one(contender, plan, rates[contender.name])
            rounds[contender.name].append(figures | idle[contender.name])
            rates[contender.name] = figures["requests_per_second@32"]
            say(f"round {number} of {plan.rounds}, {contender.name}: {rates[contender.name]:,.0f} requests/s")
    return rounds


def _one(contender: Contender, plan: Plan, rate: float) -> Figures:
    # One connection is slower than 32 by a factor that varies; a third of the rate takes only a little longer.
    figures = measure.requests(contender, connections=32, seconds=plan.seconds, rate=rate)
    figures |= measure.requests(contender, connections=1, seconds=plan.seconds_alone, rate=rate / 3)
    for per_second, seconds in plan.arrivals:
        if figures["requests_per_second@32"] > per_second * _HEADROOM:
            figures |= measure.arrivals(contender, per_second=per_second, seconds=seconds)
    figures |= measure.many_streams(contender, "bursts", count=plan.bursts, at_once=plan.streams_at_once)
    if plan.spaced:
        figures |= measure.many_streams(contender, "spaced", count=plan.spaced, at_once=plan.streams_at_once)
    figures |= measure.first_event(contender, count=plan.first_events)
    return figures | measure.memory(contender, "load")
