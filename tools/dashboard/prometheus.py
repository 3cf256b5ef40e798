"""A real Prometheus, Debian's, that scrapes a stack and evaluates its alert rules."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from services.local.supervisor import ready
from services.local.supervisor.child import die_with_parent
from tools.dashboard import definition

SCRAPE_SECONDS = 2
RATE_INTERVAL = "15s"
"""The value of Grafana's `$__rate_interval` here: several scrapes."""
_STOP_SECONDS = 20

Series = list[tuple[dict[str, str], list[tuple[float, float]]]]
"""Labels, and times with values, of each line."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def lines(self, expression: str, *, start: float, end: float) -> Series:
        """Return the series of a panel's query between two moments, in seconds since 1970."""
        asked = {"query": expression.replace("$__rate_interval", RATE_INTERVAL), "step": str(SCRAPE_SECONDS)}
        answer = self._ask("query_range", {**asked, "start": str(start), "end": str(end)})
        return [(one["metric"], [(at, float(value)) for at, value in one["values"]]) for one in answer["result"]]

    def targets(self) -> dict[str, str]:
        """Return the health of all scrape targets, by container."""
        return {one["labels"]["container"]: one["health"] for one in self._ask("targets", {})["activeTargets"]}

    def rules(self) -> list[dict[str, Any]]:
        """Return the alert rules, each with its health and state."""
        return [rule for group in self._ask("rules", {})["groups"] for rule in group["rules"]]

    def _ask(self, what: str, asked: Mapping[str, str]) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{what}", params=dict(asked), trust_env=False, timeout=10)
        body = answer.json()
        if body["status"] != "success":
            raise RuntimeError(f"Prometheus refuses {what} {dict(asked)}: {body['error']}")
        return body["data"]


@contextmanager
def running_prometheus(folder: Path, port: int, targets: Mapping[str, int]) -> Iterator[Prometheus]:
    """Run one for the block, scraping each service's port under the label that its container has in a cluster."""
    rules, config = folder / "rules.yml", folder / "prometheus.yml"
    rules.write_text(yaml.safe_dump(definition.rule_groups()))
    config.write_text(yaml.safe_dump(_config(rules, targets)))
    address = f"127.0.0.1:{port}"
    options = (f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}")
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *options], stdout=log, stderr=log, preexec_fn=die_with_parent)
    try:
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(timeout=_STOP_SECONDS)


async def until_ready(prometheus: Prometheus) -> None:
    """Return when it answers."""
    await ready.until(lambda: ready.http_answers(f"{prometheus.url}/-/ready"))


def check_rules(folder: Path) -> str:
    """Return promtool's verdict on the alert rules.

    Raises:
        RuntimeError: It finds a fault.
    """
    rules = folder / "checked.yml"
    rules.write_text(yaml.safe_dump(definition.rule_groups()))
    done = subprocess.run(["promtool", "check", "rules", str(rules)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"promtool: {done.stdout}{done.stderr}")
    return done.stdout.strip().splitlines()[-1].strip()


def _config(rules: Path, targets: Mapping[str, int]) -> dict[str, Any]:
    pace = f"{SCRAPE_SECONDS}s"
    scraped = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"container": name, "pod": f"{name}-0"}}
        for name, port in targets.items()
    ]
    return {
        "global": {"scrape_interval": pace, "evaluation_interval": pace},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "stack", "static_configs": scraped}],
    }
