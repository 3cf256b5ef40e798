"""Charts as SVG, drawn here: stacked columns by day. They hold no style, so that the page's policy allows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

_WIDTH, _HEIGHT = 760, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 12, 26
_COLOURS = 6
_LABELS = 6


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing, and what its colours mean."""

    svg: str
    """Safe to put into a page: all text in it is escaped."""
    legend: Sequence[tuple[str, str]]
    """Class of the colour and the name of the series."""
    total: int


def columns(title: str, days: Sequence[str], series: Mapping[str, Mapping[str, int]]) -> Chart:
    """Draw a column for each day, stacked by series.

    Args:
        title: What is counted, such as `Requests`.
        days: Days to draw, oldest first, `YYYY-MM-DD`.
        series: By name of the series: the count of each day; days without one are 0.
    """
    names = sorted(series, key=lambda name: -sum(series[name].values()))
    top = _round_up(max((sum(series[name].get(day, 0) for name in names) for day in days), default=0))
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(days))
    parts = [*_grid(top), *_labels(days, step)]
    for number, day in enumerate(days):
        parts += _column(day, _LEFT + number * step, step, [(name, series[name].get(day, 0)) for name in names], top)
    total = sum(sum(counts.values()) for counts in series.values())
    label = f"{title} a day, {days[0]} to {days[-1]}: {total:,} in all" if days else title
    svg = (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label={quoteattr(label)}>'
        + "".join(parts)
        + "</svg>"
    )
    return Chart(svg, [(_colour(number), name) for number, name in enumerate(names)], total)


def _column(day: str, left: float, step: float, counts: Sequence[tuple[str, int]], top: int) -> list[str]:
    told = ", ".join(f"{name}: {count:,}" for name, count in counts if count) or "nothing"
    parts = [f"<g><title>{escape(f'{day}. {told}')}</title>"]
    parts.append(f'<rect class="hit" x="{left:.1f}" y="{_TOP}" width="{step:.1f}" height="{_y(0, top) - _TOP:.1f}"/>')
    bottom = 0
    for number, (_, count) in enumerate(counts):
        if count:
            upper, lower = _y(bottom + count, top), _y(bottom, top)
            parts.append(
                f'<rect class="{_colour(number)}" x="{left + step * 0.15:.1f}" y="{upper:.1f}" '
                f'width="{step * 0.7:.1f}" height="{max(1.0, lower - upper):.1f}" rx="1.5"/>'
            )
            bottom += count
    return [*parts, "</g>"]


def _grid(top: int) -> list[str]:
    parts = []
    for quarter in range(5):
        count = top * quarter // 4
        y = _y(count, top)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis end" x="{_LEFT - 8}" y="{y + 4:.1f}">{_short(count)}</text>')
    return parts


def _labels(days: Sequence[str], step: float) -> list[str]:
    every = max(1, -(-len(days) // _LABELS))
    return [
        f'<text class="axis mid" x="{_LEFT + (number + 0.5) * step:.1f}" y="{_HEIGHT - 6}">{escape(day[5:])}</text>'
        for number, day in enumerate(days)
        if number % every == 0
    ]


def _y(count: int, top: int) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * count / top


def _colour(number: int) -> str:
    return f"series-{min(number, _COLOURS - 1)}"


def _round_up(count: int) -> int:
    """Return the next round number that has whole quarters: 4, 8, 12, 20, 40, 60, 80, 120…"""
    size = 4
    while True:
        for factor in (2, 3, 4, 6, 10):
            top = size * factor // 2
            if top >= count and top % 4 == 0:
                return top
        size *= 10


def _short(count: int) -> str:
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.1f}".removesuffix(".0") + unit
    return str(count)
