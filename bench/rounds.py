"""Interleaved measurement of all contenders on the same machine.

All contenders run at the same time, but only one is under load. Rounds are short, so that noise affects at most one run
of each contender, and the report uses the median of the rounds.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psutil

from bench import measure
from bench.contenders import Contender
from bench.measure import Figures
from bench.processes import DidNotStart
from bench.progress import say
from bench.surfaces import CHAT, OTHERS, Surface
from bench.wire import NotAnswered


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
    seconds_surface: float = 0.0
    """Duration of a closed loop on each of the other surfaces; 0 leaves them out."""


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


def run(contenders: Sequence[Contender], plan: Plan) -> tuple[Rounds, dict[str, str]]:
    """Measure all contenders according to the plan. Return the figures, and by name why others were left out.

    Raises:
        ExceptionGroup: The product did not answer a request. Another contender that does not is left out.
    """
    measured = [_Measured(contender, plan) for contender in contenders]
    for each in measured:
        each.warm_up()
    for number in range(1, plan.rounds + 1):
        for each in measured:
            each.measure(number)
    rounds = {each.name: each.rounds for each in measured if not each.failure}
    return rounds, {each.name: each.failure for each in measured if each.failure}


class _Measured:
    """A contender and its figures so far."""

    def __init__(self, contender: Contender, plan: Plan) -> None:
        self.name = contender.name
        self.rounds: list[Figures] = []
        self.failure = ""
        self._contender, self._plan = contender, plan
        self._idle = measure.memory(contender, "idle")
        self._surfaces = tuple(one for one in OTHERS if plan.seconds_surface and one.path in contender.surfaces)
        self._rates: dict[str, float] = {}

    def warm_up(self) -> None:
        """Warm up all surfaces."""
        self._attempt(self._warm_up)
        say(f"{self.name} is warm")

    def measure(self, number: int) -> None:
        """Measure one round."""
        self._attempt(self._measure)
        if not self.failure:
            rate = self._rates[CHAT.path]
            say(f"round {number} of {self._plan.rounds}, {self.name}: {rate:,.0f} requests/s")

    def _attempt(self, work: Callable[[], None]) -> None:
        """Do the work unless an earlier one failed. Record a failure of a contender other than the product."""
        if self.failure:
            return
        try:
            work()
        except* (NotAnswered, OSError, psutil.NoSuchProcess) as group:
            if self._contender.charged() is not None:
                raise
            self.failure = f"it did not answer every request: {_first(group)}"
            say(f"{self.name} FAILED: {_first(group)}")

    def _warm_up(self) -> None:
        for surface in (CHAT, *self._surfaces):
            requests = self._plan.warm_up_requests
            self._rates[surface.path] = measure.warm_up(self._contender, requests=requests, surface=surface)

    def _measure(self) -> None:
        contender, plan, rate = self._contender, self._plan, self._rates[CHAT.path]
        figures = measure.requests(contender, connections=32, seconds=plan.seconds, rate=rate)
        self._rates[CHAT.path] = figures["requests_per_second@32"]
        # One connection is slower than 32 by a factor that varies; a third of the rate takes only a little longer.
        figures |= measure.requests(contender, connections=1, seconds=plan.seconds_alone, rate=rate / 3)
        figures |= self._arrivals()
        figures |= self._streams()
        for surface in self._surfaces:
            figures |= self._surface(surface)
        self.rounds.append(figures | self._idle | measure.memory(contender, "load"))

    def _arrivals(self) -> Figures:
        figures: Figures = {}
        for per_second, seconds in self._plan.arrivals:
            if self._rates[CHAT.path] > per_second * _HEADROOM:
                figures |= measure.arrivals(self._contender, per_second=per_second, seconds=seconds)
        return figures

    def _streams(self) -> Figures:
        contender, plan = self._contender, self._plan
        figures = measure.many_streams(contender, "bursts", count=plan.bursts, at_once=plan.streams_at_once)
        if plan.spaced:
            figures |= measure.many_streams(contender, "spaced", count=plan.spaced, at_once=plan.streams_at_once)
        return figures | measure.first_event(contender, count=plan.first_events)

    def _surface(self, surface: Surface) -> Figures:
        plan, rate = self._plan, self._rates[surface.path]
        return measure.other_surface(
            self._contender,
            surface,
            requests=int(rate * plan.seconds_surface),
            count=plan.bursts // 2,
            at_once=plan.streams_at_once,
        )


def _first(exc: BaseException) -> BaseException:
    """Return the first exception in a group that is no group."""
    return _first(exc.exceptions[0]) if isinstance(exc, BaseExceptionGroup) else exc
