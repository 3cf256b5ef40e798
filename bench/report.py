"""The results of `make bench` as Markdown, and their place in the page of the benchmarks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.contenders import Contender
from bench.machine import Machine
from bench.measure import Figures
from bench.surfaces import CHAT, OTHERS
from bench.tables import Medians, number, table
from bench.targets import LAYOUTS, TARGETS, added

BEGIN, END = "<!-- results of make bench -->", "<!-- end of the results -->"
"""Marks of the part of the page that `make bench` replaces."""
_TWO_WORKERS = ", 2 workers"
_ALL_CORES = ("SMG",)
"""Contenders whose one process uses all cores. They are in both tables."""

Row = tuple[str, Callable[[Medians, str], float | None]]


@dataclass(frozen=True, slots=True)
class Run:
    """The results of a run."""

    date: str
    machine: Machine
    contenders: Mapping[str, tuple[str, str]]
    """Version, and limits and accounting that are on, by contender."""
    skipped: Mapping[str, str]
    """Skipped contenders and the reasons."""
    medians: Medians
    rounds: int
    charged: int
    """Requests answered by the product, each charged once in the ledger and in the counters."""


def described(contenders: Iterable[Contender]) -> dict[str, tuple[str, str]]:
    """Return the version and the features of each contender."""
    return {contender.name: (contender.version, contender.features) for contender in contenders}


def write(run: Run, page: Path, *, chart: str) -> None:
    """Replace the results in the page, or write a page of results alone if there is none.

    Raises:
        ValueError: The page exists and has no place for results.
    """
    text = page.read_text(encoding="utf-8") if page.exists() else f"{BEGIN}\n{END}\n"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no lines '{BEGIN}' and '{END}', between which the results belong")
    page.write_text(f"{before}{BEGIN}\n\n{markdown(run, chart=chart)}\n{END}{after}", encoding="utf-8")


def markdown(run: Run, *, chart: str) -> str:
    """Return the results as Markdown."""
    names = [name for name in run.medians if not name.endswith(_TWO_WORKERS)]
    pairs = [name for name in run.medians if name.endswith(_TWO_WORKERS) or name in _ALL_CORES]
    parts = [
        _introduction(run),
        _targets(run.medians),
        [f"![Requests per second, CPU per request, added latency and CPU per event]({chart})"],
        _figures("One worker each", run.medians, names),
        _figures("Two workers each", run.medians, pairs),
        _surfaces(run.medians),
        _processes(run.medians),
        _programs(run),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def cores(figures: Figures) -> float:
    """Return how many cores a contender used at 32 connections. Other programs share the cores, so it may be fewer."""
    return figures["requests_per_second@32"] * figures["cpu_ms_per_request@32"] / 1000


def _introduction(run: Run) -> list[str]:
    return [
        f"`make bench`, {run.date}, {run.machine.kind} ({run.machine.system}, Python {run.machine.python}), load "
        f"average {run.machine.load} before it began. Medians of {run.rounds} interleaved rounds.",
        "",
        f"All {run.charged:,} requests that the product answered were charged once, in the ledger and in the counters.",
    ]


def _targets(medians: Medians) -> list[str]:
    rows = [[target.name, *target.cells(medians)] for target in TARGETS]
    return ["### Targets", "", "✓ met, ✗ missed.", "", *table(["figure", *LAYOUTS], rows)]


def _of(figure: str) -> Callable[[Medians, str], float | None]:
    return lambda medians, name: medians[name].get(figure)


def _added(figure: str) -> Callable[[Medians, str], float | None]:
    return lambda medians, name: added(medians, name, figure)


_ROWS: tuple[Row, ...] = (
    ("requests/s, 32 connections", _of("requests_per_second@32")),
    ("requests/s, 1 connection", _of("requests_per_second@1")),
    ("CPU ms per request, 32 connections", _of("cpu_ms_per_request@32")),
    ("CPU ms per request, 1 connection", _of("cpu_ms_per_request@1")),
    ("cores in use, 32 connections", lambda medians, name: cores(medians[name])),
    ("added ms, 32 connections, p50", _added("p50_ms@32")),
    ("added ms, 32 connections, p99", _added("p99_ms@32")),
    ("added ms, 1 connection, p50", _added("p50_ms@1")),
    ("added ms, 1 connection, p99", _added("p99_ms@1")),
    ("added ms, 200 requests/s, p50", _added("p50_ms@200 a second")),
    ("added ms, 200 requests/s, p99", _added("p99_ms@200 a second")),
    ("added ms to the first event, p50", _added("first_event_p50_ms@1")),
    ("streams/s, bursts of five, 16 at once", _of("streams_per_second@bursts")),
    ("CPU ms per event, bursts of five", _of("cpu_ms_per_event@bursts")),
    ("CPU ms per event, one by one", _of("cpu_ms_per_event@spaced")),
    ("memory (PSS) idle, MB", _of("pss_mb@idle")),
    ("memory (PSS) after load, MB", _of("pss_mb@load")),
)


_OF_PROCESSES = {
    "CPU ms per request, 32 connections": "cpu_ms_per_request@32",
    "CPU ms per event, bursts of five": "cpu_ms_per_event@bursts",
    "CPU ms per event, one by one": "cpu_ms_per_event@spaced",
    "memory (PSS) idle, MB": "pss_mb@idle",
    "memory (PSS) after load, MB": "pss_mb@load",
}


def _figures(title: str, medians: Medians, names: Sequence[str]) -> list[str]:
    heads = [name.removesuffix(_TWO_WORKERS) if title.startswith("Two") else name for name in names]
    rows = [[label, *(number(value(medians, name)) for name in names)] for label, value in _ROWS]
    return [f"### {title}", "", *table(["", *heads], rows)]


def _surfaces(medians: Medians) -> list[str]:
    names = [name for name, figures in medians.items() if f"requests_per_second@{OTHERS[0].path}" in figures]
    if not names:
        return []
    kinds = {"requests/s": "requests_per_second", "CPU ms per request": "cpu_ms_per_request", "CPU ms per event": ""}
    loads = {CHAT.path: ("32", "bursts")} | {surface.path: (surface.path, surface.path) for surface in OTHERS}
    rows = [
        [f"/v1/{path}, {label}", *(number(medians[name].get(_figure(kind, *load))) for name in names)]
        for label, kind in kinds.items()
        for path, load in loads.items()
    ]
    return ["### Surfaces", "", "32 connections; streams in bursts of five.", "", *table(["", *names], rows)]


def _figure(kind: str, requests: str, events: str) -> str:
    return f"{kind}@{requests}" if kind else f"cpu_ms_per_event@{events}"


def _processes(medians: Medians) -> list[str]:
    """Return the costs of each process of the product in the layouts with one of each kind."""
    rows = [
        [f"{name}: {part}", *(number(medians[name].get(f"{figure}/{part}")) for figure in _OF_PROCESSES.values())]
        for name in (LAYOUTS["one process"], LAYOUTS["four processes"])
        for part in _parts(medians.get(name, {}))
    ]
    return [] if not rows else ["### Processes of the product", "", *table(["process", *_OF_PROCESSES], rows)]


def _parts(figures: Figures) -> list[str]:
    return [name.partition("/")[2] for name in figures if name.startswith("cpu_ms_per_request@32/")]


def _programs(run: Run) -> list[str]:
    rows = [[name, *about] for name, about in run.contenders.items()]
    skipped = [f"- {name} was **skipped**: {reason}" for name, reason in run.skipped.items()]
    lines = ["| " + " | ".join(cells) + " |" for cells in (["program", "version", "limits and accounting on"],)]
    lines += ["|---|---|---|", *("| " + " | ".join(row) + " |" for row in rows)]
    return ["### Programs", "", *lines, *(["", *skipped] if skipped else [])]
