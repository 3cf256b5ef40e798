"""The dashboard and the alert rules as they are deployed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

COMPONENT = Path(__file__).parents[2] / "deploy" / "k8s" / "components" / "monitoring"


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel."""

    expression: str
    """PromQL, with Grafana's `$__rate_interval` in it."""
    legend: str
    """The name of its lines, with `{{label}}` in it."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart."""

    row: str
    """Title of its row."""
    title: str
    description: str
    unit: str
    """Grafana's name of the unit, such as `s` or `reqps`."""
    queries: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert rule."""

    name: str
    expression: str
    runbook: str
    """One line that ends with a section of docs/operations.md."""


def panels() -> Iterator[Panel]:
    """Yield the dashboard's charts in their order."""
    row = ""
    for one in json.loads((COMPONENT / "dashboard.json").read_text())["panels"]:
        if one["type"] == "row":
            row = one["title"]
            continue
        queries = tuple(Query(target["expr"], target["legendFormat"]) for target in one["targets"])
        yield Panel(row, one["title"], one["description"], one["fieldConfig"]["defaults"]["unit"], queries)


def rule_groups() -> dict[str, Any]:
    """Return the alert rules in Prometheus' own file format."""
    resource = yaml.safe_load((COMPONENT / "rules.yaml").read_text())
    return {"groups": resource["spec"]["groups"]}


def alerts() -> Iterator[Alert]:
    """Yield the alert rules."""
    for group in rule_groups()["groups"]:
        for rule in group["rules"]:
            yield Alert(rule["alert"], rule["expr"], rule["annotations"]["runbook"])
