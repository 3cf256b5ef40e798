"""Services, and their clients: Ingresses and gRPC targets."""

import re
from collections.abc import Iterator

from services.gateway.settings import GatewaySettings
from tools.manifests.objects import Object, Objects, title

_NGINX = "nginx.ingress.kubernetes.io/proxy-"
_TARGET = re.compile(r"dns:///([a-z0-9-]+):(\d+)")


def endpoints(objects: Objects) -> Iterator[str]:
    """A Service selects one workload, and each of its ports leads to one that the pods declare."""
    for service in objects.of("Service"):
        spec = service["spec"]
        selected = objects.selected(spec["selector"])
        if len(selected) != 1:
            yield f"{title(service)}: selects {len(selected)} workloads"
            continue
        for port in spec["ports"]:
            target = port.get("targetPort", port["port"])
            number = selected[0].ports.get(target) if isinstance(target, str) else target
            if number not in selected[0].ports.values():
                yield f"{title(service)}: no pod listens on {target}"
            elif spec.get("clusterIP") == "None" and number != port["port"]:
                yield f"{title(service)}: is headless, so its port must be the pods' own, {number}"


def ingresses(objects: Objects) -> Iterator[str]:
    """Each path of an Ingress leads to a port of a Service."""
    for ingress in objects.of("Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                if not _has_port(objects.find("Service", backend["name"]), backend["port"]):
                    yield f"{title(ingress)}: there is no Service {backend['name']} with this port"


def _has_port(service: Object | None, wanted: Object) -> bool:
    ports = (service or {"spec": {"ports": []}})["spec"]["ports"]
    return any(wanted.items() <= {"name": one["name"], "number": one["port"]}.items() for one in ports)


def proxies(objects: Objects) -> Iterator[str]:
    """An Ingress leaves the refusal of large bodies to the gateway, has the gateway's time-out, and buffers nothing."""
    defaults = GatewaySettings()
    for ingress in objects.of("Ingress"):
        reported = {key.removeprefix(_NGINX): text for key, text in ingress["metadata"].get("annotations", {}).items()}
        if int(reported.get("body-size", "1m").removesuffix("m")) * 2**20 <= defaults.body_bytes_max:
            yield f"{title(ingress)}: refuses bodies that the gateway would accept or refuse itself"
        if int(reported.get("read-timeout", "60")) <= defaults.call_seconds_max:
            yield f"{title(ingress)}: has a shorter time-out than the gateway"
        if reported.get("buffering") != "off":
            yield f"{title(ingress)}: buffers streams"


def targets(objects: Objects) -> Iterator[str]:
    """A gRPC target is a headless Service: only then do callers resolve, and balance over, every replica."""
    for workload in objects.workloads():
        for container in workload.containers:
            for name, value in objects.environment(container).items():
                if name.endswith("_TARGET"):
                    yield from (f"{workload.title}: {name} {problem}" for problem in _of_target(objects, value))


def _of_target(objects: Objects, value: str) -> Iterator[str]:
    found = _TARGET.fullmatch(value)
    if not found:
        yield f"is not dns:///service:port but {value}"
        return
    service = objects.find("Service", found[1])
    if service is None or int(found[2]) not in [one["port"] for one in service["spec"]["ports"]]:
        yield f"names no Service with such a port: {value}"
    elif service["spec"].get("clusterIP") != "None":
        yield f"names a Service that is not headless: {value}"


def stateful_sets(objects: Objects) -> Iterator[str]:
    """A StatefulSet names a headless Service of its own."""
    for one in objects.of("StatefulSet"):
        service = objects.find("Service", one["spec"]["serviceName"])
        if service is None or service["spec"].get("clusterIP") != "None":
            yield f"{title(one)}: there is no headless Service {one['spec']['serviceName']}"


CHECKS = (endpoints, ingresses, proxies, targets, stateful_sets)
