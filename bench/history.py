"""The regression guard: CPU per request beside the bare pass-through; each run is a line of `history.csv`."""

import csv
import io
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from bench.machine import Machine, commit, machine

PATH = Path("docs/benchmarks/history.csv")
WORSE_MAX = 1.25
"""Times the best ratio that are still no regression: on a busy machine runs of one commit differ by a tenth."""

_CPU = "cpu_ms_per_request@32"


@dataclass(frozen=True, slots=True)
class Entry:
    """One run."""

    date: str
    commit: str
    """Ends with `+` when files differed from it."""
    machine: str
    python: str
    load: float
    cpu_ratio: float
    """CPU per request of the product, all processes, as a multiple of the bare pass-through's."""
    cpu_ms: float
    passthrough_cpu_ms: float
    rate_ratio: float
    """Requests a second at 32 connections as a share of the bare pass-through's."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guard says."""

    is_good: bool
    sentence: str


def entry(figures: Mapping[str, Mapping[str, float]], *, on: Machine | None = None) -> Entry:
    """Return the line for these medians of `stack` and `pass-through`."""
    here = on or machine()
    ours, bare = figures["stack"], figures["pass-through"]
    return Entry(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(),
        machine=here.kind,
        python=here.python,
        load=here.load,
        cpu_ratio=round(ours[_CPU] / bare[_CPU], 3),
        cpu_ms=round(ours[_CPU], 4),
        passthrough_cpu_ms=round(bare[_CPU], 4),
        rate_ratio=round(ours["requests_per_second@32"] / bare["requests_per_second@32"], 3),
    )


def judge(now: Entry, past: Sequence[Entry]) -> Verdict:
    """Hold a run to the best of its kind of machine; the first on a machine is good."""
    ratios = [run.cpu_ratio for run in past if run.machine == now.machine]
    if not ratios:
        return Verdict(True, f"CPU per request is {now.cpu_ratio:.2f} times the pass-through's; the first such run")
    best = min(ratios)
    is_good = now.cpu_ratio <= best * WORSE_MAX
    change = (now.cpu_ratio / best - 1) * 100
    return Verdict(
        is_good,
        f"CPU per request is {now.cpu_ratio:.2f} times the pass-through's; the best committed is {best:.2f} "
        f"({change:+.0f} %, {'within' if is_good else 'REGRESSION: more than'} {(WORSE_MAX - 1) * 100:.0f} %)",
    )


def committed() -> list[Entry]:
    """Return the runs in the history that is committed; those of the working tree are somebody's attempts."""
    shown = subprocess.run(["git", "show", f"HEAD:{PATH}"], capture_output=True, text=True, check=False)
    return parse(shown.stdout) if shown.returncode == 0 else []


def parse(text: str) -> list[Entry]:
    """Read a history."""
    return [_entry(row) for row in csv.DictReader(io.StringIO(text))]


def append(run: Entry, path: Path = PATH) -> None:
    """Add a run to the history."""
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Entry)], lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(asdict(run))


def _entry(row: Mapping[str, str]) -> Entry:
    return Entry(
        date=row["date"],
        commit=row["commit"],
        machine=row["machine"],
        python=row["python"],
        load=float(row["load"]),
        cpu_ratio=float(row["cpu_ratio"]),
        cpu_ms=float(row["cpu_ms"]),
        passthrough_cpu_ms=float(row["passthrough_cpu_ms"]),
        rate_ratio=float(row["rate_ratio"]),
    )
