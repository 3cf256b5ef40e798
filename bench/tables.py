"""Figures as Markdown tables."""

from collections.abc import Mapping, Sequence

from bench.measure import Figures

Medians = Mapping[str, Figures]
"""Medians by contender."""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table. The first column is text, the others are numbers."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def everything(medians: Medians) -> list[str]:
    """Return a table of all figures, with a column for each contender."""
    names = {name: None for figures in medians.values() for name in figures}
    rows = [[name, *(number(figures.get(name)) for figures in medians.values())] for name in names]
    return table(["median of the rounds", *medians], rows)


def number(value: float | None) -> str:
    """Format a number with three significant digits, or as an integer from 100. None becomes a dash."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
