"""`python -m tools.dashboard`: run a stack under load, query Prometheus for every panel, and draw the results."""

import asyncio
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.e2e.metrics import Metrics, watched_stack
from tests.e2e.stack import Stack
from tests.ports import free_port
from tools.dashboard import definition, firing, load
from tools.dashboard.definition import Panel
from tools.dashboard.drawing import WIDTH, Chart, Line, picture
from tools.dashboard.prometheus import Prometheus, check_rules, running_prometheus, until_ready

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "dashboard.png"
_LOAD_SECONDS = 90
_WARM_SECONDS = 15
"""Left out of the picture: the first rates are of half an interval."""
_EMPTY_WHEN_HEALTHY: dict[str, str] = {}
"""Panels that correctly draw nothing in a healthy system, and why. None: each query yields zero then."""


def main() -> int:
    """Run everything and return the exit code: 1 when a panel is empty or a rule is broken."""
    for program in ("prometheus", "promtool", "chromium"):
        if shutil.which(program) is None:
            print(f"{program} is needed; on Debian: sudo apt install prometheus chromium", file=sys.stderr)
            return 1
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dashboard-")))
        print(f"promtool: {check_rules(folder)}; {firing.check(folder)} cases of what sets off which alert")
        running, metrics = stack.enter_context(watched_stack(stores_responses=True, QUOTA_RECONCILE_SECONDS="5"))
        prometheus = stack.enter_context(running_prometheus(folder, free_port(), metrics.ports))
        return asyncio.run(_watch(running, metrics, prometheus, folder))


async def _watch(running: Stack, metrics: Metrics, prometheus: Prometheus, folder: Path) -> int:
    await until_ready(prometheus)
    began = time.time()
    print(f"load for {_LOAD_SECONDS} s ...", flush=True)
    seen = await load.run(running, _LOAD_SECONDS)
    ended = time.time()
    reported = ", ".join(f"{count} of {status}" for status, count in sorted(seen.items()))
    charts = [_chart(prometheus, panel, began + _WARM_SECONDS, ended) for panel in definition.panels()]
    problems = [*_unhealthy(prometheus, metrics), *_empty(charts)]
    _draw(charts, f"{_LOAD_SECONDS} s of mixed load on one machine: {reported}", folder)
    lines = sum(len(chart.lines) for chart in charts)
    rules = len(prometheus.rules())
    print(f"answers: {reported}\n{len(charts)} panels, {lines} lines, {rules} alert rules: {len(problems)} problems")
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 0


def _chart(prometheus: Prometheus, panel: Panel, start: float, end: float) -> Chart:
    lines = []
    for query in panel.queries:
        for labels, values in prometheus.lines(query.expression, start=start, end=end):
            points = [(at, value) for at, value in values if math.isfinite(value)]
            lines += [Line(_name(query.legend, labels), points)] if points else []
    return Chart(panel.row, panel.title, panel.unit, sorted(lines, key=_highest, reverse=True))


def _highest(line: Line) -> float:
    return max(value for _, value in line.points)


def _name(legend: str, labels: Mapping[str, str]) -> str:
    """Return a legend with its labels filled in; an RPC's without its service."""
    for label, value in labels.items():
        legend = legend.replace(f"{{{{{label}}}}}", value.rpartition("/")[2])
    return legend


def _empty(charts: Sequence[Chart]) -> list[str]:
    return [
        f"panel {chart.title}: {'draws, and is on the list' if chart.lines else 'draws nothing'}"
        for chart in charts
        if bool(chart.lines) is (chart.title in _EMPTY_WHEN_HEALTHY)
    ]


def _unhealthy(prometheus: Prometheus, metrics: Metrics) -> list[str]:
    targets = prometheus.targets()
    down = [f"{name} is not scraped: {targets.get(name)}" for name in metrics.ports if targets.get(name) != "up"]
    rules = prometheus.rules()
    broken = [f"alert {rule['name']}: {rule['lastError']}" for rule in rules if rule["health"] != "ok"]
    # This stack has no fault; an alert that fires here would fire everywhere.
    wrong = [f"alert {rule['name']} is {rule['state']}" for rule in rules if rule["state"] != "inactive"]
    return down + broken + wrong


def _draw(charts: Sequence[Chart], note: str, folder: Path) -> None:
    svg, height = picture(charts, title="Stack 3.0 API", note=note)
    page = folder / "dashboard.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><style>body{{margin:0}}</style>{svg}")
    command = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={folder / 'browser'}"]
    shot = [f"--window-size={WIDTH},{height}", f"--screenshot={PICTURE}", page.as_uri()]
    subprocess.run([*command, *shot], check=True, capture_output=True, timeout=60)


if __name__ == "__main__":
    sys.exit(main())
