"""Probes: on declared ports, testing whether a pod is ready or whether a restart would help."""

from collections.abc import Iterator

from services.common.rpc.health import LIVENESS
from tools.manifests.objects import Object, Objects

_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
_HANDLERS = ("exec", "grpc", "httpGet", "tcpSocket")
_QUESTIONS = {
    # A pod that waits for its schema, or drains, is alive and not ready; it must not be restarted.
    "startupProbe": {"grpc": LIVENESS, "httpGet": "/healthz"},
    "readinessProbe": {"grpc": "", "httpGet": "/readyz"},
    "livenessProbe": {"grpc": LIVENESS, "httpGet": "/healthz"},
}
_WITHOUT_PROBES = ("stackctl",)
"""Nothing calls it, and it does nothing by itself."""


def probes(objects: Objects) -> Iterator[str]:
    """A probe has one handler, on a port that its container declares; every server has all three probes."""
    for workload in objects.workloads():
        for container in workload.containers:
            if workload.kind != "Job" and container["name"] not in _WITHOUT_PROBES:
                missing = [name for name in _PROBES if name not in container]
                yield from (f"{workload.title}: {container['name']} has no {name}" for name in missing)
            for name in _PROBES:
                if name in container:
                    yield from (f"{workload.title}: {name} {problem}" for problem in _of_probe(container, name))


def _of_probe(container: Object, name: str) -> Iterator[str]:
    handlers = [one for one in _HANDLERS if one in container[name]]
    if len(handlers) != 1:
        yield f"has {len(handlers)} handlers"
        return
    port = container[name][handlers[0]].get("port")
    declared = [one["containerPort"] for one in container.get("ports", ())]
    # The kubelet accepts port names for HTTP and TCP, never for gRPC; numbers are always valid.
    if handlers[0] != "exec" and port not in declared:
        yield f"probes port {port}, which is not the number of a declared port"


def targets(objects: Objects) -> Iterator[str]:
    """Liveness depends on the process only; readiness also on what the pod waits for."""
    for workload in objects.workloads():
        for container in workload.containers:
            for name in _PROBES:
                wanted, probe = _QUESTIONS[name], container.get(name, {})
                asked = {
                    "grpc": probe.get("grpc", {}).get("service", ""),
                    "httpGet": probe.get("httpGet", {}).get("path"),
                }
                yield from (
                    f"{workload.title}: {name} probes {asked[kind]!r} and should probe {wanted[kind]!r}"
                    for kind in asked.keys() & probe.keys()
                    if asked[kind] != wanted[kind]
                )


CHECKS = (probes, targets)
