"""Pods: names, selectors, ports, resources and mounts."""

import re
from collections.abc import Iterator

from tools.manifests.objects import Objects, Workload, title

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PORT_NAME = re.compile(r"(?=[a-z0-9-]{1,15}$)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
_PORTS = ("port", "containerPort", "targetPort", "hostPort", "nodePort", "number")
_QUANTITIES = ("cpu", "memory", "storage", "sizeLimit")
_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|Ki|Mi|Gi|Ti)?")
_ENUMS = {
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "restartPolicy": {"Always", "OnFailure", "Never"},
    "whenUnsatisfiable": {"DoNotSchedule", "ScheduleAnyway"},
    "protocol": {"TCP", "UDP", "SCTP"},
    "policyTypes": {"Ingress", "Egress"},
    "accessModes": {"ReadWriteOnce", "ReadWriteOncePod", "ReadOnlyMany", "ReadWriteMany"},
    "pathType": {"Exact", "Prefix", "ImplementationSpecific"},
    "unhealthyPodEvictionPolicy": {"AlwaysAllow", "IfHealthyBudget"},
    "fsGroupChangePolicy": {"Always", "OnRootMismatch"},
}


def names(objects: Objects) -> Iterator[str]:
    """Names must be DNS subdomains; those of Services and containers, labels; those of ports are shorter."""
    for one in objects.all:
        pattern = _LABEL if one["kind"] in ("Service", "Namespace") else _SUBDOMAIN
        if not pattern.fullmatch(one["metadata"]["name"]):
            yield f"{title(one)}: the name is not a DNS name"
    for workload in objects.workloads():
        for container in workload.containers:
            if not _LABEL.fullmatch(container["name"]):
                yield f"{workload.title}: the name of container {container['name']} is not a DNS label"
            for port in container.get("ports", ()):
                if not _PORT_NAME.fullmatch(port["name"]):
                    yield f"{workload.title}: the name of port {port['name']} is too long or invalid"


def selectors(objects: Objects) -> Iterator[str]:
    """A workload must select its own pods, and no others."""
    for workload in objects.workloads():
        wanted = workload.object["spec"].get("selector", {}).get("matchLabels", {})
        if workload.kind == "Job":
            continue
        if not wanted or not wanted.items() <= workload.labels.items():
            yield f"{workload.title}: the selector does not match the labels of its pods"
        elif len(objects.selected(wanted)) > 1:
            yield f"{workload.title}: the selector matches pods of another workload"


def port_numbers(objects: Objects) -> Iterator[str]:
    """Ports are from 1 to 65535 wherever they occur, and a pod has no duplicate numbers or names."""
    for one in objects.all:
        for key, value in _leaves(one):
            if key in _PORTS and isinstance(value, int) and not 0 < value < 65536:
                yield f"{title(one)}: port {value} cannot exist"
    for workload in objects.workloads():
        ports = [port for one in workload.containers for port in one.get("ports", ())]
        if any(len({port[key] for port in ports}) < len(ports) for key in ("containerPort", "name")):
            yield f"{workload.title}: two containers declare the same port"


def resources(objects: Objects) -> Iterator[str]:
    """CPU and memory are requested, memory is limited, and no limit is below its request."""
    for workload in objects.workloads():
        for container in workload.containers:
            where = f"{workload.title}: {container['name']}"
            asked, limits = (container.get("resources", {}).get(kind, {}) for kind in ("requests", "limits"))
            if not {"cpu", "memory"} <= asked.keys() or "memory" not in limits:
                yield f"{where} must request cpu and memory, and limit memory"
            for name in asked.keys() & limits.keys():
                least, most = quantity(asked[name]), quantity(limits[name])
                if least is not None and most is not None and least > most:
                    yield f"{where} requests more {name} than its limit"


def quantities(objects: Objects) -> Iterator[str]:
    """Amounts of CPU, memory and storage are valid, in containers, volumes and claims."""
    for one in objects.all:
        for key, value in _leaves(one):
            if key in _QUANTITIES and quantity(value) is None:
                yield f"{title(one)}: has a quantity that cannot be read: {value}"


def quantity(text: object) -> float | None:
    """Return a quantity such as `128Mi` as a number, or None when it is none."""
    found = _QUANTITY.fullmatch(str(text))
    return float(found[1]) * _UNITS[found[2] or ""] if found else None


def enumerations(objects: Objects) -> Iterator[str]:
    """Values from closed lists, which the schemas accept as any text."""
    for one in objects.all:
        for key, value in _leaves(one):
            if key in _ENUMS and value not in _ENUMS[key]:
                yield f"{title(one)}: {key} cannot be {value}"


def _leaves(node: object, key: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, key)
    else:
        yield key, node


def mounts(objects: Objects) -> Iterator[str]:
    """Each mount is a volume of the pod, mount paths are unique, and no volume is unused."""
    for workload in objects.workloads():
        volumes = {one["name"] for one in workload.pod.get("volumes", ())} | _claims(workload)
        mounted: set[str] = set()
        for container in workload.containers:
            found = container.get("volumeMounts", ())
            mounted |= {one["name"] for one in found}
            if len({one["mountPath"] for one in found}) < len(found):
                yield f"{workload.title}: {container['name']} mounts two volumes at one path"
        yield from (f"{workload.title}: {name} is mounted but not a volume" for name in sorted(mounted - volumes))
        yield from (f"{workload.title}: volume {name} is mounted nowhere" for name in sorted(volumes - mounted))


def _claims(workload: Workload) -> set[str]:
    return {one["metadata"]["name"] for one in workload.object["spec"].get("volumeClaimTemplates", ())}


CHECKS = (names, selectors, port_numbers, resources, quantities, enumerations, mounts)
