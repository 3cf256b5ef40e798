"""Human-readable numbers, and axes with round steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = (1, 2, 2.5, 5, 10)
_TICKS = 4


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from zero to a round number."""

    top: float
    ticks: Sequence[float]

    @classmethod
    def over(cls, values: Sequence[float]) -> "Scale":
        """Return an axis that contains all values."""
        highest = max(*values, 0.0, 0.0) or 1.0
        raw = highest / _TICKS
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * one for one in _STEPS if power * one >= raw)
        count = math.ceil(highest / step)
        return cls(step * count, [step * number for number in range(count + 1)])


def text_of(value: float, unit: str) -> str:
    """Format a value in one of Grafana's units: `s`, `bytes`, `percentunit`, `reqps`, `ops` or `short`."""
    match unit:
        case "s" if value and value < 1:
            return f"{value * 1000:.3g} ms"
        case "s":
            return f"{value:.3g} s"
        case "bytes":
            return f"{value / 1e6:.0f} MB"
        case "percentunit":
            return f"{value * 100:.3g} %"
        case "reqps" | "ops":
            return f"{value:.3g}/s"
        case _:
            return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
