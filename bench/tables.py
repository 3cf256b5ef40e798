"""Figures as Markdown tables."""

from collections.abc import Mapping, Sequence

from bench.measure import Figures

Medians = Mapping[str, Figures]
"""The medians of each contender."""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose first column is text and whose others are numbers."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def everything(medians: Medians) -> list[str]:
    """Return all figures as they are, a column for each contender."""
    names = {name: None for figures in medians.values() for name in figures}
    rows = [[name, *(number(figures.get(name)) for figures in medians.values())] for name in names]
    return table(["median of the rounds", *medians], rows)


def number(value: float | None) -> str:
    """Return three significant digits, more for large numbers; a dash where there is none."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
