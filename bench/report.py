"""The report of a benchmark run: ratios first, then absolute figures, then the method."""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.contenders.stack import NO_SERVICES
from bench.machine import Machine
from bench.measure import Figures
from bench.tables import Medians, everything, number, table

OURS = "stack"
"""Name of the product as `make run` starts it, and prefix of the names of its other layouts."""
_DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Run:
    """The results of a run."""

    date: str
    machine: Machine
    versions: Mapping[str, str]
    skipped: Mapping[str, str]
    """Skipped contenders and the reasons."""
    medians: Medians
    rounds: int
    charged: int
    """Requests answered by the product, each charged once in the ledger and in the counters."""


def markdown(run: Run) -> str:
    """Return the report as Markdown."""
    parts = [_introduction(run), _ratios(run), _latencies(run), _costs(run), _charts(), _all(run), _how()]
    return "\n".join(line for part in parts for line in [*part, ""]).rstrip() + "\n"


def added(medians: Medians, name: str, figure: str) -> float | None:
    """Return how many milliseconds a contender is slower than the mock; None if it was not measured."""
    value, direct = medians.get(name, {}).get(figure), medians[_DIRECT].get(figure)
    return None if value is None or direct is None else value - direct


def ratio(medians: Medians, over: str, under: str, figure: str) -> float | None:
    """Return the figure of `over` divided by that of `under`; None if one was not measured."""
    above, below = medians.get(over, {}).get(figure), medians.get(under, {}).get(figure)
    return None if above is None or not below else above / below


def cores(figures: Figures) -> float:
    """Return how many cores a contender used at 32 connections. Other programs share the cores, so it may be fewer."""
    return figures["requests_per_second@32"] * figures["cpu_ms_per_request@32"] / 1000


def _introduction(run: Run) -> list[str]:
    return [
        "# The benchmark's last run",
        "",
        f"`make bench`, {run.date}, {run.machine.kind} ({run.machine.system}, Python {run.machine.python}), load "
        f"average {run.machine.load} before it began; all programs share the cores. Medians of "
        f"{run.rounds} interleaved rounds. Ratios are the point; times are context.",
        "",
        *(f"- {name}: {version}" for name, version in run.versions.items()),
        *(f"- {name}: **skipped**: {reason}" for name, reason in run.skipped.items()),
        "",
        f"All {run.charged:,} requests that the product answered were charged once, in the ledger and in the counters.",
    ]


def _ratios(run: Run) -> list[str]:
    ours = [name for name in run.medians if name.startswith(OURS)]
    measured = [targets(run.medians, name) for name in ours]
    rows = [
        [*one[0][:3], *(number(each[3]) if each[3] is not None else "not measured" for each in one)]
        for one in zip(*measured, strict=True)
    ]
    return ["## Targets", "", *table(["figure", "at least", "stretch", *ours], rows)]


def targets(medians: Medians, name: str = OURS) -> list[tuple[str, str, str, float | None]]:
    """Return the targets: description, minimum, stretch goal, and the result of one layout of the product."""

    def quotient(over: float | None, under: float | None) -> float | None:
        return None if over is None or not under else over / under

    ours = medians[name]
    alone = "p50_ms@1"
    return [
        (
            "requests/s against LiteLLM, 32 connections",
            "25",
            "40",
            ratio(medians, name, "LiteLLM", "requests_per_second@32"),
        ),
        (
            "requests/s against Portkey, 32 connections",
            "2.5",
            "4",
            ratio(medians, name, "Portkey", "requests_per_second@32"),
        ),
        (
            "CPU per request against the pass-through",
            "≤ 5",
            "≤ 3",
            ratio(medians, name, "pass-through", "cpu_ms_per_request@32"),
        ),
        (
            "added latency p50, 1 connection, against LiteLLM",
            "≤ 0.125",
            "≤ 0.067",
            quotient(added(medians, name, alone), added(medians, "LiteLLM", alone)),
        ),
        (
            "events per CPU second against LiteLLM, bursts",
            "25",
            "50",
            ratio(medians, "LiteLLM", name, "cpu_ms_per_event@bursts"),
        ),
        (
            "events per CPU second against LiteLLM, spaced",
            "5",
            "8",
            ratio(medians, "LiteLLM", name, "cpu_ms_per_event@spaced"),
        ),
        ("added time to first event p50, ms", "≤ 3", "≤ 1.5", added(medians, name, "first_event_p50_ms@1")),
        ("RSS of the four services idle, MB", "≤ 400", "≤ 300", _services_rss(ours, "idle")),
        ("RSS of the four services after load, MB", "≤ 500", "≤ 350", _services_rss(ours, "load")),
    ]


def _services_rss(figures: Figures, moment: str) -> float:
    parts = (name for name in figures if name.startswith(f"rss_mb@{moment}/"))
    return sum(figures[part] for part in parts if part.rpartition("/")[2] not in NO_SERVICES)


def _latencies(run: Run) -> list[str]:
    loads = [name.removeprefix("p50_ms@") for name in run.medians[_DIRECT] if name.startswith("p50_ms@")]
    names = [name for name in run.medians if name != _DIRECT]
    rows = [
        [f"{_words(load)}, {share}", *(number(added(run.medians, name, f"{share}_ms@{load}")) for name in names)]
        for load in loads
        for share in ("p50", "p99", "p99.9")
    ]
    rows.append(["first event, p50", *(number(added(run.medians, name, "first_event_p50_ms@1")) for name in names)])
    return [
        "## Added latency",
        "",
        "Milliseconds on top of the mock asked directly.",
        "",
        *table(["load", *names], rows),
    ]


def _words(load: str) -> str:
    if "second" in load:
        return load
    return f"{load} connection" + ("s" if load != "1" else "")


def _costs(run: Run) -> list[str]:
    figures = {
        "requests/s, 32 connections": "requests_per_second@32",
        "requests/s, 1 connection": "requests_per_second@1",
        "CPU ms per request, 32 connections": "cpu_ms_per_request@32",
        "CPU ms per request, 1 connection": "cpu_ms_per_request@1",
        "streams/s, bursts of five, 16 at once": "streams_per_second@bursts",
        "CPU ms per event, bursts of five": "cpu_ms_per_event@bursts",
        "CPU ms per event, spaced": "cpu_ms_per_event@spaced",
        "RSS idle, MB": "rss_mb@idle",
        "RSS after load, MB": "rss_mb@load",
    }
    rows = [[label, *(number(found.get(name)) for found in run.medians.values())] for label, name in figures.items()]
    rows.insert(4, ["cores in use, 32 connections", *(number(cores(found)) for found in run.medians.values())])
    return ["## Rates and costs", "", *table(["figure", *run.medians], rows)]


def _charts() -> list[str]:
    return ["![Requests a second, CPU per request, added latency and CPU per event](latest.png)"]


def _all(run: Run) -> list[str]:
    heading = "## Everything measured"
    return [heading, "", "The rounds behind these medians are in `latest.json`.", "", *everything(run.medians)]


def _how() -> list[str]:
    return [
        "## How",
        "",
        "See [README.md](README.md).",
    ]
