"""A chart of a benchmark run."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot

from bench.tables import Medians, number
from bench.targets import added

_OURS = "stack"
_OURS_COLOUR, _OTHERS_COLOUR = "#1f6feb", "#9aa4b2"


def draw(medians: Medians, path: Path) -> None:
    """Write the chart as PNG: four panels with logarithmic axes, because contenders differ by powers of ten."""
    figure, axes = pyplot.subplots(2, 2, figsize=(14, 9), layout="constrained")
    panels: list[tuple[str, Callable[[str], float | None]]] = [
        ("requests/s, 32 connections (more is better)", lambda name: medians[name].get("requests_per_second@32")),
        ("CPU ms per request, all processes", lambda name: medians[name].get("cpu_ms_per_request@32")),
        ("added latency, p50 ms, 1 connection", lambda name: added(medians, name, "p50_ms@1")),
        ("CPU ms per event, bursts of five", lambda name: medians[name].get("cpu_ms_per_event@bursts")),
    ]
    for axis, (title, value_of) in zip(axes.flat, panels, strict=True):
        values = {name: value for name in medians if name != "direct" and (value := value_of(name)) and value > 0}
        colours = [_OURS_COLOUR if name.startswith(_OURS) else _OTHERS_COLOUR for name in values]
        bars = axis.barh(list(values), list(values.values()), color=colours)
        axis.bar_label(bars, [number(value) for value in values.values()], padding=3)
        axis.set_xscale("log")
        axis.margins(x=0.15)
        axis.invert_yaxis()
        axis.set_title(title)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
