"""Replicas: autoscalers, disruption budgets, spread, roll-outs, and the termination grace period."""

from collections.abc import Iterator

from services.common.runtime.settings import ServiceSettings
from tools.manifests.objects import NAME, Objects, Workload, title

_DEFAULTS = ServiceSettings()
_AFTERWARDS_SECONDS = 10
"""Time for the last rows and settles, and for the process to end."""


def autoscalers(objects: Objects) -> Iterator[str]:
    """An autoscaler has valid bounds, and its target does not set a number of replicas."""
    for one in objects.of("HorizontalPodAutoscaler"):
        spec = one["spec"]
        if not 1 <= spec["minReplicas"] <= spec["maxReplicas"]:
            yield f"{title(one)}: minReplicas is greater than maxReplicas"
        target = objects.find(spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
        if target is None:
            yield f"{title(one)}: its target does not exist"
        elif "replicas" in target["spec"]:
            yield f"{title(one)}: {title(target)} sets replicas too, so every apply would undo its work"


def budgets(objects: Objects) -> Iterator[str]:
    """A budget has one bound, selects one workload, and allows one disruption at the smallest number of replicas."""
    for one in objects.of("PodDisruptionBudget"):
        spec, selected = one["spec"], objects.selected(one["spec"]["selector"]["matchLabels"])
        if ("minAvailable" in spec) == ("maxUnavailable" in spec):
            yield f"{title(one)}: must have one of minAvailable and maxUnavailable"
        if len(selected) != 1:
            yield f"{title(one)}: selects {len(selected)} workloads"
        elif spec.get("maxUnavailable", 1) == 0 or spec.get("minAvailable", 0) >= _least(objects, selected[0]):
            yield f"{title(one)}: allows no disruption, so no node can be drained"


def budgets_exist(objects: Objects) -> Iterator[str]:
    """Every server has a budget; each store has only one pod, and a budget could only block its eviction."""
    with_budget = {one["spec"]["selector"]["matchLabels"].get(NAME) for one in objects.of("PodDisruptionBudget")}
    for workload in _serving(objects):
        if workload.name not in with_budget:
            yield f"{workload.title}: has no PodDisruptionBudget"


def _least(objects: Objects, workload: Workload) -> int:
    scalers = [
        one["spec"]["minReplicas"]
        for one in objects.of("HorizontalPodAutoscaler")
        if one["spec"]["scaleTargetRef"]["name"] == workload.name
    ]
    return int(min(scalers, default=workload.object["spec"].get("replicas", 1)))


def _serving(objects: Objects) -> Iterator[Workload]:
    """Yield the Deployments of servers."""
    return (one for one in objects.workloads() if one.kind == "Deployment" and one.ports)


def roll_outs(objects: Objects) -> Iterator[str]:
    """A roll-out removes no replica before its successor is ready, and replicas are spread over nodes."""
    for workload in _serving(objects):
        strategy = workload.object["spec"].get("strategy", {}).get("rollingUpdate", {})
        if strategy.get("maxUnavailable") != 0:
            yield f"{workload.title}: a roll-out removes replicas before others are ready"
        spread = {one["topologyKey"]: one for one in workload.pod.get("topologySpreadConstraints", ())}
        if "kubernetes.io/hostname" not in spread:
            yield f"{workload.title}: its replicas may all be on one node"
        if any(not one["labelSelector"]["matchLabels"].items() <= workload.labels.items() for one in spread.values()):
            yield f"{workload.title}: spreads other pods than its own"


def grace_periods(objects: Objects) -> Iterator[str]:
    """A pod's termination grace period exceeds its service's drain time."""
    for workload in _serving(objects):
        environment = objects.environment(workload.containers[0])
        drain = float(environment.get("DRAIN_SECONDS", _DEFAULTS.drain_seconds))
        grace = float(environment.get("GRACE_SECONDS", _DEFAULTS.grace_seconds))
        if workload.pod.get("terminationGracePeriodSeconds", 30) < drain + grace + _AFTERWARDS_SECONDS:
            yield f"{workload.title}: is killed before it has drained ({drain + grace:.0f} s)"


CHECKS = (autoscalers, budgets, budgets_exist, roll_outs, grace_periods)
