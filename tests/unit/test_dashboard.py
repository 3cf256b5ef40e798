"""The dashboard and the alerts query existing metrics, and each alert links to a section that says what to do."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from services.auth import metrics as auth_metrics
from services.common.concurrency import batch
from services.common.rpc import interceptors
from services.common.rpc.multiplex import client as multiplex_client
from services.common.telemetry import log
from services.gateway import metrics as gateway_metrics
from services.inference import metrics as inference_metrics
from services.quota import metrics as quota_metrics
from tools.dashboard import definition, promql

_ROOT = Path(__file__).parents[2]
_METRICS = (auth_metrics, gateway_metrics, quota_metrics, inference_metrics, batch, interceptors, multiplex_client, log)
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
_OF_SCRAPING = {"container", "pod", "instance", "job", "namespace"}
"""Labels that Prometheus' operator adds to every scrape target."""

QUERIES = [
    *((f"panel {panel.title}", query.expression) for panel in definition.panels() for query in panel.queries),
    *((f"alert {alert.name}", alert.expression) for alert in definition.alerts()),
]


def _series() -> dict[str, set[str]]:
    """Return the labels of every series that our services export, by its name."""
    found: dict[str, set[str]] = {}
    for module in _METRICS:
        for metric in (one for one in vars(module).values() if isinstance(one, MetricWrapperBase)):
            (family,) = metric.describe()
            for suffix in _SUFFIXES[family.type]:
                found[family.name + suffix] = {*metric._labelnames, *(("le",) if suffix == "_bucket" else ())}
    return found


def _of_processes() -> dict[str, set[str]]:
    """Return the series that every Python program exports."""
    samples = (sample for family in REGISTRY.collect() for sample in family.samples)
    return {sample.name: set(sample.labels) for sample in samples if sample.name.startswith(("process_", "python_"))}


@pytest.mark.parametrize(("name", "query"), QUERIES, ids=[name for name, _ in QUERIES])
def test_every_metric_and_label_that_a_query_names_exists(name: str, query: str) -> None:
    series = _series() | _of_processes()
    named = promql.metrics(query)
    assert named, "no metric was found in it: the parser of queries is broken"
    assert named - series.keys() == set()
    assert promql.labels(query) - set().union(*(series[one] for one in named)) - _OF_SCRAPING == set()


@pytest.mark.parametrize("panel", list(definition.panels()), ids=lambda panel: panel.title)
def test_a_legend_names_only_labels_that_the_query_keeps(panel: definition.Panel) -> None:
    for query in panel.queries:
        assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= promql.labels(query.expression)


def test_panels_have_ids_and_places_of_their_own() -> None:
    panels = json.loads((definition.COMPONENT / "dashboard.json").read_text())["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len({panel["id"] for panel in panels}) == len(set(places)) == len(panels)


def test_every_metric_of_the_product_is_on_the_dashboard() -> None:
    shown = {
        name for panel in definition.panels() for query in panel.queries for name in promql.metrics(query.expression)
    }
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in _series()}
    assert families - {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown} == set()


@pytest.mark.parametrize("alert", list(definition.alerts()), ids=lambda alert: alert.name)
def test_every_alerts_runbook_links_to_a_section(alert: definition.Alert) -> None:
    page, _, anchor = alert.runbook.rpartition(" ")[2].partition("#")
    headings = re.findall(r"^#+ (.+)$", (_ROOT / page).read_text(), flags=re.MULTILINE)
    assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("query", "metrics", "labels"),
    [
        ('sum by (a, b) (rate(m_total{c=~"x.*",d!="e f"}[5m])) / sum(n) > 0.5', {"m_total", "n"}, set("abcd")),
        ("histogram_quantile(0.99, sum by (le) (rate(m_bucket[$__rate_interval])))", {"m_bucket"}, {"le"}),
        ("time() - max(m) > 300 or absent(m)", {"m"}, set()),
        ("a / on (x) group_left (y) b unless c offset 5m", {"a", "b", "c", "5m"} - {"5m"}, {"x", "y"}),
    ],
)
def test_queries_are_parsed_like_prometheus_does(query: str, metrics: set[str], labels: set[str]) -> None:
    assert (promql.metrics(query), promql.labels(query)) == (metrics, labels)
