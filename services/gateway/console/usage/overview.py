"""Totals, charts and breakdown of the usage page."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from services.common.web.unknown import or_none
from services.gateway.console.charts import COLOURS, OTHER, Chart, colours, columns
from services.gateway.console.labels import label
from services.gateway.console.ports import RequestFilter, UsageClient
from services.gateway.console.usage.query import UsageQuery
from services.gateway.console.usage.ranges import DEFAULT, UsageRange, named_range
from services.gateway.console.usage.reports import Breakdown, Latency, Report, Sums, add_up

NOT_RECORDED = "(not recorded)"
_LINES_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Part:
    """One value of the breakdown."""

    name: str
    """Name for the user."""
    colour: int
    link: str
    """Address of the page with only this value; empty if there is none."""
    sums: Sums
    latency: Latency | None


@dataclass(frozen=True, slots=True)
class Overview:
    """What the page shows above the list."""

    totals: Sums
    parts: Sequence[Part]
    """Most requests first."""
    charts: Mapping[str, Chart]
    """By name: requests, tokens and errors."""
    report: Report
    lines: Sequence[tuple[str, str, Sums]]
    """What the charts draw: time, name and sums, newest first; at most a thousand."""


@dataclass(frozen=True, slots=True)
class Reports:
    """The reports of a page; None is not known."""

    shown: Report | None
    """What matches the filters."""
    unfiltered: Report | None
    """All requests of the range, by the breakdown."""
    month: Report | None
    """All requests of the last 30 days, by the breakdown."""
    models: Report | None
    """All requests of the range, by model."""


async def read_reports(usage: UsageClient, query: UsageQuery, *, now: float) -> Reports:
    """Read the reports of a page, those that are equal once."""
    month = named_range(DEFAULT, now=now)

    async def whole(chosen: UsageRange, breakdown: Breakdown) -> Report | None:
        return await or_none(usage.report(RequestFilter(), chosen, breakdown))

    shown = usage.report(query.filters, query.range, query.breakdown, by_step=True, with_latency=True)
    reads = {"shown": or_none(shown)}
    if query.is_filtered:
        reads["unfiltered"] = whole(query.range, query.breakdown)
    if query.range.name != DEFAULT:
        reads["month"] = whole(month, query.breakdown)
    if query.breakdown is not Breakdown.MODEL:
        reads["models"] = whole(query.range, Breakdown.MODEL)
    found = dict(zip(reads, await asyncio.gather(*reads.values()), strict=True))
    unfiltered = found.get("unfiltered", found["shown"])
    return Reports(found["shown"], unfiltered, found.get("month", unfiltered), found.get("models", unfiltered))


def overview_of(query: UsageQuery, reports: Reports, key_names: Mapping[str, str]) -> Overview | None:
    """Return the overview; None if the requests are not known."""
    report = reports.shown
    if report is None:
        return None
    by_value: dict[str | None, list[Sums]] = {}
    for point in report.points:
        by_value.setdefault(point.value, []).append(point.sums)
    sums = {value: add_up(found) for value, found in by_value.items()}
    chosen = stable_colours(_frequency(reports.month or report), _frequency(reports.unfiltered or report))
    named = {value: _name(query.breakdown, value, key_names) for value in sums}
    order = sorted(sums, key=lambda value: (value is None, -sums[value].all_requests, named[value]))
    parts = [
        Part(
            named[value],
            COLOURS if value is None else chosen.get(value, COLOURS),
            query.link(**{query.breakdown: value}) if value else "",
            sums[value],
            None if value is None else report.latencies.get(value),
        )
        for value in order
    ]
    times = dict(zip(query.range.times, query.range.axis.times, strict=True))
    lines = [(times[point.start], named[point.value], point.sums) for point in reversed(report.points)]
    charts = _charts(query, report, chosen, key_names)
    return Overview(add_up(sums.values()), parts, charts, report, lines[:_LINES_MAX])


def models_of(reports: Reports, chosen: str) -> Sequence[str]:
    """Return the models to filter by: those of the range, and the one that is chosen."""
    points = reports.models.points if reports.models else ()
    return sorted({point.value for point in points if point.value} | ({chosen} if chosen else set()))


def stable_colours(usual: Mapping[str, int], shown: Mapping[str, int]) -> dict[str, int]:
    """Return the colours of the most frequent names.

    A name that is usually among the most frequent always has the same colour, whatever the range. Others get the
    colours of names that the range does not have.

    Args:
        usual: Requests by name in the last 30 days.
        shown: Requests by name in the range, without filters, so that no filter changes colours.
    """
    kept = {name: colour for name, colour in colours(usual).items() if shown.get(name)}
    free = [colour for colour in range(COLOURS) if colour not in kept.values()]
    others = colours({name: count for name, count in shown.items() if count and name not in kept})
    return {**kept, **dict(zip(others, free, strict=False))}


def _frequency(report: Report) -> Mapping[str, int]:
    counts: Counter[str] = Counter()
    for point in report.points:
        if point.value is not None:
            counts[point.value] += point.sums.all_requests
    return counts


def _charts(
    query: UsageQuery, report: Report, chosen: Mapping[str, int], key_names: Mapping[str, str]
) -> Mapping[str, Chart]:
    axis = query.range.axis
    times = dict(zip(query.range.times, axis.times, strict=True))
    names = {value: _name(query.breakdown, value, key_names) for value in chosen}

    def chart(title: str, count: Callable[[Sums], int]) -> Chart:
        series: dict[str, Counter[str]] = {}
        for point in report.points:
            # A model can have the name of all others together, whose column then contains it.
            value = OTHER if point.value is None else point.value
            series.setdefault(value, Counter())[times[point.start]] += count(point.sums)
        return columns(title, axis, series, chosen, names)

    return {
        "requests": chart("Requests", lambda sums: sums.all_requests),
        "tokens": chart("Tokens", lambda sums: sums.total_tokens),
        "errors": chart("Errors", lambda sums: sums.failed_requests),
    }


def _name(breakdown: Breakdown, value: str | None, key_names: Mapping[str, str]) -> str:
    if value is None:
        return OTHER
    if not value:
        return NOT_RECORDED
    if breakdown is Breakdown.KEY:
        return key_names.get(value, value)
    return value if breakdown is Breakdown.MODEL else label(value)
