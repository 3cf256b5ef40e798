"""The dashboard as one picture: every panel with its lines, drawn as SVG."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from tools.dashboard.units import Scale, text_of

Points = Sequence[tuple[float, float]]

WIDTH = 1880
_COLUMNS = 3
_GAP = 16
_CARD = ((WIDTH - _GAP * (_COLUMNS + 1)) / _COLUMNS, 250.0)
_PLOT = (58.0, 44.0, _CARD[0] - 74.0, 146.0)
"""Left, top, width and height of a card's plot."""
_HEAD = 78
_ROW_HEAD = 40
_LEGEND_CHARACTERS = 72
_LEGEND_LINES = 2
_COLOURS = ("#3266ad", "#d97706", "#2f9e63", "#c2415d", "#7b57c2", "#0f91a8", "#8a6d3b", "#64748b")
_STYLE = """
  text { font-family: 'DejaVu Sans', sans-serif; fill: #1f2937; }
  .title { font-size: 13.5px; font-weight: bold; } .axis { font-size: 10.5px; fill: #6b7280; }
  .legend { font-size: 11px; fill: #374151; } .row { font-size: 16px; font-weight: bold; fill: #374151; }
  .page { font-size: 25px; font-weight: bold; } .note { font-size: 13px; fill: #6b7280; }
  .card { fill: #ffffff; stroke: #e2e6ec; } .grid { stroke: #eceff3; } .zero { stroke: #c9d0d9; }
  .line { fill: none; stroke-width: 2; stroke-linejoin: round; } .area { opacity: 0.08; }
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart."""

    name: str
    points: Points
    """Times and values; NaN is left out."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One panel with its series."""

    row: str
    title: str
    unit: str
    lines: Sequence[Line]


def picture(charts: Sequence[Chart], *, title: str, note: str) -> tuple[str, int]:
    """Return an SVG of all charts, in rows as on the dashboard, and its height in pixels."""
    parts, y = [], float(_HEAD)
    for row in dict.fromkeys(chart.row for chart in charts):
        of_row = [chart for chart in charts if chart.row == row]
        parts.append(f'<text class="row" x="{_GAP}" y="{y + 24:.0f}">{escape(row)}</text>')
        y += _ROW_HEAD
        for number, chart in enumerate(of_row):
            x = _GAP + (number % _COLUMNS) * (_CARD[0] + _GAP)
            parts += _card(chart, x, y + (number // _COLUMNS) * (_CARD[1] + _GAP))
        y += -(-len(of_row) // _COLUMNS) * (_CARD[1] + _GAP)
    height = round(y + _GAP)
    head = f'<text class="page" x="{_GAP}" y="42">{escape(title)}</text>'
    head += f'<text class="note" x="{_GAP}" y="66">{escape(note)}</text>'
    size = f'width="{WIDTH}" height="{height}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{_STYLE}</style><rect {size} fill="#f5f7fa"/>'
    return svg + head + "".join(parts) + "</svg>", height


def _card(chart: Chart, x: float, y: float) -> Iterator[str]:
    yield f'<g transform="translate({x:.1f},{y:.1f})">'
    yield f'<rect class="card" width="{_CARD[0]:.1f}" height="{_CARD[1]}" rx="8"/>'
    yield f'<text class="title" x="14" y="26">{escape(chart.title)}</text>'
    moments = [at for line in chart.lines for at, _ in line.points]
    values = [value for line in chart.lines for _, value in line.points]
    if values:
        scale = Scale.over(values)
        yield from _grid(scale, chart.unit)
        for number, line in enumerate(chart.lines):
            yield from _line(line, scale, (min(moments), max(moments)), _COLOURS[number % len(_COLOURS)])
            yield from _area(line, scale, (min(moments), max(moments))) if len(chart.lines) == 1 else ()
        yield from _legend(chart)
    else:
        left, top, width, height = _PLOT
        middle = f'x="{left + width / 2:.0f}" y="{top + height / 2:.0f}" text-anchor="middle"'
        yield f'<text class="note" {middle}>none</text>'
    yield "</g>"


def _grid(scale: Scale, unit: str) -> Iterator[str]:
    left, top, width, height = _PLOT
    for tick in scale.ticks:
        y = top + height * (1 - tick / scale.top)
        kind = "grid" if tick else "zero"
        yield f'<line class="{kind}" x1="{left}" x2="{left + width:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="axis" x="{left - 8}" y="{y + 3.5:.1f}" text-anchor="end">{text_of(tick, unit)}</text>'


def _line(line: Line, scale: Scale, span: tuple[float, float], colour: str) -> Iterator[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in _places(line, scale, span))
    yield f'<polyline class="line" stroke="{colour}" points="{path}"/>'


def _area(line: Line, scale: Scale, span: tuple[float, float]) -> Iterator[str]:
    """Fill the area under a single line."""
    places, floor = list(_places(line, scale, span)), _PLOT[1] + _PLOT[3]
    corners = [(places[0][0], floor), *places, (places[-1][0], floor)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    yield f'<polygon class="area" fill="{_COLOURS[0]}" points="{path}"/>'


def _places(line: Line, scale: Scale, span: tuple[float, float]) -> Iterator[tuple[float, float]]:
    left, top, width, height = _PLOT
    seconds = (span[1] - span[0]) or 1.0
    for moment, value in line.points:
        yield left + width * (moment - span[0]) / seconds, top + height * (1 - value / scale.top)


def _legend(chart: Chart) -> Iterator[str]:
    """Write names and last values under the plot, as many as fit."""
    x, y, used, lines = 16.0, _PLOT[1] + _PLOT[3] + 24, 0, 1
    for number, line in enumerate(chart.lines):
        text = f"{line.name} {text_of(line.points[-1][1], chart.unit)}"
        if used and used + len(text) > _LEGEND_CHARACTERS:
            if lines == _LEGEND_LINES:
                yield f'<text class="axis" x="{x:.0f}" y="{y:.0f}">and {len(chart.lines) - number} more</text>'
                return
            x, y, used, lines = 16.0, y + 18, 0, lines + 1
        colour = _COLOURS[number % len(_COLOURS)]
        yield f'<rect x="{x:.0f}" y="{y - 7:.0f}" width="10" height="4" rx="2" fill="{colour}"/>'
        yield f'<text class="legend" x="{x + 15:.0f}" y="{y:.0f}">{escape(text)}</text>'
        x, used = x + 32 + len(text) * 6.5, used + len(text) + 4
