"""Autoscalers that follow metrics of their target: a metric that is never exported prevents scaling down."""

from collections.abc import Iterator, Mapping
from types import ModuleType

from prometheus_client import Gauge

from services.common.rpc import interceptors
from services.gateway import metrics as gateway_metrics
from services.inference import metrics as inference_metrics
from services.inference.settings import InferenceSettings
from services.quota import metrics as quota_metrics
from tools.manifests.checks.pods import quantity
from tools.manifests.objects import Object, Objects, Workload, title

_METRICS_OF: Mapping[str, tuple[ModuleType, ...]] = {
    "gateway": (gateway_metrics,),
    "auth": (interceptors,),
    "quota": (interceptors, quota_metrics),
    "inference": (interceptors, inference_metrics),
}
"""The modules with the metrics of each service."""
_CPU = ("Resource", "cpu")


def cpu_use(objects: Objects) -> Iterator[str]:
    """Every autoscaler follows CPU use in addition to other metrics: a replica without a free core is slow."""
    for one in objects.of("HorizontalPodAutoscaler"):
        if _CPU not in [(metric["type"], metric.get("resource", {}).get("name")) for metric in one["spec"]["metrics"]]:
            yield f"{title(one)}: does not follow CPU use"


def exported(objects: Objects) -> Iterator[str]:
    """A pods metric is a gauge exported by the target's own code: the average of a counter would only ever grow."""
    for one, target, metric in _of_pods(objects):
        name = metric["metric"]["name"]
        if name not in _gauges(target.name):
            yield f"{title(one)}: {target.title} exports no gauge {name}"


def _of_pods(objects: Objects) -> Iterator[tuple[Object, Workload, Object]]:
    """Yield autoscalers, their targets, and each pods metric that they follow."""
    workloads = {one.name: one for one in objects.workloads() if one.kind == "Deployment"}
    for one in objects.of("HorizontalPodAutoscaler"):
        target = workloads.get(one["spec"]["scaleTargetRef"]["name"])
        for metric in one["spec"]["metrics"] if target else ():
            if metric["type"] == "Pods" and target:
                yield one, target, metric["pods"]


def _gauges(service: str) -> set[str]:
    members = (one for module in _METRICS_OF.get(service, ()) for one in vars(module).values())
    return {family.name for one in members if isinstance(one, Gauge) for family in one.describe()}


def scraped(objects: Objects) -> Iterator[str]:
    """A pods metric is scraped: a monitor selects the target's pods, by one of their ports."""
    monitors = [one["spec"] for one in objects.of("PodMonitor")]
    for one, target, _ in _of_pods(objects):
        if not any(_selects(monitor, target) for monitor in monitors):
            yield f"{title(one)}: no PodMonitor scrapes {target.title}"


def _selects(monitor: Object, target: Workload) -> bool:
    is_selected = monitor["selector"]["matchLabels"].items() <= target.labels.items()
    return is_selected and any(one["port"] in target.ports for one in monitor["podMetricsEndpoints"])


def in_time(objects: Objects) -> Iterator[str]:
    """Inference gets another replica before one is full: requests without a slot are refused, so they are not in
    flight.
    """
    for one, target, metric in _of_pods(objects):
        most = quantity(metric["target"]["averageValue"]) or 0
        if target.name == "inference" and most >= _slots(objects, target):
            yield f"{title(one)}: gets another replica only when its replicas are full"


def _slots(objects: Objects, inference: Workload) -> float:
    default = InferenceSettings.model_fields["concurrency_max"].default
    return float(objects.environment(inference.containers[0]).get("INFERENCE_CONCURRENCY_MAX", default))


CHECKS = (cpu_use, exported, scraped, in_time)
