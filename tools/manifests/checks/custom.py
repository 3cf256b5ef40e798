"""Kinds without a schema in Kubernetes: certificates, their issuers, and monitors."""

from collections.abc import Iterator

from services.common.rpc.tls import identity
from tools.manifests.objects import Object, Objects, Workload, title

_METRICS = "_METRICS_LISTEN"
_MONITORING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
_SEVERITIES = {"critical", "warning"}


def certificates(objects: Objects) -> Iterator[str]:
    """Each has an existing issuer and its own Secret, and is renewed well before it expires."""
    secrets: set[str] = set()
    for one in objects.of("Certificate"):
        spec = one["spec"]
        if objects.find(spec["issuerRef"]["kind"], spec["issuerRef"]["name"]) is None:
            yield f"{title(one)}: its issuer does not exist"
        if spec["secretName"] in secrets:
            yield f"{title(one)}: its Secret is another certificate's"
        secrets.add(spec["secretName"])
        duration, before = (int(spec[name].removesuffix("h")) for name in ("duration", "renewBefore"))
        if not 0 < before <= duration // 2:
            yield f"{title(one)}: is renewed too early or too late"
        if spec.get("isCA") and spec["privateKey"].get("rotationPolicy") != "Never":
            yield f"{title(one)}: gets a new key on renewal, so earlier certificates are no longer trusted"


def issuers(objects: Objects) -> Iterator[str]:
    """An issuer signs with a Secret that the certificate of an authority fills."""
    authorities = {one["spec"]["secretName"] for one in objects.of("Certificate") if one["spec"].get("isCA")}
    for one in objects.of("Issuer"):
        if "ca" in one["spec"] and one["spec"]["ca"]["secretName"] not in authorities:
            yield f"{title(one)}: no authority's certificate fills its Secret"


def identities(objects: Objects) -> Iterator[str]:
    """With mTLS, each pod presents the certificate of its own name, valid for client and server authentication."""
    if not any(True for _ in objects.of("Certificate")):
        return
    by_secret = {one["spec"]["secretName"]: one["spec"] for one in objects.of("Certificate")}
    for workload in objects.workloads():
        if workload.kind != "Deployment":
            continue
        volumes = {one["secret"]["secretName"] for one in workload.pod["volumes"] if "secret" in one}
        names = {name for secret in volumes for name in by_secret.get(secret, {}).get("dnsNames", ())}
        if names != {identity(workload.name)}:
            yield f"{workload.title}: shows {sorted(names) or 'no certificate'}, not {identity(workload.name)}"
        usages = {usage for secret in volumes for usage in by_secret.get(secret, {}).get("usages", ())}
        if not {"client auth", "server auth"} <= usages:
            yield f"{workload.title}: its certificate cannot be used by a client and a server"


def scraped(objects: Objects) -> Iterator[str]:
    """A monitor's port is declared by the selected pods, and every service with metrics allows scraping."""
    for one in objects.of("PodMonitor"):
        selected = objects.selected(one["spec"]["selector"]["matchLabels"])
        for endpoint in one["spec"]["podMetricsEndpoints"]:
            if not any(endpoint["port"] in workload.ports for workload in selected):
                yield f"{title(one)}: no selected pod has a port named {endpoint['port']}"
            for workload in selected:
                yield from _unscraped(objects, workload, endpoint["port"])


def _unscraped(objects: Objects, workload: Workload, port: str) -> Iterator[str]:
    serves = {name for one in workload.containers for name in objects.environment(one) if name.endswith(_METRICS)}
    if serves and port not in workload.ports:
        yield f"{workload.title}: serves metrics and has no port named {port}"
    policy = objects.find("NetworkPolicy", workload.name)
    if serves and policy is not None and not _allows_ingress(policy, workload.ports.get(port)):
        yield f"{workload.title}: its NetworkPolicy does not allow the namespace monitoring to scrape it"


def _allows_ingress(policy: Object, port: int | None) -> bool:
    return any(
        _MONITORING in rule.get("from", ()) and [one["port"] for one in rule["ports"]] == [port]
        for rule in policy["spec"].get("ingress", ())
    )


def alerts(objects: Objects) -> Iterator[str]:
    """Each alert has a severity, a description, and one line with the remedy and a link to the runbook's section."""
    for one in objects.of("PrometheusRule"):
        for rule in (rule for group in one["spec"]["groups"] for rule in group["rules"]):
            name, annotations = rule["alert"], rule.get("annotations", {})
            if rule.get("labels", {}).get("severity") not in _SEVERITIES:
                yield f"{title(one)}: {name} has no severity of {sorted(_SEVERITIES)}"
            if not annotations.get("summary"):
                yield f"{title(one)}: {name} has no summary"
            runbook = annotations.get("runbook", "")
            if "\n" in runbook or not runbook.endswith(f": docs/operations.md#{name.lower()}"):
                yield f"{title(one)}: {name} has no runbook of one line that ends with its section of the guide"


CHECKS = (certificates, issuers, identities, scraped, alerts)
