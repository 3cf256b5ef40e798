"""SVG charts with stacked columns by time. They contain no styles, as the content security policy requires."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from xml.sax.saxutils import escape, quoteattr

_Stack = Sequence[tuple[str, int, int]]
"""Name, colour and count of each series at one time."""
_HEIGHT = 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 4, 12, 26
COLOURS = 8
"""Number of series with a colour of their own; the next colour is that of all others."""
OTHER = "other"


@dataclass(frozen=True, slots=True)
class _Frame:
    """Size of a chart. Its width is about that on the page in pixels, so that the text has a readable size."""

    name: str
    width: int
    labels: int


_WIDE, _NARROW = _Frame("wide", 520, 6), _Frame("narrow", 310, 4)


@dataclass(frozen=True, slots=True)
class Axis:
    """The times of a chart, oldest first."""

    times: Sequence[str]
    """Full names, such as `2026-11-30`."""
    labels: Sequence[str]
    """Short names below the chart."""
    unit: str
    """What a column is, such as `day`."""

    @classmethod
    def of_days(cls, days: Sequence[str]) -> "Axis":
        """Return the axis of days, `YYYY-MM-DD`."""
        return cls(days, [f"{date.fromisoformat(day):%-d %b}" for day in days], "day")


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart and its legend."""

    svg: str
    """The chart as SVG, with escaped text."""
    narrow_svg: str
    """The chart for narrow screens."""
    legend: Sequence[tuple[str, str]]
    """CSS class of the colour and name of each series."""
    total: int


def colours(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the colour of each of the most frequent names. All others share the last colour, as `other`.

    Charts of one page use the same colours, so that a name has one colour everywhere.
    """
    ranked = sorted(counts.keys() - {OTHER}, key=lambda name: (-counts[name], name))
    return {name: number for number, name in enumerate(ranked[:COLOURS])}


def columns(
    title: str,
    axis: Axis,
    series: Mapping[str, Mapping[str, int]],
    colour_of: Mapping[str, int],
    names: Mapping[str, str] | None = None,
) -> Chart:
    """Return a chart with a column per time, stacked by series.

    Args:
        title: Name of the counted quantity, such as `Requests`.
        axis: Times to draw.
        series: Counts by series and time. Missing times count as 0.
        colour_of: Colours by series; those without one are shown together as `other`.
        names: Names of the series for the user, where they differ.
    """
    drawn = _with_other(series, colour_of)
    order = sorted(drawn, key=lambda one: colour_of.get(one, COLOURS))
    name_of = {one: (names or {}).get(one, one) for one in order}
    stacks = [
        [(name_of[one], colour_of.get(one, COLOURS), drawn[one].get(time, 0)) for one in order] for time in axis.times
    ]
    total = sum(sum(counts.values()) for counts in drawn.values())
    label = f"{title} per {axis.unit}, {axis.times[0]} to {axis.times[-1]}: {total:,} in total" if axis.times else title
    wide, narrow = (_drawing(label, axis, stacks, frame) for frame in (_WIDE, _NARROW))
    return Chart(wide, narrow, [(f"series-{colour_of.get(one, COLOURS)}", name_of[one]) for one in order], total)


def _with_other(
    series: Mapping[str, Mapping[str, int]], colour_of: Mapping[str, int]
) -> Mapping[str, Mapping[str, int]]:
    """Return the series that are not empty, with those that have no colour added up."""
    drawn = {name: counts for name, counts in series.items() if name in colour_of and any(counts.values())}
    other: Counter[str] = Counter()
    for name, counts in series.items():
        if name not in colour_of:
            other.update(counts)
    return {**drawn, OTHER: other} if any(other.values()) else drawn


def _drawing(label: str, axis: Axis, stacks: Sequence[_Stack], frame: _Frame) -> str:
    top = _round_up(max((sum(count for _, _, count in stack) for stack in stacks), default=0))
    step = (frame.width - _LEFT - _RIGHT) / max(1, len(axis.times))
    parts = [*_grid(top, frame), *_labels(axis.labels, step, frame)]
    for number, (time, stack) in enumerate(zip(axis.times, stacks, strict=True)):
        parts += _column(time, _LEFT + number * step, step, stack, top)
    return (
        f'<svg class="chart {frame.name}" viewBox="0 0 {frame.width} {_HEIGHT}" role="img" '
        f"aria-label={quoteattr(label)}>{''.join(parts)}</svg>"
    )


def _column(time: str, left: float, step: float, stack: _Stack, top: int) -> list[str]:
    counts = ", ".join(f"{name}: {count:,}" for name, _, count in stack if count) or "none"
    parts = [f"<g><title>{escape(f'{time}. {counts}')}</title>"]
    parts.append(f'<rect class="hit" x="{left:.1f}" y="{_TOP}" width="{step:.1f}" height="{_y(0, top) - _TOP:.1f}"/>')
    bottom = 0
    for _, colour, count in stack:
        if count:
            upper, lower = _y(bottom + count, top), _y(bottom, top)
            parts.append(
                f'<rect class="series-{colour}" x="{left + step * 0.15:.1f}" y="{upper:.1f}" '
                f'width="{step * 0.7:.1f}" height="{max(1.0, lower - upper):.1f}" rx="1.5"/>'
            )
            bottom += count
    return [*parts, "</g>"]


def _grid(top: int, frame: _Frame) -> list[str]:
    parts = []
    for quarter in range(5):
        count = top * quarter // 4
        y = _y(count, top)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{frame.width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis end" x="{_LEFT - 8}" y="{y + 4:.1f}">{_short(count)}</text>')
    return parts


def _labels(labels: Sequence[str], step: float, frame: _Frame) -> list[str]:
    """Return labels below the columns. The last column always has one."""
    every = max(1, -(-len(labels) // frame.labels))
    parts = []
    for number in range(len(labels) - 1, -1, -every):
        is_last = number == len(labels) - 1
        x = frame.width - _RIGHT if is_last else _LEFT + (number + 0.5) * step
        parts.append(
            f'<text class="axis {"end" if is_last else "mid"} day" x="{x:.1f}" y="{_HEIGHT - 6}">'
            f"{escape(labels[number])}</text>"
        )
    return parts


def _y(count: int, top: int) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * count / top


def _round_up(count: int) -> int:
    """Return the next round number that is divisible by 4: 4, 8, 12, 20, 40, 60, 80, 120…"""
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
