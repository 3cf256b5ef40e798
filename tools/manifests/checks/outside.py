"""NetworkPolicies for traffic outside the namespace: DNS, Groq, the operator's own stores and mail, scraping,
traces.

Each policy has the name of its workload (network.py checks it), except `allow-dns` and `deny-all`.
"""

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from tools.manifests.checks.network import is_restricted
from tools.manifests.objects import Object, Objects, Workload, title

_DIALLED: Mapping[str, frozenset[int]] = {
    "GROQ_API_KEYS": frozenset({443}),
    "AUTH_DATABASE_URL": frozenset({5432}),
    "INFERENCE_DATABASE_URL": frozenset({5432}),
    "QUOTA_REDIS_URL": frozenset({6379}),
    "INFERENCE_REDIS_URL": frozenset({6379}),
    "AUTH_SMTP_URL": frozenset({465, 587}),
}
"""Variables that name something outside if they come from the operator's Secret, and the ports to connect to."""

_HTTPS = 443
_NEVER_GROQ = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"}
_NAMESPACE = "kubernetes.io/metadata.name"
_RESOLVERS = ({_NAMESPACE: "kube-system"}, {"k8s-app": "kube-dns"})
_SCRAPERS = {_NAMESPACE: "monitoring"}
_COLLECTOR = ({_NAMESPACE: "monitoring"}, {"app.kubernetes.io/name": "opentelemetry-collector"})
_TRACED_TO = "OTEL_EXPORTER_OTLP_ENDPOINT"
_UNTRACED = ("operator-console",)
"""Deployments that handle no requests of users, which are what traces show."""
_METRICS = "metrics"
"""Name of the scraped port, in every pod."""


def names(objects: Objects) -> Iterator[str]:
    """Where everything is denied, each pod may still use DNS, at the cluster's resolver only."""
    policies = list(objects.of("NetworkPolicy"))
    for workload in objects.workloads() if is_restricted(objects) else ():
        asked = {port for one in policies if _selects(one, workload) for port in _resolver_ports(one)}
        if asked != {("UDP", 53), ("TCP", 53)}:
            yield f"{workload.title}: may not use DNS over UDP and TCP, or may do more than that"


def _selects(policy: Object, workload: Workload) -> bool:
    return bool(policy["spec"]["podSelector"].get("matchLabels", {}).items() <= workload.labels.items())


def _resolver_ports(policy: Object) -> Iterator[tuple[str, int]]:
    for rule in policy["spec"].get("egress", ()):
        if any(_labels(peer) == _RESOLVERS for peer in rule.get("to", ())):
            yield from ((port["protocol"], port["port"]) for port in rule["ports"])


def _labels(peer: Object) -> tuple[object, object]:
    """Return the namespace labels and the pod labels of a peer."""
    return peer.get("namespaceSelector", {}).get("matchLabels"), peer.get("podSelector", {}).get("matchLabels")


def egress(objects: Objects) -> Iterator[str]:
    """Egress from the cluster is what the configuration needs, on the necessary ports, and nothing else."""
    for policy in objects.of("NetworkPolicy"):
        wanted, allowed = _wanted(objects, policy["metadata"]["name"]), set(_allowed(policy))
        yield from (f"{title(policy)}: blocks calls to the outside on port {port}" for port in sorted(wanted - allowed))
        yield from (f"{title(policy)}: allows calls to any address, port {port}" for port in sorted(allowed - wanted))


def _wanted(objects: Objects, name: str) -> set[int]:
    found: set[int] = set()
    for workload in objects.workloads():
        if workload.labels["app.kubernetes.io/name"] == name:
            for container in workload.containers:
                values = objects.environment(container).items()
                found.update(*(_DIALLED.get(key, ()) for key, value in values if value.startswith("secret:")))
    return found


def _allowed(policy: Object) -> Iterator[int]:
    """Yield the ports of rules without pods; 0 stands for all ports."""
    for rule in policy["spec"].get("egress", ()):
        if not any("podSelector" in peer for peer in rule.get("to", ())):
            yield from (port["port"] for port in rule.get("ports", [{"port": 0}]))


def groq(objects: Objects) -> Iterator[str]:
    """HTTPS is allowed to public addresses only: never to those of a cluster or the cloud's metadata service."""
    for policy in objects.of("NetworkPolicy"):
        for rule in policy["spec"].get("egress", ()):
            if _HTTPS in [port["port"] for port in rule.get("ports", ())]:
                blocks = [peer.get("ipBlock", {}) for peer in rule.get("to", [{}])]
                if any(not _is_public(block) for block in blocks):
                    yield f"{title(policy)}: allows HTTPS to addresses that are not public"


