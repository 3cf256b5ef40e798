"""NetworkPolicies inside the namespace: exactly the connections of the configuration, allowed at both ends.

Traffic leaving and entering the namespace is checked in outside.py.
"""

import re
from collections.abc import Iterator
from typing import Any

from tools.manifests.objects import Object, Objects, title

Connection = tuple[str, str, int]
"""Caller, callee and the callee's port."""

_ALWAYS = frozenset({"responses-redis", "operator-console"})
"""Policies that come with their component, and so also without `network-policy`. They restrict only their own pods."""

_DIALLED = re.compile(r"(?:dns:///|redis://|@)([a-z0-9-]+):(\d+)")


def is_restricted(objects: Objects) -> bool:
    """Return whether the rendering has the policies of `network-policy`."""
    return any(one["metadata"]["name"] not in _ALWAYS for one in objects.of("NetworkPolicy"))


def deny_all(objects: Objects) -> Iterator[str]:
    """Where there are policies, everything else is denied, and every pod has its own policy."""
    policies = list(objects.of("NetworkPolicy"))
    if not is_restricted(objects):
        return
    if not any(one["spec"]["podSelector"] == {} and _closes(one) for one in policies):
        yield "there are NetworkPolicies, and none denies everything"
    for workload in objects.workloads():
        if not any(_selects(one, workload.labels) for one in policies if one["spec"]["podSelector"]):
            yield f"{workload.title}: has no NetworkPolicy"


def _closes(policy: Object) -> bool:
    spec = policy["spec"]
    return set(spec["policyTypes"]) == {"Ingress", "Egress"} and not spec.get("ingress") and not spec.get("egress")


def _selects(policy: Object, labels: Any) -> bool:
    return bool(policy["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items())


def peers(objects: Objects) -> Iterator[str]:
    """Peers of a policy exist, and listen on the port."""
    for policy in objects.of("NetworkPolicy"):
        for labels, ports in _named(policy["spec"], "egress", "to"):
            found = objects.selected(labels)
            if not found:
                yield f"{title(policy)}: no pod has the labels {labels}"
            for port in ports:
                if any(port not in workload.ports.values() for workload in found):
                    yield f"{title(policy)}: no pod listens on port {port}"
        for labels, _ in _named(policy["spec"], "ingress", "from"):
            if not objects.selected(labels):
                yield f"{title(policy)}: no pod has the labels {labels}"
        yield from _own_ports(objects, policy)


def _own_ports(objects: Objects, policy: Object) -> Iterator[str]:
    """Ingress is to ports that the selected pods declare; a policy that selects no pod is a mistake."""
    labels = policy["spec"]["podSelector"].get("matchLabels")
    if labels is None:
        return
    own = objects.selected(labels)
    if not own:
        yield f"{title(policy)}: selects no pod"
    for rule in policy["spec"].get("ingress", ()):
        for port in rule["ports"]:
            if any(port["port"] not in workload.ports.values() for workload in own):
                yield f"{title(policy)}: its pods do not listen on port {port['port']}"


def _named(spec: Object, direction: str, word: str) -> Iterator[tuple[dict[str, str], list[int]]]:
    """Yield the labels of pods of this namespace in the rules, and the rules' ports."""
    for rule in spec.get(direction, ()):
        for peer in rule.get(word, ()):
            if "podSelector" in peer and "namespaceSelector" not in peer:
                yield peer["podSelector"]["matchLabels"], [port["port"] for port in rule["ports"]]


def connections(objects: Objects) -> Iterator[str]:
    """The allowed connections are exactly the configured ones, and both ends allow them."""
    if not is_restricted(objects):
        return
    wanted, going, coming = set(_wanted(objects)), set(_allowed_out(objects)), set(_allowed_in(objects))
    for allowed, end in ((going, "leave its caller"), (coming, "reach its callee")):
        yield from (f"the call {_described(one)} may not {end}" for one in sorted(wanted - allowed))
        yield from (f"the call {_described(one)} may {end}, but is not configured" for one in sorted(allowed - wanted))


def _described(connection: Connection) -> str:
    return f"{connection[0]} -> {connection[1]}:{connection[2]}"


def _wanted(objects: Objects) -> Iterator[Connection]:
    """Yield the connections in the environments; a store outside the cluster is no pod, and so has none."""
    for workload in objects.workloads():
        caller = workload.labels["app.kubernetes.io/name"]
        for container in workload.containers:
            for value in objects.environment(container).values():
                for callee, port in _DIALLED.findall(value):
                    yield caller, callee, int(port)


def _allowed_out(objects: Objects) -> Iterator[Connection]:
    for policy in objects.of("NetworkPolicy"):
        for labels, ports in _named(policy["spec"], "egress", "to"):
            yield from ((policy["metadata"]["name"], labels["app.kubernetes.io/name"], port) for port in ports)


def _allowed_in(objects: Objects) -> Iterator[Connection]:
    for policy in objects.of("NetworkPolicy"):
        for labels, ports in _named(policy["spec"], "ingress", "from"):
            yield from ((labels["app.kubernetes.io/name"], policy["metadata"]["name"], port) for port in ports)


CHECKS = (deny_all, peers, connections)
