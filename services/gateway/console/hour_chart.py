"""A small SVG chart with a column for each hour. It contains no styles, as the content security policy requires."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from xml.sax.saxutils import escape, quoteattr

_HEIGHT, _TOP, _BASE = 90, 14, 66
"""Height of the chart, and the highest and lowest end of a column."""
_LABELS = 4
Hours = Sequence[tuple[int, Mapping[str, int]]]
"""Start of each hour in Unix seconds, and counts by name."""


def hour_chart(title: str, hours: Hours) -> Sequence[str]:
    """Return a chart of the totals for wide and one for narrow screens. `title` is what is counted."""
    total = sum(sum(counts.values()) for _, counts in hours)
    label = f"{title} per hour in the last {len(hours)} hours: {total:,} in total"
    return [_drawing(label, hours, name, width) for name, width in (("wide", 520), ("narrow", 310))]


def _drawing(label: str, hours: Hours, name: str, width: int) -> str:
    highest, step = max((sum(counts.values()) for _, counts in hours), default=0), width / max(1, len(hours))
    parts = [f'<line class="grid" x1="0" x2="{width}" y1="{_BASE}" y2="{_BASE}"/>']
    for number, (hour, counts) in enumerate(hours):
        parts += _column(hour, counts, number * step, step, highest)
        if (len(hours) - 1 - number) % (len(hours) // _LABELS or 1) == 0:
            end, x = ("end", width) if number == len(hours) - 1 else ("mid", (number + 0.5) * step)
            parts.append(f'<text class="axis {end}" x="{x:.1f}" y="{_HEIGHT - 6}">{_clock(hour)}</text>')
    return (
        f'<svg class="chart {name}" viewBox="0 0 {width} {_HEIGHT}" role="img" '
        f"aria-label={quoteattr(label)}>{''.join(parts)}</svg>"
    )


def _column(hour: int, counts: Mapping[str, int], left: float, step: float, highest: int) -> Sequence[str]:
    total = sum(counts.values())
    if not total:
        return []
    names = ", ".join(f"{name}: {count:,}" for name, count in sorted(counts.items()))
    height = max(2.0, (_BASE - _TOP) * total / highest)
    return [
        f"<g><title>{escape(f'{_clock(hour)} UTC. {names}')}</title>",
        f'<rect class="hit" x="{left:.1f}" y="0" width="{step:.1f}" height="{_BASE}"/>',
        f'<rect class="series-0" x="{left + step * 0.15:.1f}" y="{_BASE - height:.1f}" ',
        f'width="{step * 0.7:.1f}" height="{height:.1f}" rx="1.5"/></g>',
    ]


def _clock(hour: int) -> str:
    return f"{datetime.fromtimestamp(hour, UTC):%H:%M}"