def _is_public(block: Object) -> bool:
    if ":" in block.get("cidr", ""):
        return "fc00::/7" in block.get("except", ())
    return set(block.get("except", ())) >= _NEVER_GROQ


def namespaces(objects: Objects) -> Iterator[str]:
    """In other namespaces, only the resolver and a configured trace collector are called; only the scraper may
    connect, to metrics.
    """
    for policy in objects.of("NetworkPolicy"):
        known = [_RESOLVERS, *([_COLLECTOR] if policy["metadata"]["name"] in _traced(objects) else [])]
        for rule in policy["spec"].get("egress", ()):
            foreign = [peer for peer in rule.get("to", ()) if "namespaceSelector" in peer]
            if any(_labels(peer) not in known for peer in foreign):
                yield f"{title(policy)}: allows calls to another namespace"
        ports = {port["port"] for port in _scraped(policy)}
        strange = ports - {one.ports.get(_METRICS) for one in objects.workloads() if _selects(policy, one)}
        yield from (f"{title(policy)}: allows calls from another namespace to port {port}" for port in sorted(strange))


def _traced(objects: Objects) -> dict[str, str]:
    """Return the trace endpoint of each service that has one."""
    environments = {one.name: objects.environment(one.containers[0]) for one in _serving(objects)}
    return {name: one[_TRACED_TO] for name, one in environments.items() if _TRACED_TO in one}


def _serving(objects: Objects) -> Iterator[Workload]:
    return (one for one in objects.workloads() if one.kind == "Deployment" and one.ports)


def _scraped(policy: Object) -> Iterator[Object]:
    for rule in policy["spec"].get("ingress", ()):
        if any("namespaceSelector" in peer for peer in rule.get("from", ())):
            yield from rule["ports"]


def ingress(objects: Objects) -> Iterator[str]:
    """Only the gateway accepts connections from everywhere, and only over HTTP."""
    for policy in objects.of("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", ()):
            is_gateway_http = policy["metadata"]["name"] == "gateway" and [port["port"] for port in rule["ports"]] == [
                8080
            ]
            if _is_open(rule) and not is_gateway_http:
                yield f"{title(policy)}: allows calls from everywhere"


def _is_open(rule: Object) -> bool:
    """Whether a rule names no peer, or every namespace."""
    peers = rule.get("from", ())
    return not peers or any(peer.get("namespaceSelector") == {} for peer in peers)


def scraping(objects: Objects) -> Iterator[str]:
    """Where pods are scraped, each pod with a metrics port allows the scraper."""
    if not any(True for _ in objects.of("PodMonitor")) or not is_restricted(objects):
        return
    for workload in objects.workloads():
        port = workload.ports.get(_METRICS)
        policies = [one for one in objects.of("NetworkPolicy") if _selects(one, workload)]
        if port and not any(_allows_scraping(one, port) for one in policies):
            yield f"{workload.title}: may not be scraped on port {port}"


def _allows_scraping(policy: Object, port: int) -> bool:
    return any(
        _labels(peer) == (_SCRAPERS, None) and port in [one["port"] for one in rule["ports"]]
        for rule in policy["spec"].get("ingress", ())
        for peer in rule.get("from", ())
    )


def traces(objects: Objects) -> Iterator[str]:
    """Where traces are sent, every service sends them to the same collector, since each trace spans all services."""
    traced = _traced(objects)
    for workload in _serving(objects) if traced else ():
        if workload.name not in _UNTRACED and traced.get(workload.name) != traced.get("gateway"):
            yield f"{workload.title}: sends its traces elsewhere than the gateway, or nowhere"


def collector(objects: Objects) -> Iterator[str]:
    """Services with traces may connect to the collector, on the port of its address."""
    for name, address in _traced(objects).items():
        policy, port = objects.find("NetworkPolicy", name), urlsplit(address).port
        if policy and port not in _collector_ports(policy):
            yield f"{title(policy)}: blocks traces to the collector's port {port}"


def _collector_ports(policy: Object) -> set[int]:
    rules = [one for one in policy["spec"].get("egress", ()) if _COLLECTOR in map(_labels, one.get("to", ()))]
    return {port["port"] for rule in rules for port in rule["ports"]}


CHECKS = (names, egress, groq, namespaces, ingress, scraping, traces, collector)
