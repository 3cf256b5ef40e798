"""The targets of `make bench`: ratios to other contenders of the same run, by layout of the product."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.tables import Medians, number

LAYOUTS = {"one process": "stack", "two workers": "stack, 2 workers", "four processes": "stack, 4 processes"}
"""Names of the contenders by layout."""
_MOCK = "direct"


@dataclass(frozen=True, slots=True)
class Target:
    """One figure and what it must be in each layout."""

    name: str
    value: Callable[[Medians, str], float | None]
    """Returns the figure of a contender; None if it was not measured."""
    bounds: Sequence[float]
    """In the order of the layouts."""
    is_maximum: bool = False

    def is_met(self, value: float, bound: float) -> bool:
        """Whether a value is on the right side of its bound."""
        return value <= bound if self.is_maximum else value >= bound

    def cells(self, medians: Medians) -> list[str]:
        """Return the text of each layout: the figure, its bound, and whether it is met."""
        return [self._cell(medians, name, bound) for name, bound in zip(LAYOUTS.values(), self.bounds, strict=True)]

    def _cell(self, medians: Medians, name: str, bound: float) -> str:
        value = self.value(medians, name)
        goal = f"{'≤' if self.is_maximum else '≥'} {bound:g}"
        if value is None:
            return f"not measured ({goal})"
        return f"{number(value)} ({goal}) {'✓' if self.is_met(value, bound) else '✗'}"


def added(medians: Medians, name: str, figure: str) -> float | None:
    """Return how many milliseconds a contender is slower than the mock; None if it was not measured."""
    value, direct = medians.get(name, {}).get(figure), medians[_MOCK].get(figure)
    return None if value is None or direct is None else value - direct


def ratio(medians: Medians, over: str, under: str, figure: str) -> float | None:
    """Return the figure of `over` divided by that of `under`; None if one was not measured."""
    return _quotient(medians.get(over, {}).get(figure), medians.get(under, {}).get(figure))


def _quotient(over: float | None, under: float | None) -> float | None:
    return None if over is None or not under else over / under


def _rate(other: str) -> Callable[[Medians, str], float | None]:
    return lambda medians, name: ratio(medians, name, other, "requests_per_second@32")


def _events(shape: str) -> Callable[[Medians, str], float | None]:
    return lambda medians, name: ratio(medians, "LiteLLM", name, f"cpu_ms_per_event@{shape}")


def _cpu(medians: Medians, name: str) -> float | None:
    return ratio(medians, name, "pass-through", "cpu_ms_per_request@32")


def _latency(medians: Medians, name: str) -> float | None:
    return _quotient(added(medians, name, "p50_ms@1"), added(medians, "LiteLLM", "p50_ms@1"))


def _first_event(medians: Medians, name: str) -> float | None:
    return added(medians, name, "first_event_p50_ms@1")


TARGETS = (
    Target("requests/s, times LiteLLM's, 32 connections", _rate("LiteLLM"), (21, 30, 15)),
    Target("requests/s, times Portkey's, 32 connections", _rate("Portkey"), (1.6, 2.3, 1.2)),
    Target("CPU per request, times the pass-through's", _cpu, (4, 4.3, 8), is_maximum=True),
    Target("added latency, p50, 1 connection, times LiteLLM's", _latency, (0.1, 0.1, 0.2), is_maximum=True),
    Target("events per CPU second, times LiteLLM's, bursts", _events("bursts"), (22, 17, 11)),
    Target("events per CPU second, times LiteLLM's, spaced", _events("spaced"), (7, 6, 4)),
    Target("added time to the first event, p50, ms", _first_event, (1.5, 1.5, 3), is_maximum=True),
)
"""All compare with programs of one worker and, except the product, without limits."""
